"""What the next run of the workflow computes, and its start.

What runs is decided by the same code as in the workflow (:mod:`hstf.experiment.keys`). The run gets
the options of the last one. It goes on if the desk is closed.
"""

import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hstf.audit import children
from hstf.audit.calls import Call, Refusal, get, post
from hstf.audit.desk import Desk
from hstf.experiment.job import Job
from hstf.experiment.job_states import Folder, Status
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.last_run import LastRun
from hstf.experiment.run_arguments import workflow_arguments, workflow_command
from hstf.runtime.locks import holder_of
from hstf.runtime.run_lock import RUN_LOCK

RUN_LOG = Path("logs") / "audit_run.log"
"""Output of a run that the desk has started."""
TEXTS = {
    "check": "Check the scans",
    "plan": "Plan spacing, patch size and network",
    "preprocess": "Preprocess the scans",
    "pretrain": "Pre-train the network without labels",
    "warmup": "Train the warm-up",
    "out_of_fold": "Predict the labelled cases out of fold",
    "external": "Predict with external teachers",
    "calibrate": "Calibrate",
    "teacher": "Predict the unlabelled cases",
    "lesions": "Rank the lesions",
    "refine": "Refine the pseudo-labels",
    "labels": "Make the labels of the student",
    "student": "Train the student",
    "monitor": "Test the model for collapse",
    "evaluate": "Score the model",
    "report": "Write the report",
    "export": "Export the model",
    "track": "Log to MLflow",
}
"""What the jobs of a stage do; other stages are shown by their names."""


def rerun(call: Call) -> dict[str, Any]:
    """Return what the next run computes, how long it takes, and its command.

    Raises:
        HstfError: if the overrides have problems; the workflow would stop with the same message.
    """
    desk = call.desk
    jobs = Jobs(desk.config)
    _ = jobs.overrides  # raises if they have problems
    to_run = jobs_to_run(jobs)
    folder = Folder(desk.layout.root)
    seconds = folder.seconds_of(job.name for job in to_run) if to_run else 0.0
    arguments = arguments_of(folder.run)
    return {
        "jobs": in_words(to_run),
        "minutes": None if seconds is None else seconds / 60,
        "command": workflow_command(arguments),
        "folder": str(Path.cwd()),
        "can_start": bool(arguments),
        "running": is_running(desk),
    }


def jobs_to_run(jobs: Jobs) -> list[Job]:
    """Return the jobs whose results are not up to date, inputs first."""
    keys = Keys(jobs, sets_times=False)
    own = [job for job in jobs.all() if jobs.root(job) == jobs.layout.root]
    return [job for job in own if keys.state(job).reasons]


def in_words(to_run: Sequence[Job]) -> list[dict[str, Any]]:
    """Return what the jobs do, with the number of the jobs that do it."""
    counts = Counter((job.stage, job.round) for job in to_run)
    found = []
    for (stage, number), count in counts.items():
        text = TEXTS.get(stage, stage.replace("_", " ").capitalize())
        if number is not None and stage != "warmup":
            text += ", warm-up" if number == 0 else f", round {number}"
        found.append({"text": text, "count": count})
    return found


def arguments_of(run: LastRun | None) -> tuple[str, ...]:
    """Return the options of the last run; empty if they are not known."""
    return run.arguments if run is not None else ()


def start(call: Call) -> dict[str, Any]:
    """Start the workflow with the options of the last run.

    Raises:
        Refusal: if a run is active, or if its options are not known.
        HstfError: if its output cannot be written.
    """
    desk = call.desk
    with children.lock:
        if is_running(desk):
            raise Refusal(409, "A run is active already.")
        arguments = arguments_of(Folder(desk.layout.root).run)
        if not arguments:
            raise Refusal(
                409,
                "The options of the last run are not known, because another version of HSTF made"
                " it. Start the workflow in a terminal once; then it can be started here.",
            )
        words = ["snakemake", *workflow_arguments(arguments)]
        children.start(words, desk.layout.root / RUN_LOG)
    return {"running": True}


def is_running(desk: Desk) -> bool:
    """Return whether a run is active in this folder, as far as it can be seen from here."""
    if children.is_running(desk.layout.root / RUN_LOG) or holder_of(RUN_LOCK):
        return True
    # Locks of another machine cannot be seen on every disk.
    folder = Folder(desk.layout.root)
    if folder.run is None or folder.run.machine == platform.node():
        return False
    running = [job for job in folder.jobs() if job.status is Status.RUNNING]
    return any(not folder.is_silent(job) for job in running)


ROUTES = [get("/api/rerun", rerun), post("/api/rerun", start)]
