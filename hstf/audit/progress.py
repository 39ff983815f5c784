"""How far a run of the workflow is, from the same files as ``hstf status``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hstf.audit.calls import Call, get
from hstf.audit.rerun import RUN_LOG, is_running
from hstf.experiment.job_states import Folder, JobState, Status, title
from hstf.experiment.round_tables import HISTORY
from hstf.runtime.errors import HstfError
from hstf.runtime.job_logs import log_lines, losses_in

TRAININGS = ("warmup", "student")
LINES = 20
"""Number of lines of the run's output that are sent."""


def progress(call: Call) -> dict[str, Any]:
    """Return the state of the run, of the job that runs, and the losses of the training."""
    return progress_of(call.desk.layout.root, is_running(call.desk))


def progress_of(root: Path, runs: bool) -> dict[str, Any]:
    """Return how far an experiment is.

    Args:
        root: its folder.
        runs: whether a run is active.
    """
    folder = Folder(root)
    jobs = folder.jobs()
    counts = {status: sum(job.status is status for job in jobs) for status in Status}
    current = _current(jobs)
    left = folder.time_left(jobs) if runs else None
    count = current.count if current else None
    return {
        "state": _state(counts, runs),
        "jobs_done": counts[Status.DONE],
        "jobs_total": len(jobs),
        "stage": title(current) if current else None,
        "step": count.done if count else None,
        "steps": count.total if count else None,
        "seconds_left": left.seconds if left else None,
        "losses": losses(root, jobs, current),
        "log_tail": log_lines(root / RUN_LOG)[-LINES:],
        "finished": bool(jobs) and counts[Status.DONE] == len(jobs),
        "failed": _failed(jobs),
    }


def _current(jobs: Sequence[JobState]) -> JobState | None:
    """Return the job that is shown: a training before other jobs."""
    running = [job for job in jobs if job.status is Status.RUNNING]
    running.sort(key=lambda job: job.stage not in TRAININGS)
    return running[0] if running else None


def _state(counts: dict[Status, int], runs: bool) -> str:
    if runs:
        return "running"
    if counts[Status.FAILED]:
        return "failed"
    return "waiting" if counts[Status.WAITING] + counts[Status.RUNNING] else "finished"


def losses(
    root: Path, jobs: Sequence[JobState], current: JobState | None
) -> list[tuple[int, float]]:
    """Return step and loss of the training that runs, or of the last one that has finished."""
    if current is not None and current.stage in TRAININGS:
        return losses_in(log_lines(current.log))
    done = [job for job in jobs if job.stage in TRAININGS and job.status is Status.DONE]
    if not done:
        return []
    member = done[-1].name.rpartition(".")[2]
    path = root / f"round_{done[-1].round or 0}" / "model" / member / "history.csv"
    try:
        rows = HISTORY.records(path)
    except HstfError:
        return []  # of a training whose results are reused
    return [(row["step"], row["loss"]) for row in rows if row["loss"] is not None]


def _failed(jobs: Sequence[JobState]) -> list[dict[str, Any]]:
    """Return the messages of the failed jobs."""
    failed = []
    for job in jobs:
        if job.status is Status.FAILED:
            failed.append({"job": title(job), "log": str(job.log), "message": list(job.message)})
    return failed


ROUTES = [get("/api/progress", progress)]
