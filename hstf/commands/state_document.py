"""``hstf status --json``: the state of experiments for programs."""

from collections.abc import Sequence
from pathlib import Path

from hstf.experiment.job_states import Folder, JobState, Status
from hstf.runtime.documents import Document, Part


class JobDescription(Part):
    """A job."""

    name: str
    stage: str
    round: int | None
    status: Status
    done: int | None
    """Steps or cases that are done, of a running job."""
    total: int | None
    """All steps or cases of it."""
    seconds_left: float | None
    """Of a running job, from its own progress."""
    log: str
    message: tuple[str, ...]
    """Why it failed."""


class ExperimentState(Part):
    """An experiment."""

    folder: str
    jobs: tuple[JobDescription, ...]
    is_finished: bool
    """Whether all jobs are done."""
    is_running: bool
    """Whether a job runs, as far as this machine can see."""
    seconds_left: float | None
    """Time until all jobs are done; None if nothing is known."""
    warnings: tuple[str, ...]
    """Warnings of the newest logs, the newest last."""


class StatusDocument(Document):
    """What ``hstf status --json`` prints."""

    stage = "status"

    experiments: tuple[ExperimentState, ...]


def status_document(roots: Sequence[Path]) -> StatusDocument:
    """Return the state of the experiments in ``roots``."""
    return StatusDocument(experiments=tuple(experiment_state(root) for root in roots))


def experiment_state(root: Path) -> ExperimentState:
    """Return the state of the experiment in ``root``."""
    folder = Folder(root)
    jobs = folder.jobs()
    states = {job.status for job in jobs}
    left = folder.time_left(jobs)
    return ExperimentState(
        folder=str(root),
        jobs=tuple(_description(job) for job in jobs),
        is_finished=bool(jobs) and states == {Status.DONE},
        is_running=Status.RUNNING in states,
        seconds_left=left.seconds if left is not None else None,
        warnings=tuple(folder.warnings(jobs)),
    )


def _description(job: JobState) -> JobDescription:
    return JobDescription(
        name=job.name,
        stage=job.stage,
        round=job.round,
        status=job.status,
        done=job.count.done if job.count else None,
        total=job.count.total if job.count else None,
        seconds_left=job.seconds_left,
        log=str(job.log),
        message=job.message,
    )
