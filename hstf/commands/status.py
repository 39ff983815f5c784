"""``hstf status``: what is done, running and left of an experiment, and how long it will take.

It reads the folder of the experiment only, see :mod:`hstf.experiment.job_states`.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hstf.commands.state_document import status_document
from hstf.experiment.job_states import Folder, JobState, Status, title
from hstf.runtime.errors import HstfError
from hstf.runtime.texts import duration, gigabytes

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

SHOWN_JOBS = 10
SHOWN_WARNINGS = 5
SHOWN_LINES = 6
"""Lines of the message of a failed job."""


def run(args: argparse.Namespace) -> int:
    """Show the state of an experiment, or of all experiments in a folder."""
    _refuse_other_folders(args.results)
    if args.json:
        status_document(experiments_of(args.results)).print()
        return 0
    if args.watch is None:
        _console().print(view(args.results))
        return 0
    watch(args.results, args.watch)
    return 0


def watch(folder: Path, seconds: float) -> None:
    """Show the state again and again until nothing runs any more or the user stops it."""
    from rich.live import Live

    console = _console()
    if not console.is_terminal:
        while True:
            console.print(view(folder))
            if _is_over(folder):
                return
            time.sleep(seconds)
    with Live(view(folder), console=console, auto_refresh=False) as live:
        while not _is_over(folder):
            time.sleep(seconds)
            live.update(view(folder), refresh=True)


def view(folder: Path) -> "RenderableType":
    """Return the state of an experiment, or of all experiments in a folder, for the screen."""
    if is_experiment(folder):
        return experiment_view(folder)
    return experiments_view(experiments_in(folder))


def is_experiment(folder: Path) -> bool:
    """Return whether a folder has the results of an experiment."""
    return (folder / "config.yaml").is_file() and any(
        (folder / name).is_dir() for name in ("keys", "records", "logs")
    )


def experiments_in(folder: Path) -> list[Path]:
    """Return the experiments in a folder, by name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and is_experiment(path))


def experiments_of(folder: Path) -> list[Path]:
    """Return the experiment that a folder is, or the experiments in it."""
    return [folder] if is_experiment(folder) else experiments_in(folder)


def _refuse_other_folders(folder: Path) -> None:
    if not is_experiment(folder) and not experiments_in(folder):
        raise HstfError(
            f"{folder}: has no results of an experiment. Give the folder of one (results/<name>),"
            " or the folder of all experiments ('output:' of the configuration). An experiment has"
            " results as soon as the workflow has started."
        )


def _is_over(folder: Path) -> bool:
    """Return whether nothing will change: all jobs are done, or no run is active."""
    return all(_has_ended(Folder(root)) for root in experiments_of(folder))


def _has_ended(folder: Folder) -> bool:
    states = {job.status for job in folder.jobs()}
    return states <= {Status.DONE} or (Status.RUNNING not in states and folder.run_is_gone())


def experiment_view(root: Path) -> "RenderableType":
    """Return the state of an experiment for the screen."""
    from rich.console import Group
    from rich.text import Text

    folder = Folder(root)
    jobs = folder.jobs()
    parts: list[RenderableType] = [Text(line) for line in headline(folder, jobs)]
    parts.append(stage_table(jobs))
    for heading, lines, style in (
        ("running", running_lines(folder, jobs), ""),
        ("failed", failed_lines(jobs), "red"),
        ("last warnings", folder.warnings(jobs)[-SHOWN_WARNINGS:], "yellow"),
    ):
        if lines:
            parts.append(Text(heading, style="bold"))
            parts += [Text(f"  {line}", style=style) for line in lines]
    return Group(*parts)


def headline(folder: Folder, jobs: Sequence[JobState]) -> list[str]:
    """Return the state of the whole experiment in a few lines."""
    done = sum(job.status is Status.DONE for job in jobs)
    lines = [f"{folder.root.name}: {done} of {len(jobs)} jobs done, {_activity(folder, jobs)}"]
    run = folder.run
    if run is not None:
        where = ", jobs on a cluster" if run.is_cluster else ""
        lines.append(f"  last start: {run.started} on {run.machine}, process {run.process}{where}")
        if run.estimate is not None:
            lines.append(
                f"  expected at the start: {duration(run.estimate.seconds)},"
                f" {gigabytes(run.estimate.memory_gb)} memory, {gigabytes(run.estimate.disk_gb)}"
                f" disk ({run.estimate.basis})"
            )
    if dice := folder.dice():
        lines.append(f"  mean test Dice: {', '.join(dice)}")
    report = folder.root / "report" / "report.html"
    if report.is_file():
        lines.append(f"  report: {report.resolve()}")
    return lines


def _activity(folder: Folder, jobs: Sequence[JobState]) -> str:
    """Describe what the experiment is doing, and for how long."""
    counts = {status: sum(job.status is status for job in jobs) for status in Status}
    if jobs and counts[Status.DONE] == len(jobs):
        return "finished"
    words = []
    if counts[Status.RUNNING]:
        words.append(f"{counts[Status.RUNNING]} running")
    if counts[Status.FAILED]:
        words.append(f"{counts[Status.FAILED]} failed")
    if not counts[Status.RUNNING] and folder.run_is_gone():
        words.append("no run is active. Start the same command again to continue")
        return ", ".join(words)
    left = folder.time_left(jobs)
    if left is not None:
        kind = "from what is done" if left.is_measured else "estimated"
        words.append(f"about {duration(left.seconds)} left ({kind})")
    return ", ".join(words) or "nothing is running"


def stage_table(jobs: Sequence[JobState]) -> "Table":
    """Return the number of jobs in each state, by stage and round."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("stage", no_wrap=True)
    for name in ("jobs", "done", "running", "left", "failed"):
        table.add_column(name, justify="right")
    rows: dict[str, list[JobState]] = {}
    for job in jobs:
        name = job.stage if job.round is None else f"{job.stage}, round {job.round}"
        rows.setdefault(name, []).append(job)
    for name, of_stage in rows.items():
        states = (Status.DONE, Status.RUNNING, Status.WAITING, Status.FAILED)
        counts = [sum(job.status is status for job in of_stage) for status in states]
        table.add_row(name, str(len(of_stage)), *(str(count) if count else "" for count in counts))
    return table


def running_lines(folder: Folder, jobs: Sequence[JobState]) -> list[str]:
    """Return a line for each running job: step, loss, time left, and its log."""
    running = [job for job in jobs if job.status is Status.RUNNING]
    lines = []
    for job in running[:SHOWN_JOBS]:
        words = [title(job)]
        if job.count is not None:
            words.append(f"{job.count.done}/{job.count.total} {job.count.note}".rstrip())
        if job.seconds_left is not None:
            words.append(f"{duration(job.seconds_left)} left")
        if silent := folder.is_silent(job):
            words.append(f"no news for {duration(silent)}")
        if job.holder:
            words.append(job.holder.partition(" since ")[0])
        lines.append(f"{'; '.join(words)}; {job.log}")
    if len(running) > SHOWN_JOBS:
        lines.append(f"and {len(running) - SHOWN_JOBS} more")
    return lines


def failed_lines(jobs: Sequence[JobState]) -> list[str]:
    """Return the messages of the failed jobs."""
    failed = [job for job in jobs if job.status is Status.FAILED]
    lines = []
    for job in failed[:SHOWN_JOBS]:
        lines.append(f"{title(job)}; {job.log}")
        lines += [f"  {line}" for line in job.message[:SHOWN_LINES]]
    if len(failed) > SHOWN_JOBS:
        lines.append(f"and {len(failed) - SHOWN_JOBS} more")
    return lines


def experiments_view(roots: Sequence[Path]) -> "RenderableType":
    """Return a line for each experiment."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("experiment", "jobs", "state"):
        table.add_column(name, justify="right" if name == "jobs" else "left")
    for root in roots:
        folder = Folder(root)
        jobs = folder.jobs()
        done = sum(job.status is Status.DONE for job in jobs)
        table.add_row(str(root), f"{done}/{len(jobs)}", _activity(folder, jobs))
    return table


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False)
