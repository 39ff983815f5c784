"""What a run of Snakemake shows on the screen: each job in a line, warnings, and real errors.

Snakemake itself shows its version, the reason of each job with all its files, and after a failure
the command of the job instead of the message of the job. Its log below ``.snakemake/log`` still has
all of that, and so has the screen with ``--verbose``. Options such as ``--quiet`` work as usual.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.logging import DefaultFormatter
from snakemake.logging import logger as snakemake_logger
from snakemake.settings.types import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from hstf.runtime.errors import few
from hstf.runtime.job_logs import failure, last_count, log_lines, results_in, warnings_in
from hstf.runtime.texts import duration, text_table

SCREEN = "DefaultStreamHandler"
"""Snakemake's name of the handler that writes to the screen."""
UNINTERESTING = (
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Select jobs to execute",
    "Using shell:",
    "Singularity containers: ignored",
    "Provided remote nodes",
    "Shutting down, this might take some time",
    "Exiting because a job execution failed",
    "Complete log(s):",
    "RuleException:\nCalledProcessError",
    "Reasons:\n",
)
"""Beginnings of messages that are not shown."""
UNINTERESTING_EVENTS = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_STARTED,
}
END_OF_DRY_RUN = "This was a dry-run (flag -n)."
NOTHING_TO_DO = "Nothing to be done"
FAILED = "At least one job did not complete successfully."
SHOWN_RESULTS = {"check": 20, "calibrate": 10}
"""Rules whose log is shown when they are done, and the maximum number of lines."""
SHOWN_WARNINGS = 5
KEY_FOLDER = "keys"
"""Folder of the files that state why a job runs (:mod:`hstf.experiment.keys`)."""
PROGRESS_SECONDS = 60.0
"""How often the progress of running jobs is shown."""
SHOWN_RUNNING = 5
INTERRUPTED = "Terminating processes on user request"
"""How Snakemake begins after Ctrl-C."""
TERMINATED = "Will exit after finishing currently running jobs"
"""How Snakemake begins after SIGTERM."""
STOPPED = "Stopped. Start the same command again: it continues."
SIGNALS = (
    (
        re.compile(r"exit status 137\b|died with <Signals\.SIGKILL"),
        "It was killed, most likely because the machine ran out of memory. Start fewer jobs at once"
        " (--cores), or use fewer workers.",
    ),
    (
        re.compile(r"exit status 143\b|died with <Signals\.SIGTERM"),
        "It was ended from outside (SIGTERM): by kill, a time limit, or the stop of the machine.",
    ),
)
"""What it means that a command ended with a signal."""


@dataclass
class JobNote:
    """What is known about a job."""

    rule: str
    title: str
    """The message of its rule."""
    log: tuple[str, ...]
    started: float
    threads: int = 1
    resources: dict[str, Any] = field(default_factory=dict)


@dataclass
class Failure:
    """A failed job."""

    title: str
    rule: str
    lines: list[str]
    """Its own message."""
    log: str


class Screen(logging.Filter):
    """Decides what is shown, and remembers the jobs for the end of the run."""

    def __init__(self, is_dry_run: bool = False, hides_jobs: bool = False) -> None:
        super().__init__()
        self.is_dry_run = is_dry_run
        self.hides_jobs = hides_jobs
        """Whether the user asked for less, with ``--quiet``."""
        self.jobs: dict[int, JobNote] = {}
        self.failures: list[Failure] = []
        self.finished: int | None = None
        """The job that was the last to finish."""
        self.exits: list[str] = []
        """How commands have ended, in Snakemake's words."""
        self.running: dict[int, JobNote] = {}
        self.at_end_of_dry_run: list[Callable[[], str]] = [self._resources]
        """Texts that are shown below a dry run."""
        self.is_interrupted = False
        """Whether the user has stopped the run with Ctrl-C."""
        self.is_terminated = False
        """Whether the run was stopped with SIGTERM. Running jobs continue and may fail."""
        self.is_failure_last = False
        """Whether nothing was shown since a job has failed."""
        self.when_up_to_date = ""
        """Where the results are, for a run that has nothing to do."""
        self.handler: Any = None
        """Snakemake's handler of the screen."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Take note of a message; return whether it is shown."""
        try:
            return self._is_shown(record)
        except (AttributeError, KeyError, TypeError, ValueError):
            return True  # another version of Snakemake has other messages

    def _is_shown(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO:
            self._note_job(record)
            self.is_failure_last = False
            return record.rule_name != "all"  # type: ignore[attr-defined]
        if event == LogEvent.JOB_ERROR:
            self.running.pop(record.jobid, None)  # type: ignore[attr-defined]
        if event == LogEvent.JOB_FINISHED:
            self.finished = record.job_id  # type: ignore[attr-defined]
            self.running.pop(self.finished or 0, None)
            self.is_failure_last = False
            return False
        if str(record.msg).startswith(INTERRUPTED):
            self.is_interrupted = True
        if str(record.msg).startswith(TERMINATED):
            self.is_terminated = True
        if event == LogEvent.ERROR:
            self.exits.append(str(record.msg))
        if event in UNINTERESTING_EVENTS:
            return False
        return not str(record.msg).startswith(UNINTERESTING)

    def _note_job(self, record: logging.LogRecord) -> None:
        values = record.__dict__
        rule = values["rule_name"]
        if self.handler is not None:
            self.handler.last_msg_was_job_info = True  # it would write an empty line otherwise
        job = JobNote(
            rule=rule,
            title=values["rule_msg"] or rule,
            log=tuple(str(path) for path in values["log"]),
            started=time.time(),
            threads=int(values["threads"]),
            resources=dict(values["resources"].items()),
        )
        self.jobs[values["jobid"]] = job
        self.running[values["jobid"]] = job

    def _resources(self) -> str:
        return resource_table(self.jobs.values())

    def ran(self, rule: str) -> bool:
        """Return whether a job of a rule was started in this run."""
        return any(job.rule == rule for job in self.jobs.values())

    def follow_jobs(self) -> None:
        """Show how far the running jobs are, once a minute, until this process ends."""
        if self.handler is not None and not self.hides_jobs:
            threading.Thread(target=self._follow_jobs, daemon=True).start()

    def _follow_jobs(self) -> None:
        while True:
            time.sleep(PROGRESS_SECONDS)
            for line in self.progress():
                snakemake_logger.info(line)

    def progress(self) -> list[str]:
        """Return a line for each running job that reports its progress."""
        lines = []
        for job in list(self.running.values()):
            log = Path(job.log[0]) if job.log else None
            if log is None or not log.is_file() or log.stat().st_mtime < job.started - 1:
                continue  # it waits on a cluster, and the log is an earlier one
            count = last_count(log_lines(log))
            if count is not None and count.done < count.total:
                left = duration((count.total - count.done) / count.rate) if count.rate else "?"
                note = f", {count.note}" if count.note else ""
                lines.append(
                    f"{_clock()} …      {job.title}: {count.done}/{count.total}{note}, {left} left"
                )
        more = len(lines) - SHOWN_RUNNING
        return [*lines[:SHOWN_RUNNING], f"           and {more} more"] if more > 0 else lines

    def signal_text(self, command: str) -> str:
        """Return what it means that the command of a job ended with a signal; empty if not so."""
        command = command.strip()
        exits = [text for text in self.exits if command in text]
        for pattern, meaning in SIGNALS:
            if any(pattern.search(text) for text in exits):
                return meaning
        return ""


class ScreenFormatter(DefaultFormatter):
    """Writes a line for each job, and the own message of a job that failed."""

    def __init__(self, screen: Screen, quiet: Iterable[Any], shows_failed_logs: bool) -> None:
        super().__init__(set(quiet), shows_failed_logs)
        self.screen = screen

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a message."""
        try:
            text = super().format(record)
        except (AttributeError, KeyError, TypeError, ValueError):
            return str(record.msg)  # of another version of Snakemake
        if self.screen.is_dry_run and text.startswith(END_OF_DRY_RUN):
            more = [build() for build in self.screen.at_end_of_dry_run]
            return "\n\n".join(filter(None, [*more, text]))
        if text.startswith(NOTHING_TO_DO):
            return "\n".join(filter(None, [text, self.screen.when_up_to_date]))
        if FAILED in text and self.screen.failures:
            return summary_of_failures(self.screen.failures, self.screen.is_failure_last)
        if FAILED in text and (self.screen.is_interrupted or self.screen.is_terminated):
            return STOPPED
        return text

    def format_job_info(self, msg: dict[str, Any]) -> str:
        """Return the line of a job that starts, or in a dry run why it would run."""
        if not msg["rule_msg"]:
            return super().format_job_info(msg)
        if self.screen.is_dry_run:
            reasons = runs_because(msg["input"])
            because = f": {few(dict.fromkeys(reasons))}" if reasons else ""
            return f"{msg['rule_msg']} (rule {msg['rule_name']}){because}"
        log = f" (log: {msg['log'][0]})" if msg["log"] else ""
        return f"{_clock()} start  {msg['rule_msg']}{log}"

    def format_progress(self, msg: dict[str, Any]) -> str:
        """Return the line of a job that is done, and what its log reports to people."""
        job = self.screen.jobs.get(self.screen.finished or 0)
        counts = f"{msg['done']} of {msg['total']} jobs"
        if job is None or job.rule == "all":
            return f"{_clock()} {counts} done"
        seconds = time.time() - job.started
        lines = [f"{_clock()} done   {job.title}, {duration(seconds)} ({counts})"]
        lines += [f"    {line}" for line in _remarks(job)]
        return "\n".join(lines)

    def format_job_error(self, msg: dict[str, Any]) -> str:
        """Return the message of a job that failed, with its log and its command."""
        job = self.screen.jobs.get(msg["jobid"])
        title = job.title if job is not None else msg["rule_name"]
        log = next(iter(msg["log"]), "")
        lines = failure(log_lines(Path(log)), self.show_failed_logs) if log else []
        command = (msg["shellcmd"] or "").strip()
        if msg["rule_msg"]:  # from the cluster
            lines = [*lines, str(msg["rule_msg"]).strip()]
        if meaning := self.screen.signal_text(command):
            lines = [*lines, meaning]
        if not self.screen.is_interrupted:  # else the user has stopped the job
            self.screen.failures.append(Failure(title, msg["rule_name"], lines, log))
            self.screen.is_failure_last = True
        shown = [f"{_clock()} Error in rule {msg['rule_name']} ({title}):"]
        shown += [f"    {line}" for line in lines or ["its log is empty"]]
        shown += [f"    Log: {path}" for path in msg["log"]]
        if command:
            shown.append(f"    Command: {command.partition(' > ')[0]}")
        return "\n".join(shown)


def install(workflow: Any) -> Screen:
    """Use this screen for a run of Snakemake.

    Args:
        workflow: Snakemake's workflow.

    Returns:
        The screen, which knows the jobs of the run. It is not used with ``--verbose``, in the jobs
        of a cluster, and if the user has chosen another logger.
    """
    settings = workflow.output_settings
    quiet = settings.quiet or ()
    screen = Screen(settings.dryrun, hides_jobs=bool({Quietness.RULES, Quietness.ALL} & set(quiet)))
    if settings.verbose or not workflow.is_main_process:
        return screen
    for handler in snakemake_logger.handlers:
        if handler.name == SCREEN:
            screen.handler = handler
            handler.filters.insert(0, screen)  # sees what --quiet hides, too
            handler.setFormatter(ScreenFormatter(screen, quiet, settings.show_failed_logs))
    return screen


def summary_of_failures(failures: Sequence[Failure], is_last: bool = False) -> str:
    """Return all failed jobs with the beginning of their messages, as the end of a run.

    Args:
        failures: the failed jobs.
        is_last: whether the message of the last one is the last on the screen.
    """
    by_title = {found.title: found for found in failures}  # the last try of each job
    again = "When this is solved, start the same command again: it continues."
    if len(by_title) == 1 and is_last:
        return f"1 job failed. {again}"
    lines = [f"{len(by_title)} job{'s' if len(by_title) > 1 else ''} failed:"]
    for found in by_title.values():
        lines.append(f"  {found.title} (rule {found.rule})")
        lines += [f"    {line}" for line in found.lines[:3]]
        if len(found.lines) > 3:
            lines.append("    …")
        if found.log:
            lines.append(f"    Log: {found.log}")
    return "\n".join([*lines, again])


def runs_because(inputs: Iterable[Any]) -> list[str]:
    """Return why a job runs, from the key file among its inputs.

    Snakemake itself can only name the key file, which is newer than the results.
    """
    for path in map(Path, inputs):
        if path.parent.name == KEY_FOLDER and path.suffix == ".json":
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                return [str(reason) for reason in content["runs_because"]]
            except (OSError, ValueError, KeyError, TypeError):
                return []
    return []


def resource_table(jobs: Iterable[JobNote]) -> str:
    """Return what the jobs of each rule ask for, as a table in plain text."""
    rows: dict[tuple[str, ...], int] = {}
    for job in jobs:
        if job.rule != "all" and job.log:
            cells = (
                job.rule,
                str(job.threads),
                *(_resource(job, name) for name in ("mem_mb", "runtime", "gpu")),
            )
            rows[cells] = rows.get(cells, 0) + 1
    if not rows:
        return ""
    titles = ["rule", "jobs", "threads", "memory (MB)", "minutes", "GPUs"]
    table = [[cells[0], str(count), *cells[1:]] for cells, count in rows.items()]
    return "\n".join(["What each job asks for:", *text_table(titles, table)])


def _resource(job: JobNote, name: str) -> str:
    value = job.resources.get(name, 0)
    return str(value) if isinstance(value, int) else ""


def _remarks(job: JobNote) -> list[str]:
    """Return what the log of a finished job reports to people."""
    lines = log_lines(Path(job.log[0])) if job.log else []
    if job.rule in SHOWN_RESULTS:
        maximum = SHOWN_RESULTS[job.rule]
        found = results_in(lines)
    else:
        maximum = SHOWN_WARNINGS
        found = warnings_in(lines)
    if len(found) <= maximum:
        return found
    left_out = f"… {len(found) - maximum} more lines in {job.log[0]}"
    return [*found[: maximum - 1], left_out, found[-1]]


def _clock() -> str:
    return time.strftime("[%H:%M:%S]")
