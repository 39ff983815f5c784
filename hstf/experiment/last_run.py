"""What a run of the workflow is about to do, for those who watch it: ``logs/run.json``.

It is written when a run starts. With it ``hstf status`` needs nothing but the folder of the
experiment: neither the case sheet nor the scans nor the machine that computes.
"""

from pathlib import Path
from typing import ClassVar

from hstf.experiment.stage_names import stage_of_rule
from hstf.runtime.documents import Document, Part

RUN_FILE = Path("logs") / "run.json"


class RunJob(Part):
    """A job of the experiment, whether it runs or is up to date."""

    name: str
    seconds: float | None = None
    """Estimated run time; None if it could not be estimated."""
    side_by_side: int = 1
    """How many jobs of this kind can run at once."""


class RunEstimate(Part):
    """What a whole experiment is expected to take."""

    seconds: float
    core_seconds: float
    """Run times multiplied by the cores of each job."""
    factor: float
    """The real time is expected between ``seconds / factor`` and ``seconds * factor``."""
    memory_gb: float
    """Main memory of all jobs that run at once."""
    disk_gb: float
    basis: str
    """What the estimate was made from, in a sentence."""
    device: str
    """``cpu`` or ``gpu``."""


class LastRun(Document):
    """``logs/run.json``."""

    stage: ClassVar[str] = "of the whole workflow"

    experiment: str
    machine: str
    process: int
    folder: str
    """The working directory."""
    started: str
    """Local time."""
    is_cluster: bool
    arguments: tuple[str, ...] = ()
    """The options with which the same command starts again in ``folder``, see
    :mod:`hstf.experiment.run_arguments`."""
    jobs: tuple[RunJob, ...]
    estimate: RunEstimate | None = None


def log_of(job_name: str) -> Path:
    """Return the log of a job, relative to the folder of the experiment.

    Args:
        job_name: as :attr:`hstf.experiment.job.Job.name`.
    """
    return Path("logs", f"{_file_of(job_name)}.log")


def benchmark_of(job_name: str) -> Path:
    """Return the table of run time and memory of a job, relative to the folder."""
    return Path("benchmarks", f"{_file_of(job_name)}.tsv")


def stage_of(job_name: str) -> str:
    """Return the stage of a job."""
    return stage_of_rule(job_name.partition(".")[0])


def round_of(job_name: str) -> int | None:
    """Return the round of a job; None for jobs without a round."""
    for word in job_name.split(".")[1:]:
        if word.startswith("round_"):
            return int(word.removeprefix("round_"))
    return None


def _file_of(job_name: str) -> str:
    rule, *words = job_name.split(".")
    stage = stage_of(job_name)
    if stage == "warmup":  # the warm-up is round 0
        words = words[1:]
    if rule in ("evaluate_scales", "evaluate_validation"):
        words.append(rule.removeprefix("evaluate_"))
    return f"{stage}/{'_'.join(words)}" if words else stage
