"""One run of Snakemake at a time in a folder."""

import platform
import shutil
from functools import cache
from pathlib import Path

from hstf.runtime.locks import take


@cache
def sole_run(folder: Path) -> str:
    """Take the folder of Snakemake's memory (``.snakemake``) for the life of this process.

    Where nobody had it, what a killed run left in it is removed: its locks, and its marks of unfinished outputs. The marks
    are not needed: an output of ours appears whole or not at all. What another machine left stays: the lock of a shared
    folder may not reach across machines.

    Returns:
        What is to be said about a killed run; empty when there was none.

    Raises:
        Taken: another run is at work here; the text says which.
    """
    try:
        folder.mkdir(exist_ok=True)
        before = (folder / "hstf.lock").read_text() if (folder / "hstf.lock").is_file() else ""
        take(folder / "hstf.lock")  # never closed
    except OSError:
        return ""
    left = [name for name in ("locks", "incomplete") if any((folder / name).glob("*"))]
    if not left or (before and f" on {platform.node()} " not in before):
        return ""
    for name in left:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(exist_ok=True)
    return "the last run here was killed; its lock is removed, and jobs that it left unfinished go on where they were."
