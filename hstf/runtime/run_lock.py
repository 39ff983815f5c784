"""One run of Snakemake at a time in a folder."""

import platform
import shutil
from functools import cache
from pathlib import Path

from hstf.runtime.locks import take

LEFTOVERS = ("locks", "incomplete")
"""What a killed run leaves in ``.snakemake``: its locks and its marks of unfinished outputs."""


@cache
def lock_run(folder: Path) -> str:
    """Lock the folder ``.snakemake`` for the life of this process.

    Snakemake's own lock outlives a killed run and looks like the lock of a living run. If
    nobody else has the folder, the leftovers of a killed run are removed. Its marks of unfinished
    outputs are not needed: an output of HSTF appears whole or not at all. Leftovers of another
    machine stay, because the lock of a network folder may not work across machines.

    Returns:
        A message about a killed run; empty if there was none.

    Raises:
        Taken: if another run is using the folder.
    """
    lock = folder / "hstf.lock"
    try:
        folder.mkdir(exist_ok=True)
        previous = lock.read_text() if lock.is_file() else ""
        take(lock)  # stays open until the process ends
    except OSError:
        return ""
    found = [name for name in LEFTOVERS if any((folder / name).glob("*"))]
    is_from_here = not previous or f" on {platform.node()} " in previous
    if not found or not is_from_here:
        return ""
    for name in found:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(exist_ok=True)
    return "the last run here was killed. Its lock is removed, and its unfinished jobs continue."
