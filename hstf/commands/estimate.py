"""``hstf estimate``: time, memory and disk of an experiment, before it runs."""

import argparse
import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import hstf
from hstf.config.experiment import Config
from hstf.config.load import load_config, resolve_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.experiment.jobs import Job, Jobs
from hstf.experiment.last_run import RunEstimate
from hstf.runtime.errors import HstfError
from hstf.runtime.texts import duration, gigabytes, text_table
from hstf.stages.plan.cost_basis import estimated, this_machine
from hstf.stages.plan.costs import Costs, Machine

PRESET = Path("config") / "presets" / "cpu.yaml"
LONG_SECONDS = 3600.0
"""The preset is offered for runs without a GPU that take longer."""
WORTH = 2.0
"""The preset is offered if it is at least so many times as fast."""
CLUSTER_CORES = 8
CLUSTER_JOBS = 50


def run(args: argparse.Namespace) -> int:
    """Print the estimate of each stage and of the whole experiment."""
    config = load_config(*args.config)
    cores = args.cores or len(os.sched_getaffinity(0))
    machine = this_machine(config, cores)
    if args.cluster:
        machine = this_machine(config, CLUSTER_CORES, CLUSTER_JOBS)
    jobs = Jobs(config)
    found = estimated(jobs, machine)
    if found is None:
        raise HstfError(
            f"{config.experiment}: neither a plan nor a scan can be read, so nothing can be"
            " estimated. 'hstf check' describes what is wrong with the scans."
        )
    costs, estimate = found
    print("\n".join(stage_table(costs)))
    print()
    print(estimate_text(jobs, machine, estimate, shlex.join(map(str, args.config))))
    return 0


def stage_table(costs: Costs) -> list[str]:
    """Return the lines of a table with the estimate of each stage."""
    rows: dict[str, list[float]] = {}
    for job in costs.jobs.all():
        if costs.jobs.root(job) == costs.jobs.layout.root:
            title = job.stage if job.round is None else f"{job.stage}, round {job.round}"
            rows.setdefault(title, []).append(costs.seconds(job))
    cells = []
    for title, seconds in rows.items():
        cells.append([title, str(len(seconds)), duration(max(seconds)), duration(sum(seconds))])
    return text_table(["stage", "jobs", "longest job", "all jobs"], cells)


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
    if found is None or found[1].seconds * WORTH > estimate.seconds:
        return []
    again = found[1]
    return [
        "  A smaller network that trains for fewer steps is made for machines without a GPU. It"
        f" takes about {duration(again.seconds)}:",
        f"      snakemake --cores {machine.cores} --configfile {files} {preset}",
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


def text_for_screen(
    jobs: Jobs,
    to_run: Sequence[Job],
    cores: int,
    cluster_jobs: int | None,
    files: Sequence[str],
) -> tuple[str, Costs | None, RunEstimate | None]:
    """Return the estimate for the start of a run.

    Args:
        jobs: all jobs of the experiment.
        to_run: the jobs of the run.
        cores: cores of Snakemake; on a cluster those of a job.
        cluster_jobs: on a cluster, the maximum number of jobs.
        files: the configuration files.

    Returns:
        A text, the costs and the estimate. The text is empty if nothing can be estimated or if no
        network is trained.
    """
    machine = this_machine(jobs.config, cores, cluster_jobs)
    try:
        found = estimated(jobs, machine, to_run=to_run)
    except Exception as error:  # an estimate never stops a run
        return f"No estimate ({type(error).__name__}: {error}).", None, None
    if found is None:
        return "", None, None
    costs, estimate = found
    if not {"warmup", "student"} & {job.stage for job in to_run}:
        return "", costs, estimate  # a few minutes
    return estimate_text(jobs, machine, estimate, shlex.join(files)), costs, estimate
