"""The state of all jobs of an experiment, from the files in its folder.

Nothing is written, locked or asked from a scheduler. So it works while the workflow runs on this
machine, on another one, or on a cluster.

- A job is *done* if it has a record and its key file does not ask for another run.
- It is *running* if it has taken its lock, or written to its log, since the run started and its
  key file was written.
- It has *failed* if its log ends with the message of a failed command, or if its process is gone.
"""

import json
import os
import platform
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from hstf.experiment.last_run import (
    RUN_FILE,
    LastRun,
    benchmark_of,
    log_of,
    round_of,
    stage_of,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.job_logs import Count, failure, has_failed, last_count, log_lines, warnings_in

STAGES = (
    "check",
    "plan",
    "preprocess",
    "pretrain",
    "warmup",
    "out_of_fold",
    "external",
    "calibrate",
    "monitor",
    "teacher",
    "lesions",
    "refine",
    "labels",
    "student",
    "evaluate",
    "report",
    "export",
    "track",
    "compare",
)
"""Stages in the order in which they are shown."""
LAST_ROUND = 1_000_000
"""Place of the stages that come after all rounds."""
HOLDER = re.compile(r"^process (?P<process>\d+) on (?P<machine>\S+) since (?P<since>.+)$")
"""What a process writes into a lock (:mod:`hstf.runtime.locks`)."""
START_TOLERANCE = 60.0
"""Seconds by which clocks and time stamps may differ."""
QUIET_SECONDS = 900.0
"""A running job whose log is older is shown as silent."""
LOGS_READ = 60
"""Newest logs in which warnings are looked for."""
BENCHMARKS_READ = 300


class Status(StrEnum):
    """What a job is doing."""

    DONE = "done"
    RUNNING = "running"
    FAILED = "failed"
    WAITING = "waiting"


@dataclass(frozen=True)
class JobState:
    """A job of an experiment."""

    name: str
    status: Status
    log: Path
    count: Count | None = None
    """How far it is, of a running job."""
    seconds_left: float | None = None
    """Of a running job, from its own progress."""
    holder: str = ""
    """The process and machine of a running job."""
    message: tuple[str, ...] = ()
    """Why it failed."""

    @property
    def stage(self) -> str:
        """Stage of the job."""
        return stage_of(self.name)

    @property
    def round(self) -> int | None:
        """Round of the job."""
        return round_of(self.name)


class Folder:
    """The folder of an experiment, read at one moment."""

    def __init__(self, root: Path) -> None:
        """Read which records, locks and key files there are."""
        self.root = root
        self.now = time.time()
        records = _times(root / "records")
        self.records = _of_kind(records, ".json")
        self.locks = _of_kind(records, ".lock")
        self.keys = _of_kind(_times(root / "keys"), ".json")
        self.run = _last_run(root)
        self.run_time = _time(root / RUN_FILE)
        """When the last run started. Logs of earlier runs do not count."""

    def jobs(self) -> list[JobState]:
        """Return all jobs in the order of the stages."""
        if self.run is not None:
            names = [job.name for job in self.run.jobs]
        else:
            names = list(self.records.keys() | self.keys.keys())
        return [self._state(name) for name in sorted(names, key=_place)]

    def _state(self, name: str) -> JobState:
        log = self.root / log_of(name)
        if self._is_done(name):
            return JobState(name, Status.DONE, log)
        asked = max(self.keys.get(name, 0.0), self.run_time)
        log_time = _time(log)
        lines = log_lines(log) if log_time >= asked and log_time else []
        if has_failed(lines):
            return JobState(name, Status.FAILED, log, message=tuple(failure(lines)))
        lock_time = self.locks.get(name, 0.0)
        if max(lock_time, log_time) < asked or not max(lock_time, log_time):
            return JobState(name, Status.WAITING, log)
        holder = ""
        if lock_time >= asked:  # an older lock is of an earlier run
            holder = _read(self.root / "records" / f"{name}.lock").partition("\n")[0]
        if is_gone(holder, lock_time) or (not holder and self._has_local_run_ended()):
            message = ("Its process ended without a message: it was stopped or killed.",)
            return JobState(name, Status.FAILED, log, message=message)
        count = last_count(lines)
        left = None if count is None else _seconds_left(count, self.now - log_time)
        return JobState(name, Status.RUNNING, log, count, left, holder)

    def _is_done(self, name: str) -> bool:
        if name not in self.records:
            return False
        if self.records[name] >= self.keys.get(name, 0.0):
            return True
        key = _read_json(self.root / "keys" / f"{name}.json")
        if not key.get("runs_because"):
            return True
        # The times of a copied folder mean nothing; those in the files remain.
        outputs = _read_json(self.root / "records" / f"{name}.json").get("outputs", {})
        return bool(outputs) and _newest(outputs) >= key.get("written", 0)

    def warnings(self, jobs: Iterable[JobState]) -> list[str]:
        """Return the warnings of the newest logs, each once, the newest last."""
        times = [(_time(job.log), job) for job in jobs if job.status is not Status.WAITING]
        newest = sorted(times, key=lambda item: item[0])[-LOGS_READ:]
        found: dict[str, None] = {}
        for _, job in newest:
            for line in warnings_in(log_lines(job.log)):
                found[f"{title(job)}: {line.removeprefix(f'{job.stage}: ')}"] = None
        return list(found)

    def is_silent(self, job: JobState) -> float:
        """Return for how many seconds a job has had no news; 0 if it has.

        A job that was started in a terminal has a lock and no log.
        """
        age = self.now - max(_time(job.log), self.locks.get(job.name, 0.0))
        return age if age > QUIET_SECONDS else 0.0

    def dice(self) -> list[str]:
        """Return the mean Dice of each round as texts; empty without a report."""
        lines = _read(self.root / "rounds.csv").splitlines()
        if not lines:
            return []
        columns = lines[0].split(",")
        if not {"round", "dice"} <= set(columns):
            return []
        found = []
        for line in lines[1:]:
            cells = line.split(",")
            with suppress(ValueError, IndexError):
                dice = float(cells[columns.index("dice")])
                found.append(f"round {cells[columns.index('round')]}: {dice:.3f}")
        return found

    def _has_local_run_ended(self) -> bool:
        """Return whether no job of the last run can be active; on a cluster, jobs outlive a run."""
        return self.run is not None and not self.run.is_cluster and self.run_is_gone()

    def run_is_gone(self) -> bool:
        """Return whether the process of the last run has ended, as far as this machine can see."""
        if self.run is None:
            return False
        holder = f"process {self.run.process} on {self.run.machine} since {self.run.started}"
        return is_gone(holder, self.run_time)

    def seconds_of(self, names: Iterable[str]) -> float | None:
        """Return how long jobs take: as long as last time, or as estimated at the last start.

        Returns:
            None if a job has neither run nor been estimated.
        """
        expected = {job.name: job for job in self.run.jobs} if self.run else {}
        speed = _speeds(self.root, self.jobs(), {n: job.seconds for n, job in expected.items()})
        total = 0.0
        for name in names:
            job = expected.get(name)
            seconds = _benchmark(self.root / benchmark_of(name))
            if seconds is None and job is not None and job.seconds is not None:
                seconds = job.seconds * speed.get(stage_of(name), speed.get("", 1.0))
            if seconds is None:
                return None
            total += seconds / max(1, job.side_by_side if job else 1)
        return total

    def time_left(self, jobs: Iterable[JobState]) -> "TimeLeft | None":
        """Return the time until all jobs are done; None without an estimate at the start."""
        if self.run is None or all(job.seconds is None for job in self.run.jobs):
            return None
        jobs = list(jobs)
        expected = {job.name: job for job in self.run.jobs}
        speed = _speeds(self.root, jobs, {job.name: job.seconds for job in self.run.jobs})
        seconds = 0.0
        is_measured = True
        for job in jobs:
            if job.status is Status.DONE or job.name not in expected:
                continue
            factor = speed.get(job.stage)
            is_measured &= factor is not None or job.seconds_left is not None
            whole = (expected[job.name].seconds or 0.0) * (factor or speed.get("", 1.0))
            left = whole if job.seconds_left is None else job.seconds_left
            seconds += left / max(1, expected[job.name].side_by_side)
        return TimeLeft(seconds, is_measured)


@dataclass(frozen=True)
class TimeLeft:
    """Time until an experiment is done."""

    seconds: float
    is_measured: bool
    """Whether all stages that are left have been measured in this experiment."""


def title(job: JobState) -> str:
    """Return a job in words: ``student, round 1, seed_0``."""
    words = [job.stage]
    for word in job.name.split(".")[1:]:
        words.append(word.replace("round_", "round "))
    return ", ".join(words)


def is_gone(holder: str, written: float) -> bool:
    """Return whether a process of this machine has ended. Those of other machines are not known.

    After a restart of the machine, another process may have the same number.

    Args:
        holder: what the process has written.
        written: the time stamp of the file. The disk may have another clock.
    """
    match = HOLDER.match(holder)
    if match is None or match["machine"] != platform.node():
        return False
    process = int(match["process"])
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    known = max(written, _seconds_of(match["since"]))
    return start_of_process(process) > known + START_TOLERANCE


def _seconds_of(moment: str) -> float:
    """Convert a local time to seconds; 0 if it is not readable."""
    try:
        return time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return 0.0


def start_of_process(process: int) -> float:
    """Return when a process has started; 0 if it is not known, as on macOS."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        # The name of the program, in brackets, may have spaces. The 22nd column is the start.
        ticks = int(text.rpartition(")")[2].split()[19])
        uptime = time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def _speeds(
    root: Path, jobs: Iterable[JobState], expected: Mapping[str, float | None]
) -> dict[str, float]:
    """Return measured divided by expected time by stage, and for all together by ``""``."""
    measured: dict[str, list[tuple[float, float]]] = {}
    done = [job for job in jobs if job.status is Status.DONE]
    for job in done[-BENCHMARKS_READ:]:
        seconds = _benchmark(root / benchmark_of(job.name))
        known = expected.get(job.name)
        if seconds is not None and known:
            for key in (job.stage, ""):
                measured.setdefault(key, []).append((seconds, known))
    ratios = {}
    for key, pairs in measured.items():
        ratios[key] = sum(pair[0] for pair in pairs) / sum(pair[1] for pair in pairs)
    return ratios


def _benchmark(path: Path) -> float | None:
    """Return the seconds of the last run of a job."""
    lines = _read(path).splitlines()
    if len(lines) < 2:
        return None
    with suppress(ValueError):
        return float(lines[-1].split("\t")[0])
    return None


def _seconds_left(count: Count, age: float) -> float | None:
    if not count.rate:
        return None
    return max(0.0, (count.total - count.done) / count.rate - age)


def _place(name: str) -> tuple[int, int, str]:
    """Return the place of a job in the order in which the stages run."""
    stage = stage_of(name)
    number = round_of(name)
    place = STAGES.index(stage) if stage in STAGES else len(STAGES)
    if number is None:
        number = 0 if place < STAGES.index("teacher") else LAST_ROUND
    if stage == "track":
        number = LAST_ROUND
    return number, place, name


def _last_run(root: Path) -> LastRun | None:
    path = root / RUN_FILE
    if not path.is_file():
        return None
    try:
        return LastRun.load(path)
    except HstfError:
        return None  # of another version


def _times(folder: Path) -> dict[str, float]:
    """Return the times of all files of a folder."""
    found = {}
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                found[entry.name] = entry.stat().st_mtime
    return found


def _of_kind(times: Mapping[str, float], suffix: str) -> dict[str, float]:
    return {
        name.removesuffix(suffix): moment
        for name, moment in times.items()
        if name.endswith(suffix) and not name.startswith(".")
    }


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _newest(outputs: Mapping[str, Any]) -> int:
    """Return the time of the newest result in a record, in nanoseconds."""
    times = [0]
    for file in outputs.values():
        with suppress(TypeError, KeyError, IndexError):
            times.append(int(file["stamp"][1]))
    return max(times)
