"""What an estimate is made from: the headers of scans, the plan, and the speed of the machine.

The best basis are steps that were measured with the network and patch of the plan
(:mod:`hstf.stages.plan.speeds`). Without them, it is the speed of earlier trainings on this
machine, and without those, the speed of typical machines: the estimate may then be wrong by a
factor of three.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from statistics import median

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.experiment.job import Job
from hstf.experiment.job_seconds import job_seconds
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RunEstimate, benchmark_of, log_of
from hstf.experiment.plan import Plan, Triple
from hstf.imaging.affines import ras_spacing
from hstf.imaging.geometry import Geometry
from hstf.imaging.volume_files import open_nifti
from hstf.runtime.errors import HstfError
from hstf.runtime.files import find_files, read_json
from hstf.runtime.gpu_lease import count_gpus
from hstf.runtime.job_logs import last_count, log_lines
from hstf.stages.plan.costs import (
    THREAD_EXPONENT,
    Costs,
    Machine,
    Scans,
    patch_operations,
    step_cost,
)
from hstf.stages.plan.decide import (
    batch_size,
    grid_shapes,
    level_channels,
    network_levels,
    patch_size,
    target_spacing,
)
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary, spread
from hstf.stages.plan.speeds import find, speed_key

MEASURED_FACTOR = 1.3
SURE_FACTOR = 1.5
UNSURE_FACTOR = 3.0
UNKNOWN_EXTERNAL = (
    "The time of the external teachers is left out: it is known as soon as they have predicted the"
    " labelled cases"
)
SCANS_READ = 20
"""Scans whose headers are read if there is no plan yet."""


def estimated(
    jobs: Jobs,
    machine: Machine,
    config: Config | None = None,
    to_run: Sequence[Job] | None = None,
    headers: Sequence[ScanSummary] | None = None,
) -> tuple[Costs, RunEstimate] | None:
    """Estimate an experiment.

    Args:
        jobs: its jobs.
        machine: the machine that computes.
        config: another configuration of the same scans, without a plan.
        to_run: the jobs that will run; None means all.
        headers: result of :func:`read_headers`; None reads them.

    Returns:
        The costs and their sum; None if neither a plan nor the scans can be read.
    """
    if config is not None:
        jobs = Jobs(config, jobs.sheet)
    if headers is None:
        headers = read_headers(jobs.config, jobs.sheet)
    if not headers:
        return None
    path = jobs.layout.plan
    try:
        is_planned = path.is_file() and config is None
        plan = Plan.load(path) if is_planned else probable_plan(jobs.config, headers)
    except HstfError:
        return None
    if machine.measured is None and machine.cores_per_job is None:
        key = speed_key(jobs.config, plan, machine.cores, machine.has_gpu)
        machine = replace(machine, measured=find(Path(jobs.config.output), key))
    external = external_seconds(jobs)
    costs = Costs(jobs, plan, scan_sizes(headers, plan), machine, external)
    basis, factor = _basis(machine, is_planned)
    if jobs.external and external is None:
        basis += f". {UNKNOWN_EXTERNAL}"
    return costs, costs.estimate(basis, factor, jobs.all() if to_run is None else to_run)


def _basis(machine: Machine, is_planned: bool) -> tuple[str, float]:
    source = "from the plan" if is_planned else f"from the headers of up to {SCANS_READ} scans"
    if machine.measured is not None:
        return f"{source} and what was measured here: {machine.measured}", MEASURED_FACTOR
    if machine.speed is not None:
        return f"{source} and the speed of earlier trainings on this machine", SURE_FACTOR
    kind = "a data-centre GPU (calculated)" if machine.has_gpu else "similar CPU cores"
    return f"{source} and the speed of {kind}; nothing was measured here yet", UNSURE_FACTOR


def read_headers(config: Config, sheet: CaseSheet) -> list[ScanSummary]:
    """Return the shapes of some labelled and unlabelled scans; empty if none can be read."""
    cases = [case for case in sheet.cases if case.split is not Split.TEST]
    found = []
    for case in spread(cases, SCANS_READ) if cases else []:
        summary = _header(config, case)
        if summary is not None:
            found.append(summary)
    if not found and config.phantom is not None:
        shape = config.phantom.size
        found.append(_summary("phantom", shape, (1.0, 1.0, 1.0)))
    return found


def _header(config: Config, case: Case) -> ScanSummary | None:
    try:
        image = open_nifti(case.images[0])
        affine = image.affine
        axes = config.preprocess.axes
        geometry = Geometry.of(image.shape[:3], affine, ras_spacing(affine, axes), axes=axes)
    except Exception:  # an estimate never stops a run; the stage check describes the problem
        return None
    return _summary(case.case_id, geometry.crop_shape, geometry.source_spacing)


def _summary(name: str, shape: Triple, spacing: tuple[float, float, float]) -> ScanSummary:
    return ScanSummary(
        case_id=name, shape=shape, spacing=spacing, orientation="RAS", cropped_shape=shape
    )


def probable_plan(config: Config, headers: Sequence[ScanSummary]) -> Plan:
    """Return the plan that the stage ``plan`` would make of these scans, without normalisation.

    Raises:
        HstfError: if the patch size of the configuration does not allow its number of levels.
    """
    fingerprint = Fingerprint(scans=tuple(headers), foreground={})
    section = config.plan
    spacing, _ = target_spacing(section, fingerprint)
    shapes = grid_shapes(fingerprint, spacing)
    patch, _ = patch_size(section, shapes, spacing)
    levels, _ = network_levels(section, patch, spacing)
    batch, _ = batch_size(section, patch, levels)
    x, y, z = (int(median(int(shape[axis]) for shape in shapes)) for axis in range(3))
    return Plan(
        spacing=spacing,
        patch_size=patch,
        batch_size=batch,
        channels=level_channels(section, levels),
        strides=levels.strides,
        kernels=levels.kernels,
        normalisation=(),
        median_shape=(x, y, z),
        reasons={},
    )


def scan_sizes(headers: Sequence[ScanSummary], plan: Plan) -> Scans:
    """Return the sizes of the scans, in their files and on the grid of a plan."""
    native = median(prod(scan.shape) for scan in headers)
    return Scans(float(prod(plan.median_shape)), float(native), plan.median_shape)


# --- speed


def external_seconds(jobs: Jobs) -> float | None:
    """Return the time (s) that the external teachers took for a labelled case.

    Returns:
        The mean over the labelled cases that they have predicted; None if there is none.
    """
    seconds = 0.0
    cases = 0
    for shard in jobs.shards_of(Split.LABELLED):
        table = jobs.layout.root / benchmark_of(Job("external_shard", part=shard).name)
        if table.is_file():
            seconds += job_seconds(table).wall
            cases += len(jobs.shards[shard])
    return seconds / cases if cases else None


def this_machine(config: Config, cores: int, cluster_jobs: int | None = None) -> Machine:
    """Describe the machine that computes.

    Args:
        config: the experiment.
        cores: cores for all jobs, or on a cluster for a job.
        cluster_jobs: on a cluster, the maximum number of jobs; None on one machine.
    """
    gpus = count_gpus()
    has_gpu = config.device != "cpu" and (gpus > 0 or cluster_jobs is not None)
    if cluster_jobs is not None:
        return Machine(cores, has_gpu, cores_per_job=cores, jobs=cluster_jobs)
    speed = measured_speed(Path(config.output), has_gpu)
    return Machine(cores, has_gpu, speed=speed, gpus=max(1, gpus))


def measured_speed(output: Path, on_gpu: bool) -> float | None:
    """Return the speed of trainings on this machine (10^9 operations per second and core or GPU).

    Args:
        output: folder of all experiments.
        on_gpu: whether trainings on a GPU count; otherwise those on the CPU.
    """
    speeds = []
    for made_by in find_files(output, "*/round_*/state/*/made_by.json"):
        try:
            speed = _speed_of(made_by, read_json(made_by), on_gpu)
        except (HstfError, KeyError, TypeError, ValueError):
            continue  # results of another version
        if speed is not None:
            speeds.append(speed)
    return median(speeds) if speeds else None


def _speed_of(made_by: Path, facts: Mapping[str, object], on_gpu: bool) -> float | None:
    """Return the speed of a training; None if it was made elsewhere."""
    is_here = facts["machine"] == platform.node()
    if not is_here or str(facts["device"]).startswith("cuda") != on_gpu:
        return None
    root = made_by.parents[3]
    number = int(made_by.parents[2].name.removeprefix("round_"))
    member = made_by.parent.name
    rule = "student_member" if number else "warmup_member"
    count = last_count(_training_lines(root / log_of(Job(rule, number, member).name)))
    plan_file = root / "plan.json"
    if count is None or not plan_file.is_file():
        return None
    config = load_config(root / "config.yaml")
    plan = Plan.load(plan_file)
    section = config.for_round(number).student if number else config.warmup
    operations = 3 * patch_operations(plan, config) * plan.batch_size * step_cost(section)
    threads = 1 if on_gpu else int(str(facts["threads"]))
    return operations * count.rate / threads**THREAD_EXPONENT


def _training_lines(log: Path) -> list[str]:
    return [line for line in log_lines(log) if line.startswith("round ")]
