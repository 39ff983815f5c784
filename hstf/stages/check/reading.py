"""Scan files in several processes, and keep the results: an unchanged file is not read again."""

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
from hstf.runtime.stamps import Stamp, remember, stamp_of
from hstf.stages.check.findings import Source

CACHE_VERSION = 5
CACHE_SECONDS = 60.0
"""Time after which the cache is saved again during a long run."""
DIED = Scan(
    problem="the process that read the file was killed, most likely because it ran out of memory"
)

Task = tuple[Path, str]
"""A file and its kind: label, mask or image."""


def scan_all(wanted: Sequence[Source], cache: Path, workers: int) -> dict[Source, Scan]:
    """Scan files in ``workers`` processes.

    Files that are in the cache with the same stamp are not read.

    Args:
        wanted: the files.
        cache: JSON file with the results of earlier runs.
        workers: number of processes.

    Raises:
        HstfError: if processes cannot be started, or if the cache cannot be written.
    """
    kept = Cache(cache)
    tasks = list(dict.fromkeys((source.path, source.kind) for source in wanted))
    scans: dict[Task, Scan] = {}
    for task in tasks:
        scan = kept.get(task)
        if scan is not None:
            scans[task] = scan
    unread = [task for task in tasks if task not in scans]
    with Progress("check", len(unread)) as progress:
        try:
            for task, result in map_processes(_scan, unread, workers):
                scan = DIED if isinstance(result, ProcessDied) else result
                scans[task] = scan
                kept.put(task, scan)
                progress.advance(task[0].name)
        finally:
            kept.save()
    print(f"check: {len(unread)} files read, {len(tasks) - len(unread)} unchanged", flush=True)
    return {source: scans[source.path, source.kind] for source in wanted}


def _scan(task: Task) -> Scan:
    path, kind = task
    return scan_file(path, label=kind == "label", is_mask=kind == "mask")


class Cache:
    """Scans of files without problems, valid while their stamps stay the same."""

    def __init__(self, file: Path) -> None:
        """Read the cache from ``file``; a missing, damaged or old cache is empty."""
        self.file = file
        self.saved = time.monotonic()
        self.entries: dict[str, Any] = {}
        self.stamps: dict[str, Stamp] = {}
        with suppress(HstfError, KeyError, TypeError):
            content = read_json(file)
            if content["version"] == CACHE_VERSION:
                self.entries = content["files"]

    def get(self, task: Task) -> Scan | None:
        """Return the scan of an unchanged file, or None.

        The stamp that a new scan of the file is stored with is taken here, before it is read.
        """
        name = _name(task)
        stamp = stamp_of(task[0])
        if stamp is None:
            return None
        self.stamps[name] = stamp
        entry = self.entries.get(name)
        if not entry or entry["stamp"] != list(stamp):
            return None
        scan = Scan.model_validate(entry["scan"])
        remember(task[0], stamp, scan.sha256)
        return scan

    def put(self, task: Task, scan: Scan) -> None:
        """Keep a scan, unless the file has a problem."""
        name = _name(task)
        if not scan.problem and name in self.stamps:
            stamp = self.stamps[name]
            self.entries[name] = {"stamp": list(stamp), "scan": scan.model_dump()}
            remember(task[0], stamp, scan.sha256)
        if time.monotonic() - self.saved > CACHE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the cache."""
        self.saved = time.monotonic()
        write_text(self.file, json.dumps({"version": CACHE_VERSION, "files": self.entries}))


def _name(task: Task) -> str:
    path, kind = task
    return f"{kind}:{path.absolute()}"
