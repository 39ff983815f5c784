"""``hstf estimate``: time, memory and disk of an experiment, before it runs."""

import argparse
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hstf
from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RunEstimate
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import find_files
from hstf.runtime.texts import duration, gigabytes, text_table
from hstf.runtime.threads import own_cores
from hstf.stages.plan.comparison_costs import comparison_seconds
from hstf.stages.plan.cost_basis import estimated, this_machine
from hstf.stages.plan.costs import Costs, Machine
from hstf.stages.plan.measuring import measure
from hstf.stages.plan.speeds import store


class StageEstimate(Part):
    """What a stage is expected to take in a round."""

    stage: str
    round: int | None
    jobs: int
    longest_seconds: float
    """The longest job."""
    seconds: float
    """All jobs, one after the other."""


class EstimateDocument(Document):
    """What ``hstf estimate --json`` prints."""

    stage = "estimate"

    experiment: str
    whole: RunEstimate
    comparison_seconds: float | None
    """The experiments of the comparison or the control, in addition to ``whole``; 0 if there are
    none, None if they cannot be estimated."""
    stages: tuple[StageEstimate, ...]


PRESET = Path("config") / "presets" / "cpu.yaml"
LONG_SECONDS = 3600.0
"""The preset is offered for runs without a GPU that take longer."""
WORTH = 2.0
"""The preset is offered if it is at least so many times as fast."""
VERY_LONG_SECONDS = 24 * 3600.0
"""The keys that make a run without a GPU shorter are listed if it takes longer."""
MEASURED_SECONDS = 1800.0
"""A run that is expected to take longer measures the speed of its machine when it starts."""
TRAININGS = ("warmup", "student")
CLUSTER_CORES = 8
CLUSTER_JOBS = 50


def run(args: argparse.Namespace) -> int:
    """Print the estimate of each stage and of the whole experiment."""
    config = load_config(*args.config)
    cores = args.cores or len(own_cores())
    machine = this_machine(config, cores)
    if args.cluster:
        machine = this_machine(config, CLUSTER_CORES, CLUSTER_JOBS)
    if args.cluster and args.measure:
        raise HstfError(
            "--measure and --cluster: the speed of this machine is not that of the nodes of a"
            " cluster. Run 'hstf estimate --measure' in a job on a node, without --cluster."
        )
    jobs = Jobs(config)
    found = estimated(jobs, machine)
    if found is not None and args.measure:
        measure_and_store(found[0])
        found = estimated(jobs, machine)
    if found is None:
        raise HstfError(
            f"{config.experiment}: neither a plan nor a scan can be read, so nothing can be"
            " estimated. 'hstf check' describes what is wrong with the scans."
        )
    costs, estimate = found
    if args.json:
        estimate_document(costs, estimate).print()
        return 0
    print("\n".join(stage_table(costs)))
    print()
    known = known_machine(costs)
    print(estimate_text(jobs, known, estimate, shlex.join(map(str, args.config))))
    if text := comparison_text(jobs.config, comparison_seconds(jobs, known)):
        print(f"  {text}")
    return 0


def stage_estimates(costs: Costs) -> list[StageEstimate]:
    """Return the estimate of each stage in each round."""
    seconds: dict[tuple[str, int | None], list[float]] = {}
    for job in costs.jobs.all():
        if costs.jobs.root(job) == costs.jobs.layout.root:
            seconds.setdefault((job.stage, job.round), []).append(costs.seconds(job))
    estimates = []
    for (stage, number), of_jobs in seconds.items():
        estimates.append(
            StageEstimate(
                stage=stage,
                round=number,
                jobs=len(of_jobs),
                longest_seconds=max(of_jobs),
                seconds=sum(of_jobs),
            )
        )
    return estimates


def stage_table(costs: Costs) -> list[str]:
    """Return the lines of a table with the estimate of each stage."""
    cells = []
    for row in stage_estimates(costs):
        title = row.stage if row.round is None else f"{row.stage}, round {row.round}"
        longest = duration(row.longest_seconds)
        cells.append([title, str(row.jobs), longest, duration(row.seconds)])
    return text_table(["stage", "jobs", "longest job", "all jobs"], cells)


def estimate_document(costs: Costs, estimate: RunEstimate) -> EstimateDocument:
    """Return the estimate for programs."""
    return EstimateDocument(
        experiment=costs.jobs.config.experiment,
        whole=estimate,
        comparison_seconds=comparison_seconds(costs.jobs, known_machine(costs)),
        stages=tuple(stage_estimates(costs)),
    )


def known_machine(costs: Costs) -> Machine:
    """Return the machine with the speed with other networks that follows from a measurement."""
    measured = costs.machine.measured
    if measured is None:
        return costs.machine
    return replace(costs.machine, measured=None, speed=costs.speed_of(measured))


def estimate_text(jobs: Jobs, machine: Machine, estimate: RunEstimate, files: str) -> str:
    """Return the estimate in a few sentences, with what to do if it is long.

    Args:
        jobs: the jobs of the experiment.
        machine: the machine that computes.
        estimate: the estimate.
        files: the configuration files, for the command that is shown.
    """
    lines = [
        f"Estimate for {jobs.config.experiment} on {_machine_text(machine)}: {summary(estimate)}"
    ]
    lines.append(f"  Made {estimate.basis}.")
    lines += _disk_warning(jobs.config, estimate)
    lines += _preset_advice(jobs, machine, estimate, files)
    return "\n".join(lines)


def comparison_text(config: Config, seconds: float | None) -> str:
    """Return a sentence about the time of a comparison or of a control.

    Args:
        config: the configuration of the experiment.
        seconds: result of :func:`comparison_seconds`; the text is empty for 0.
    """
    if seconds == 0:
        return ""
    what = "The control (evaluate.control)"
    if config.compare is not None:
        count = len(config.compare.methods) * len(config.compare.seeds)
        what = f"'snakemake compare' ({count} methods and seeds, one after the other)"
    if seconds is None:
        return f"{what} cannot be estimated."
    return f"{what} takes about {duration(seconds)} more."


def summary(estimate: RunEstimate) -> str:
    """Return time, memory and disk in one sentence."""
    low = duration(estimate.seconds / estimate.factor)
    high = duration(estimate.seconds * estimate.factor)
    memory = gigabytes(estimate.memory_gb)
    disk = gigabytes(estimate.disk_gb)
    return f"about {duration(estimate.seconds)} ({low} to {high}), {memory} memory, {disk} disk."


def _machine_text(machine: Machine) -> str:
    if machine.cores_per_job is not None:
        kind = "one GPU each" if machine.has_gpu else "no GPU"
        return f"a cluster (jobs of {machine.cores_per_job} cores, {kind})"
    kind = "with a GPU" if machine.has_gpu else "without a GPU"
    return f"{machine.cores} core{'s' if machine.cores > 1 else ''} {kind}"


def _disk_warning(config: Config, estimate: RunEstimate) -> list[str]:
    folder = Path(config.output).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free > estimate.disk_gb:
        return []
    return [
        f"  Warning: only {gigabytes(free)} are free in {folder}. Set 'output:' to another disk."
    ]


def _preset_advice(jobs: Jobs, machine: Machine, estimate: RunEstimate, files: str) -> list[str]:
    """Offer the preset for machines without a GPU, if it saves much time."""
    preset = preset_file()
    if machine.has_gpu or estimate.seconds < LONG_SECONDS or preset is None:
        return []
    smaller = with_preset(jobs.config, preset)
    found = estimated(jobs, machine, smaller) if smaller is not None else None
    is_worth_it = found is not None and found[1].seconds * WORTH <= estimate.seconds
    if found is None or not is_worth_it:
        return _keys_to_lower(jobs.config) if estimate.seconds > VERY_LONG_SECONDS else []
    lines = [
        "  A smaller network that trains for fewer steps is made for machines without a GPU. It"
        f" takes about {duration(found[1].seconds)}:",
        f"      snakemake --cores {machine.cores} --configfile {files} {preset}",
    ]
    if estimate.seconds > VERY_LONG_SECONDS:
        values = read_yaml(preset)
        changed = changed_keys(values, jobs.config.model_dump(mode="json"))
        lines.append(f"  It changes {', '.join(changed)}. Copy the file to change other values.")
    return lines


def changed_keys(values: Mapping[str, Any], config: Mapping[str, Any]) -> Iterator[str]:
    """Yield each key of an overlay that changes a configuration, with both values.

    Example:
        >>> list(changed_keys({"warmup": {"steps": 400}}, {"warmup": {"steps": 2000}}))
        ['warmup.steps (2000 → 400)']
    """
    for name, value in values.items():
        now = config.get(name)
        if isinstance(value, Mapping):
            inner = changed_keys(value, now if isinstance(now, Mapping) else {})
            yield from (f"{name}.{text}" for text in inner)
        elif value != now:
            yield f"{name} ({now} → {value})"


def _keys_to_lower(config: Config) -> list[str]:
    """Name the keys that the time depends on, if the preset does not help."""
    return [
        "  The preset for machines without a GPU would not save much. The time is proportional to"
        f" warmup.steps ({config.warmup.steps}), student.steps ({config.student.steps}),"
        f" student.members ({config.student.members}) and rounds ({config.rounds});"
        " plan.max_patch_voxels and plan.base_channels make each step cheaper.",
    ]


def preset_file() -> Path | None:
    """Return the preset for machines without a GPU; None if it is not installed."""
    source = Path(hstf.__file__).resolve().parents[1] / PRESET
    for path in (PRESET, source):
        if path.is_file():
            return path
    return None


def with_preset(config: Config, preset: Path) -> Config | None:
    """Return a configuration with the preset on top; None if they do not fit together."""
    values = merge(config.model_dump(mode="json"), read_yaml(preset))
    try:
        return resolve_config(values, str(preset))
    except HstfError:
        return None


def needs_measurement(costs: Costs, estimate: RunEstimate, to_run: Sequence[Job]) -> bool:
    """Return whether a run is worth a measurement: it is long, and its speed is not known.

    Args:
        costs: of all jobs.
        estimate: of the jobs that run.
        to_run: these jobs.
    """
    machine = costs.machine
    trains = any(job.stage in TRAININGS for job in to_run)
    is_known = machine.measured is not None or machine.cores_per_job is not None
    if is_known or not trains or estimate.seconds < MEASURED_SECONDS:
        return False
    return not any(find_files(costs.jobs.layout.root, "round_*/state/*/made_by.json"))


def measure_and_store(costs: Costs) -> None:
    """Measure the speed of this machine and store it; print why if it cannot be measured."""
    print(
        "Measuring training steps and windows on this machine: about a minute…",
        file=sys.stderr,
        flush=True,
    )
    try:
        store(costs.jobs.layout.root, measure(costs))
    except HstfError as error:
        print(f"warning: nothing was measured: {error}", file=sys.stderr, flush=True)


def text_for_screen(
    jobs: Jobs,
    to_run: Sequence[Job],
    cores: int,
    cluster_jobs: int | None,
    files: Sequence[str],
    may_measure: bool = False,
) -> tuple[str, Costs | None, RunEstimate | None]:
    """Return the estimate for the start of a run.

    Args:
        jobs: all jobs of the experiment.
        to_run: the jobs of the run.
        cores: cores of Snakemake; on a cluster those of a job.
        cluster_jobs: on a cluster, the maximum number of jobs.
        files: the configuration files.
        may_measure: measure the speed of the machine first if the run is long and nothing is known
            of the speed of its trainings.

    Returns:
        A text, the costs and the estimate. The text is empty if nothing can be estimated or if no
        network is trained.
    """
    machine = this_machine(jobs.config, cores, cluster_jobs)
    try:
        found = estimated(jobs, machine, to_run=to_run)
        if may_measure and found is not None and needs_measurement(*found, to_run):
            measure_and_store(found[0])
            found = estimated(jobs, machine, to_run=to_run)
    except Exception as error:  # an estimate never stops a run
        return f"No estimate ({type(error).__name__}: {error}).", None, None
    if found is None:
        return "", None, None
    costs, estimate = found
    if not any(job.stage in TRAININGS for job in to_run):
        return "", costs, estimate  # a few minutes
    text = estimate_text(jobs, known_machine(costs), estimate, shlex.join(files))
    return text, costs, estimate


def comparison_for_screen(
    jobs: Jobs, costs: Costs | None, to_run: Mapping[str, Sequence[Job]]
) -> str:
    """Return what the jobs of a comparison take, for the start of a run.

    Args:
        jobs: all jobs of the experiment with the comparison or the control.
        costs: its costs; None if they are not known.
        to_run: the jobs of the run of each experiment of the comparison.
    """
    source = "control" if jobs.config.compare is None else "comparison"
    count = sum(len(of_experiment) for of_experiment in to_run.values())
    try:
        seconds = comparison_seconds(jobs, known_machine(costs), to_run) if costs else None
    except Exception as error:  # an estimate never stops a run
        return f"No estimate of the {source} ({type(error).__name__}: {error})."
    if seconds is None:
        return f"{count} jobs of the {source} are not in an estimate."
    return f"{count} jobs of the {source} take about {duration(seconds)} in addition."
