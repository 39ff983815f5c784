"""Scanning files side by side, and keeping what was found so that an unchanged file is not read again."""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hstf.imaging.scan import Scan, scan_file
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, write_text
from hstf.runtime.processes import ProcessDied, map_processes
from hstf.runtime.progress import Progress
from hstf.stages.check.problems import Source

CACHE_VERSION = 2
CACHE_SECONDS = 60.0
DIED = Scan(problem="that the process reading it was killed, most likely for lack of memory")

Task = tuple[Path, bool]
"""A file, and whether it is a label."""


def scan_all(wanted: Sequence[Source], cache: Path, workers: int) -> dict[Source, Scan]:
    """Scan files in ``workers`` processes; those that ``cache`` knows with the same size and time are not read.

    Raises:
        HstfError: processes cannot be started, or the cache cannot be written.
    """
    kept = Cache(cache)
    tasks = list(dict.fromkeys((source.path, source.is_label) for source in wanted))
    scans = {task: scan for task in tasks if (scan := kept.get(task)) is not None}
    unread = [task for task in tasks if task not in scans]
    with Progress("check", len(unread)) as progress:
        try:
            for task, result in map_processes(_scan, unread, workers):
                scans[task] = DIED if isinstance(result, ProcessDied) else result
                kept.put(task, scans[task])
                progress.advance(task[0].name)
        finally:
            kept.save()
    print(
        f"check: {len(unread)} files read, {len(tasks) - len(unread)} unchanged since they were",
        flush=True,
    )
    return {source: scans[source.path, source.is_label] for source in wanted}


def _scan(task: Task) -> Scan:
    return scan_file(*task)


class Cache:
    """Scans of sound files by path and role, valid while size and time of the file stay."""

    def __init__(self, file: Path) -> None:
        self.file, self.saved = file, time.monotonic()
        self.entries: dict[str, Any] = {}
        self.stamps: dict[str, list[int]] = {}
        with suppress(
            HstfError, KeyError, TypeError
        ):  # torn or of another version: everything is read
            content = read_json(file)
            self.entries = content["files"] if content["version"] == CACHE_VERSION else {}

    def get(self, task: Task) -> Scan | None:
        """The scan of an unchanged file. Takes the stamp that a fresh scan will be kept with."""
        name, status = _name(task), None
        with suppress(OSError, ValueError):
            status = task[0].stat()
        if status is not None:
            self.stamps[name] = [status.st_size, status.st_mtime_ns]
        entry = self.entries.get(name)
        return (
            Scan.model_validate(entry["scan"])
            if entry and entry["stamp"] == self.stamps.get(name)
            else None
        )

    def put(self, task: Task, scan: Scan) -> None:
        """Keep a scan; those of faulty files are not kept."""
        name = _name(task)
        if not scan.problem and name in self.stamps:
            self.entries[name] = {"stamp": self.stamps[name], "scan": scan.model_dump()}
        if time.monotonic() - self.saved > CACHE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the cache: little beside the reading of the files."""
        self.saved = time.monotonic()
        write_text(self.file, json.dumps({"version": CACHE_VERSION, "files": self.entries}))


def _name(task: Task) -> str:
    path, label = task
    return f"{'label' if label else 'image'}:{path.absolute()}"
