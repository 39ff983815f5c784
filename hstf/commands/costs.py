"""Estimate time, memory and disk of an experiment before it runs.

The time of a network is its number of floating-point operations divided by the speed of the
machine. The speed is measured on earlier trainings of this machine if there are any. Otherwise it
is that of typical machines, and the estimate may be wrong by a factor of three.
"""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod
from pathlib import Path
from statistics import median

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.config.training import StudentConfig, TrainingConfig
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.experiment.jobs import Job, Jobs
from hstf.experiment.last_run import RunEstimate, RunJob, log_of
from hstf.experiment.plan import Plan, Triple
from hstf.imaging.affines import ras_spacing
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import open_nifti
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json
from hstf.runtime.job_logs import last_count, log_lines
from hstf.stages.plan.decide import (
    Levels,
    batch_size,
    grid_shapes,
    level_channels,
    network_levels,
    patch_size,
    target_spacing,
    training_gb,
)
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary, spread

CORE_GFLOPS = 22.0
"""Speed of a CPU core in training (10^9 operations per second), in float32."""
BF16_CORE_GFLOPS = 110.0
"""The same of a core that multiplies bfloat16 natively."""
GPU_GFLOPS = 40_000.0
"""Speed of a data-centre GPU; calculated, not measured."""
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
THREAD_EXPONENT = 0.9
"""Eight threads are 8^0.9 = 6.5 times as fast as one."""
GPU_STEP_SECONDS = 0.08
"""Minimum time of a training step on a GPU: patches are read and augmented."""
CPU_STEP_SECONDS = 0.05
"""The same on a CPU; only very small networks are faster."""
START_SECONDS = 4.0
"""Start of a job: Python and its packages."""
SECONDS_PER_MILLION_VOXELS = {
    "check": 0.03,
    "plan": 0.1,
    "preprocess": 2.5,
    "refine": 3.0,
    "labels": 3.0,
    "out_of_fold": 1.0,
    "calibrate": 3.0,
    "evaluate": 3.0,
}
"""CPU work of the stages on a core (``docs/scale.md``)."""
FIXED_SECONDS = {"report": 12.0, "export": 2.0, "track": 3.0}
SCALED_PATCH_COST = 4 / 3
"""Forward passes of a step of cross-scale consistency, relative to those of a normal step."""
OBJECTIVE_COSTS = {"mean_teacher": 1.4, "uamt": 2.6, "cross_teaching": 1.1, "bcp": 1.5}
"""Cost of a step of other objectives than self-training."""
BYTES_PER_PARAMETER = 21
"""On disk for each member: weights, and the state from which a training resumes."""
SURE_FACTOR = 1.5
UNSURE_FACTOR = 3.0
SCANS_READ = 20
"""Scans whose headers are read if there is no plan yet."""


@dataclass(frozen=True)
class Machine:
    """The machine that computes."""

    cores: int
    has_gpu: bool
    cores_per_job: int | None = None
    """On a cluster, the cores of each job; None on one machine."""
    jobs: int = 1
    """On a cluster, the maximum number of jobs that run at once."""
    speed: float | None = None
    """Measured speed of a core or GPU (10^9 operations per second); None if not measured."""

    @property
    def gflops(self) -> float:
        """Speed of a core, or of the GPU."""
        if self.speed is not None:
            return self.speed
        if self.has_gpu:
            return GPU_GFLOPS
        return BF16_CORE_GFLOPS if _has_bf16() else CORE_GFLOPS

    def threads(self, count: int) -> int:
        """Return the threads of one of ``count`` jobs of a kind, as the workflow does."""
        if self.cores_per_job is not None:
            return self.cores_per_job
        return min(8, max(1, self.cores // max(1, count)))

    def at_once(self, count: int) -> int:
        """Return how many of ``count`` jobs of a kind run at once."""
        if self.cores_per_job is not None:
            return min(count, self.jobs)
        return min(count, max(1, self.cores // self.threads(count)))


@dataclass(frozen=True)
class Scans:
    """Sizes of the scans."""

    voxels: float
    """Median number of voxels of a scan on the grid of the networks."""
    native_voxels: float
    shape: Triple
    """Median shape on the grid."""


class Costs:
    """Time, memory and disk of the jobs of an experiment."""

    def __init__(self, jobs: Jobs, plan: Plan, scans: Scans, machine: Machine) -> None:
        """Compute nothing yet.

        Args:
            jobs: all jobs.
            plan: the plan, or what it will probably be.
            scans: sizes of the scans.
            machine: the machine that computes.
        """
        self.jobs = jobs
        self.config = jobs.config
        self.plan = plan
        self.scans = scans
        self.machine = machine

    @cached_property
    def operations(self) -> float:
        """Operations of a forward pass of a patch (10^9)."""
        return patch_operations(self.plan, self.config)

    @cached_property
    def counts(self) -> dict[tuple[str, int | None], int]:
        """Number of jobs of each rule and round."""
        counts: dict[tuple[str, int | None], int] = {}
        for job in self.jobs.all():
            key = (job.rule, job.round)
            counts[key] = counts.get(key, 0) + 1
        return counts

    def run_jobs(self) -> list[RunJob]:
        """Return all jobs of the experiment with their times."""
        found = []
        for job in self.jobs.all():
            if self.jobs.root(job) == self.jobs.layout.root:
                at_once = self.machine.at_once(self.counts[job.rule, job.round])
                found.append(
                    RunJob(name=job.name, seconds=round(self.seconds(job), 1), side_by_side=at_once)
                )
        return found

    def estimate(self, basis: str, factor: float, to_run: Iterable[Job]) -> RunEstimate:
        """Return what the jobs ``to_run`` take, and the disk space of the whole experiment."""
        wall = 0.0
        core = 0.0
        for job in to_run:
            if self.jobs.root(job) != self.jobs.layout.root:
                continue  # of an experiment that is reused
            count = self.counts[job.rule, job.round]
            seconds = self.seconds(job)
            core += seconds * self._threads(job)
            wall += seconds / self.machine.at_once(count)
        return RunEstimate(
            seconds=wall,
            core_seconds=core,
            factor=factor,
            memory_gb=self.memory_gb(),
            disk_gb=self.disk_gb(),
            basis=basis,
            device="gpu" if self.machine.has_gpu else "cpu",
        )

    def _threads(self, job: Job) -> int:
        if job.stage in FIXED_SECONDS or job.rule in ("refine_table", "labels_table"):
            return 1
        return self.machine.threads(self.counts[job.rule, job.round])

    def seconds(self, job: Job) -> float:
        """Return the time of a job."""
        if job.stage in FIXED_SECONDS:
            return START_SECONDS + FIXED_SECONDS[job.stage]
        threads = self._threads(job)
        seconds = START_SECONDS + self._voxel_work(job) / threads**THREAD_EXPONENT
        return seconds + self._network_operations(job) / self._speed(threads) + self._steps(job)

    def _speed(self, threads: int) -> float:
        return self.machine.gflops * (1 if self.machine.has_gpu else threads**THREAD_EXPONENT)

    def _steps(self, job: Job) -> float:
        """Return the time that training steps take in addition to the network."""
        training = self._training(job)
        seconds = GPU_STEP_SECONDS if self.machine.has_gpu else CPU_STEP_SECONDS
        return seconds * training.steps if training else 0.0

    def _training(self, job: Job) -> TrainingConfig | None:
        if job.stage == "warmup":
            return self.config.warmup
        if job.stage == "student":
            return self.config.for_round(job.round or 0).student
        return None

    def _voxel_work(self, job: Job) -> float:
        """Return the seconds of the work on voxels on one core."""
        rate = SECONDS_PER_MILLION_VOXELS.get(job.stage, 0.0)
        channels = len(self.config.modalities)
        sheet = self.jobs.sheet
        if job.stage == "check":
            return rate * self.scans.native_voxels * (channels + 1) * len(sheet.cases) / 1e6
        if job.stage == "plan":
            cases = min(200, len(sheet.cases))
            return rate * self.scans.native_voxels * channels * cases / 1e6
        if job.stage in ("out_of_fold", "calibrate"):
            return rate * self.scans.voxels * len(sheet.of(Split.LABELLED)) / 1e6
        if job.rule.endswith("_shard"):
            voxels = self.scans.native_voxels if job.stage == "evaluate" else self.scans.voxels
            return rate * voxels * len(self.jobs.shards[job.part]) / 1e6
        return 0.0

    def _network_operations(self, job: Job) -> float:
        """Return the operations of the networks (10^9)."""
        training = self._training(job)
        number = job.round or 0
        if training is not None:
            operations = 3 * self.operations * self.plan.batch_size * training.steps
            operations *= step_cost(training)
            return operations
        if job.stage == "out_of_fold":  # a member for each case
            return len(self.jobs.sheet.of(Split.LABELLED)) * self._prediction("teacher", 0)
        if job.rule not in ("teacher_shard", "evaluate_shard"):
            return 0.0
        models = number - 1 if job.stage == "teacher" else number
        members = len(self.jobs.schedule.members(models))
        cases = len(self.jobs.shards[job.part])
        return cases * members * self._prediction(job.stage, number)

    def _prediction(self, stage: str, number: int) -> float:
        """Return the operations of predicting a scan with one network (10^9)."""
        config = self.config.for_round(number)
        section = config.teacher if stage == "teacher" else config.predict
        views = 1.0
        if stage == "teacher":
            # A window grows with the zoom of the scan.
            views = sum(scale**3 for scale in config.teacher.scales)
            views *= 1 + len(config.teacher.flip_axes)
        return windows(self.scans.shape, self.plan.patch_size, section.overlap) * (
            views * self.operations
        )

    def memory_gb(self) -> float:
        """Return the memory (GB) of the jobs that run at once."""
        levels = Levels(self.plan.strides, self.plan.kernels)
        patch_gb = training_gb(self.config.plan, self.plan.patch_size, levels)
        training = 1.0 + (0.0 if self.machine.has_gpu else 1.5 * self.plan.batch_size * patch_gb)
        structures = len(self.config.class_names)
        voxels = 16 * structures * self.scans.voxels + 12 * self.scans.native_voxels
        prediction = 0.6 + voxels / 1e9
        if self.machine.cores_per_job is not None:
            return max(training, prediction)  # of a job
        trainings = max(
            self.machine.at_once(count)
            for (rule, _), count in self.counts.items()
            if Job(rule).stage
            in ("warmup", "out_of_fold", "student", "teacher", "evaluate", "check")
        )
        return max(training, prediction) * trainings

    def disk_gb(self) -> float:
        """Return the disk space (GB) of the results."""
        sheet = self.jobs.sheet
        labelled = len(sheet.of(Split.LABELLED))
        unlabelled = len(sheet.of(Split.UNLABELLED))
        channels = len(self.config.modalities)
        voxels = self.scans.voxels
        total = (labelled + unlabelled) * voxels * (1.6 * channels + 0.3)
        members = 0
        for number in range(self.jobs.schedule.last + 1):
            members += len(self.jobs.schedule.members(number))
            if self.jobs.schedule.has_pseudo_labels(number):
                total += unlabelled * (voxels * (1.2 + 0.6 + 1.8) + 200_000)
        total += members * BYTES_PER_PARAMETER * _parameters(self.plan)
        return total / 1e9


def step_cost(training: TrainingConfig) -> float:
    """Return the cost of a training step, relative to a forward and a backward pass."""
    if not isinstance(training, StudentConfig):
        return 1.0
    if training.objective in OBJECTIVE_COSTS:
        return OBJECTIVE_COSTS[training.objective]
    if training.objective == "self_training" and training.csc.zoomed:
        return 1 + SCALED_PATCH_COST / training.csc.every
    return 1.0


def patch_operations(plan: Plan, config: Config) -> float:
    """Estimate the operations of a forward pass of the network (10^9), a multiply-add as two.

    It counts the convolutions, which are 70% to 97% of the operations of all networks.
    ``hstf models`` counts them exactly, but needs seconds to start.
    """
    voxels = float(prod(plan.patch_size))
    previous = len(config.modalities)
    total = 0.0
    sizes = []
    for channels, stride, kernel in zip(plan.channels, plan.strides, plan.kernels, strict=True):
        voxels /= prod(stride)
        sizes.append(voxels)
        total += 2 * voxels * prod(kernel) * (previous * channels + channels**2)
        previous = channels
    for level in range(len(plan.channels) - 1):
        channels = plan.channels[level]
        taps = 3 * channels**2 * prod(plan.kernels[level])
        others = plan.channels[level + 1] * channels + channels * len(config.class_names)
        total += 2 * sizes[level] * (taps + others)
    networks = 2 if config.network.name == "pair" else 1
    return 1.05 * networks * total / 1e9


def _parameters(plan: Plan) -> float:
    total = 0.0
    previous = 1
    for channels, kernel in zip(plan.channels, plan.kernels, strict=True):
        total += prod(kernel) * (previous * channels + 4 * channels**2)
        previous = channels
    return total


def windows(shape: Sequence[int], patch: Sequence[int], overlap: float) -> int:
    """Return the number of windows that cover a scan."""
    count = 1
    for size, edge in zip(shape, patch, strict=True):
        if size > edge:
            count *= 1 + ceil((size - edge) / max(1.0, edge * (1 - overlap)))
    return count


# --- what the estimate is made from


def estimated(
    jobs: Jobs,
    machine: Machine,
    config: Config | None = None,
    to_run: Sequence[Job] | None = None,
) -> tuple[Costs, RunEstimate] | None:
    """Estimate an experiment.

    Args:
        jobs: its jobs.
        machine: the machine that computes.
        config: another configuration of the same scans, without a plan.
        to_run: the jobs that will run; None means all.

    Returns:
        The costs and their sum; None if neither a plan nor the scans can be read.
    """
    if config is not None:
        jobs = Jobs(config, jobs.sheet)
    headers = read_headers(jobs.config, jobs.sheet)
    if not headers:
        return None
    path = jobs.layout.plan
    try:
        is_planned = path.is_file() and config is None
        plan = Plan.load(path) if is_planned else probable_plan(jobs.config, headers)
    except HstfError:
        return None
    costs = Costs(jobs, plan, scan_sizes(headers, plan), machine)
    basis, factor = _basis(machine, is_planned)
    return costs, costs.estimate(basis, factor, jobs.all() if to_run is None else to_run)


def _basis(machine: Machine, is_planned: bool) -> tuple[str, float]:
    source = "from the plan" if is_planned else f"from the headers of up to {SCANS_READ} scans"
    if machine.speed is not None:
        return f"{source} and the speed of earlier trainings on this machine", SURE_FACTOR
    kind = "a data-centre GPU (calculated)" if machine.has_gpu else "similar CPU cores"
    return f"{source} and the speed of {kind}; nothing was measured here yet", UNSURE_FACTOR


def read_headers(config: Config, sheet: CaseSheet) -> list[ScanSummary]:
    """Return the shapes of some labelled and unlabelled scans; empty if none can be read."""
    cases = [case for case in sheet.cases if case.split is not Split.TEST]
    found = []
    for case in spread(cases, SCANS_READ) if cases else []:
        summary = _header(case)
        if summary is not None:
            found.append(summary)
    if not found and config.phantom is not None:
        shape = config.phantom.size
        found.append(_summary("phantom", shape, (1.0, 1.0, 1.0)))
    return found


def _header(case: Case) -> ScanSummary | None:
    try:
        image = open_nifti(case.images[0])
        affine = image.affine
        geometry = Geometry.of(image.shape[:3], affine, ras_spacing(affine))
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


def this_machine(config: Config, cores: int, cluster_jobs: int | None = None) -> Machine:
    """Describe the machine that computes.

    Args:
        config: the experiment.
        cores: cores for all jobs, or on a cluster for a job.
        cluster_jobs: on a cluster, the maximum number of jobs; None on one machine.
    """
    has_gpu = config.device != "cpu" and (_finds_gpu() or cluster_jobs is not None)
    if cluster_jobs is not None:
        return Machine(cores, has_gpu, cores_per_job=cores, jobs=cluster_jobs)
    return Machine(cores, has_gpu, speed=measured_speed(Path(config.output), has_gpu))


def measured_speed(output: Path, on_gpu: bool) -> float | None:
    """Return the speed of trainings on this machine (10^9 operations per second and core or GPU).

    Args:
        output: folder of all experiments.
        on_gpu: whether trainings on a GPU count; otherwise those on the CPU.
    """
    speeds = []
    for made_by in sorted(output.glob("*/round_*/state/*/made_by.json")):
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


def _has_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 natively."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = text.partition("flags")[2].partition("\n")[0]
    return bool(BF16_FLAGS & set(flags.split()))


def _finds_gpu() -> bool:
    """Return whether there is a GPU, without PyTorch, which takes seconds to start."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists()
