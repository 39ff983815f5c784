"""Estimate time, memory and disk of an experiment before it runs.

The time of a network is its number of floating-point operations divided by the speed of the
machine. What is known of scans and machine comes from :mod:`hstf.stages.plan.cost_basis`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapreplace
from math import ceil, prod
from pathlib import Path

from hstf.config.experiment import Config
from hstf.config.training import StudentConfig, TrainingConfig
from hstf.experiment.cases import Split
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RunEstimate, RunJob
from hstf.experiment.plan import Plan, Triple
from hstf.stages.plan.decide import (
    Levels,
    training_gb,
)
from hstf.stages.plan.speeds import Measured, Timing

CORE_GFLOPS = 28.0
"""Speed of a CPU core in training (10^9 operations per second), in float32. Measured on a core with
AVX2 and without bfloat16: 22 with patches of 32³ voxels, 29 to 37 with larger ones."""
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
    "lesions": 1.0,
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
PRETRAINING_COSTS = {"contrastive": 1.2}
"""Cost of a step of tasks that do not compute one planned batch: twice the voxels, no decoder."""
EXTERNAL_PREDICTIONS = ("external_shard", "external_prompted_shard")
"""Rules that run the programs of external teachers."""
BYTES_PER_PARAMETER = 21
"""On disk for each member: weights, and the state from which a training resumes."""


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
    """Speed of a core or GPU in earlier trainings (10^9 operations per second); None without."""
    measured: Measured | None = None
    """What was measured here with the network and patch of the plan; None if not measured."""
    gpus: int = 1
    """Number of GPUs of one machine that has any."""

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

    def __init__(
        self,
        jobs: Jobs,
        plan: Plan,
        scans: Scans,
        machine: Machine,
        external_seconds: float | None = None,
    ) -> None:
        """Compute nothing yet.

        Args:
            jobs: all jobs.
            plan: the plan, or what it will probably be.
            scans: sizes of the scans.
            machine: the machine that computes.
            external_seconds: time that the external teachers take for a case (s); None if it is
                unknown. It is then left out.
        """
        self.jobs = jobs
        self.config = jobs.config
        self.plan = plan
        self.scans = scans
        self.machine = machine
        self.external_seconds = external_seconds

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
                at_once = self._at_once(job)
                found.append(
                    RunJob(name=job.name, seconds=round(self.seconds(job), 1), side_by_side=at_once)
                )
        return found

    def estimate(self, basis: str, factor: float, to_run: Iterable[Job]) -> RunEstimate:
        """Return what the jobs ``to_run`` take, and the disk space of the whole experiment."""
        core = 0.0
        alike: dict[tuple[str, int | None], list[float]] = {}
        at_once: dict[tuple[str, int | None], int] = {}
        for job in to_run:
            if self.jobs.root(job) != self.jobs.layout.root:
                continue  # of an experiment that is reused
            seconds = self.seconds(job)
            core += seconds * self._threads(job)
            alike.setdefault((job.rule, job.round), []).append(seconds)
            at_once[job.rule, job.round] = self._at_once(job)
        wall = [makespan(seconds, at_once[kind]) for kind, seconds in alike.items()]
        return RunEstimate(
            seconds=sum(wall),
            core_seconds=core,
            factor=factor,
            memory_gb=self.memory_gb(),
            disk_gb=self.disk_gb(),
            basis=basis,
            device="gpu" if self.machine.has_gpu else "cpu",
        )

    def _at_once(self, job: Job) -> int:
        """Return how many jobs of this kind run at once. On one machine, each has its own GPU."""
        at_once = self.machine.at_once(self.counts[job.rule, job.round])
        is_one_machine = self.machine.cores_per_job is None
        if is_one_machine and self.machine.has_gpu and self._network_operations(job):
            return min(at_once, self.machine.gpus)
        return at_once

    def _threads(self, job: Job) -> int:
        if job.stage in FIXED_SECONDS or job.rule in ("refine_table", "labels_table"):
            return 1
        return self.machine.threads(self.counts[job.rule, job.round])

    def seconds(self, job: Job) -> float:
        """Return the time of a job."""
        if job.stage in FIXED_SECONDS:
            return START_SECONDS + FIXED_SECONDS[job.stage]
        if job.rule in EXTERNAL_PREDICTIONS:
            cases = len(self.jobs.shards[job.part])
            return START_SECONDS + cases * (self.external_seconds or 0.0)
        threads = self._threads(job)
        seconds = START_SECONDS + self._voxel_work(job) / threads**THREAD_EXPONENT
        return seconds + self._network_seconds(job, threads)

    def _network_seconds(self, job: Job, threads: int) -> float:
        """Return the time that a job computes with networks."""
        operations = self._network_operations(job)
        measured = self.machine.measured
        if measured is None:
            return operations / self._speed(threads) + self._steps(job)
        training = self._training(job)
        if training is None:
            return operations / self.operations * self._with_threads(measured.window, threads)
        if job.stage == "pretrain":
            cost = PRETRAINING_COSTS.get(self.config.pretrain.task, 1.0)
            return training.steps * cost * self._with_threads(measured.warmup, threads)
        if measured.student is None or job.stage == "warmup":
            return training.steps * self._with_threads(measured.warmup, threads)
        # A round may have an objective of its own; that of round 1 was measured.
        relative = step_cost(training) / step_cost(self.config.for_round(1).student)
        return training.steps * relative * self._with_threads(measured.student, threads)

    def _with_threads(self, timing: Timing, threads: int) -> float:
        """Return the seconds of a step or window in a job with other threads."""
        if self.machine.has_gpu:
            return timing.seconds
        return timing.seconds * (timing.threads / threads) ** THREAD_EXPONENT

    def speed_of(self, measured: Measured) -> float:
        """Return the speed of a core or of the GPU in a warm-up step (10^9 operations a second)."""
        operations = 3 * self.operations * self.plan.batch_size
        threads = 1 if self.machine.has_gpu else measured.warmup.threads
        return operations / measured.warmup.seconds / threads**THREAD_EXPONENT

    def _speed(self, threads: int) -> float:
        return self.machine.gflops * (1 if self.machine.has_gpu else threads**THREAD_EXPONENT)

    def _steps(self, job: Job) -> float:
        """Return the time that training steps take in addition to the network."""
        training = self._training(job)
        seconds = GPU_STEP_SECONDS if self.machine.has_gpu else CPU_STEP_SECONDS
        return seconds * training.steps if training else 0.0

    def _training(self, job: Job) -> TrainingConfig | None:
        if job.stage == "pretrain":
            return self.config.pretrain.training
        if job.stage == "warmup":
            return self.config.warmup.of_member(job.part)
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
        if job.stage == "lesions":
            return rate * self.scans.voxels * len(sheet.of(Split.UNLABELLED)) / 1e6
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
            if job.stage == "pretrain":
                operations *= PRETRAINING_COSTS.get(self.config.pretrain.task, 1.0)
            return operations
        if job.stage == "out_of_fold":
            cases = len(self.jobs.sheet.of(Split.LABELLED)) * self.config.warmup.fold_members
            return cases * self._prediction("teacher", 0)
        if job.stage == "monitor":
            members = len(self.jobs.schedule.members(number))
            return len(self.jobs.monitored_cases) * members * self._prediction("monitor", number)
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
        if stage == "evaluate":
            views += len(config.predict.flip_axes)
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
            in ("pretrain", "warmup", "out_of_fold", "student", "teacher", "evaluate", "check")
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
        members = int(self.config.pretrain.is_on)
        for number in range(self.jobs.schedule.last + 1):
            members += len(self.jobs.schedule.trained(number))
            if self.jobs.schedule.has_pseudo_labels(number):
                total += unlabelled * (voxels * (1.2 + 0.6 + 1.8) + 200_000)
        total += members * BYTES_PER_PARAMETER * _parameters(self.plan)
        return total / 1e9


def makespan(seconds: Iterable[float], at_once: int) -> float:
    """Return the time of jobs of which some run at once, the longest first.

    Example:
        >>> makespan([4.0, 4.0, 4.0], at_once=2)
        8.0
    """
    ends = [0.0] * at_once
    for duration in sorted(seconds, reverse=True):
        heapreplace(ends, ends[0] + duration)
    return max(ends)


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


def _has_bf16() -> bool:
    """Return whether the CPU multiplies bfloat16 natively."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    flags = text.partition("flags")[2].partition("\n")[0]
    return bool(BF16_FLAGS & set(flags.split()))
