"""Speeds that were measured on this machine: the seconds of a training step and of a window.

They are stored in ``logs/speed.json`` of the experiment. An estimate uses them for any experiment
of the same output folder that trains the same network on the same patches, with the same processor,
cores and version of PyTorch.
"""

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

from hstf.config.experiment import Config
from hstf.config.network import START_KEYS
from hstf.config.training import TrainingConfig
from hstf.experiment.plan import Plan
from hstf.runtime.documents import Document, Part
from hstf.runtime.errors import HstfError
from hstf.runtime.files import find_files, sha256_json

SPEED_FILE = Path("logs") / "speed.json"
PLAN_KEYS = {"patch_size", "batch_size", "channels", "strides", "kernels"}
"""Keys of the plan that the time of a step depends on. Those of the augmentation are not known
before the scans are read, and cost little."""
TRAINING_KEYS = {"amp", "augmentation", "mixing", "objective", "csc", "labelled_fraction"}
"""Keys of ``warmup`` and ``student`` that the time of a step depends on."""
KEPT = 20
"""Maximum number of measurements in a file."""


class Timing(Part):
    """Seconds of one step or window of a job."""

    seconds: float
    threads: int
    """Threads of the job."""
    side_by_side: int
    """Number of jobs that computed at the same time."""


class Measured(Part):
    """What was measured with one network and patch."""

    key: str
    """SHA-256 of what the speed depends on, see :func:`speed_key`."""
    processor: str
    torch: str
    warmup: Timing
    """A step of the warm-up."""
    student: Timing | None
    """A step of the student of round 1, including cross-scale consistency; None without
    rounds."""
    window: Timing
    """A forward pass of a window of a scan."""

    def __str__(self) -> str:
        """Return the numbers in words."""
        steps = f"a warm-up step takes {_written(self.warmup)}"
        if self.student is not None:
            steps += f", a student step {_written(self.student)}"
        return f"{steps}, a window {_written(self.window)}"


class Speeds(Document):
    """``logs/speed.json``, the newest measurement last."""

    stage: ClassVar[str] = "estimate"

    measurements: tuple[Measured, ...] = ()


def speed_key(config: Config, plan: Plan, cores: int, has_gpu: bool) -> str:
    """Return the SHA-256 of what the speed of a machine depends on.

    Args:
        config: the experiment.
        plan: its plan.
        cores: cores of all jobs.
        has_gpu: whether networks compute on a GPU.
    """
    student = config.for_round(1).student if config.rounds else None
    facts = {
        "processor": processor(has_gpu),
        "torch": torch_version(),
        "cores": cores,
        "plan": plan.model_dump(mode="json", include=PLAN_KEYS),
        "network": config.network.model_dump(mode="json", exclude=set(START_KEYS)),
        "modalities": list(config.modalities.values()),
        "classes": len(config.class_names),
        "warmup": _training_facts(config.warmup),
        "student": _training_facts(student) if student else None,
    }
    return sha256_json(facts)


def _training_facts(section: TrainingConfig) -> dict[str, Any]:
    return section.model_dump(mode="json", include=TRAINING_KEYS)


def processor(has_gpu: bool) -> str:
    """Return the model of the CPU and, if networks compute on it, of the GPU."""
    name = _line_of(Path("/proc/cpuinfo"), "model name") or platform.processor() or "CPU"
    if not has_gpu:
        return name
    names = {
        _line_of(path, "Model") for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
    }
    return f"{name}, {', '.join(sorted(names)) or 'GPU'}"


def _line_of(path: Path, title: str) -> str:
    """Return what follows ``title:`` in a file of the kernel; empty without such a line."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == title:
            return value.strip()
    return ""


def torch_version() -> str:
    """Return the version of PyTorch without its import, which takes seconds."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""


def find(output: Path, key: str) -> Measured | None:
    """Return the newest measurement of a key in all experiments of a folder; None without one."""
    found = [measured for measured in _all(output) if measured.key == key]
    return found[-1] if found else None


def _all(output: Path) -> Iterator[Measured]:
    """Yield the measurements in a folder of experiments, the newest last."""
    for path in sorted(find_files(output, f"*/{SPEED_FILE}"), key=os.path.getmtime):
        yield from _read(path)


def _read(path: Path) -> tuple[Measured, ...]:
    """Return the measurements of a file; none if it cannot be read."""
    try:
        return Speeds.load(path).measurements
    except HstfError:
        return ()  # of another version


def store(root: Path, measured: Measured) -> None:
    """Add a measurement to those of an experiment.

    Args:
        root: folder of the experiment.
        measured: replaces an earlier one of the same key.
    """
    path = root / SPEED_FILE
    others = [other for other in _read(path) if other.key != measured.key]
    Speeds(measurements=(*others, measured)[-KEPT:]).save(path)


def _written(timing: Timing) -> str:
    return f"{timing.seconds:.2g} s"
