"""One run of Snakemake at a time in a folder, and one that writes the results of an experiment."""

import os
import platform
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

from hstf.runtime.locks import holder_of, take

RUN_LOCK = Path(".snakemake") / "hstf.lock"
"""Is held by the run that is active in the current folder."""
RESULTS_LOCK = Path("logs") / "run.lock"
"""Is held by the run that writes the results of an experiment, whatever its folder is."""
LOCKS = "locks"
LEFTOVERS = (LOCKS, "incomplete")
"""What a killed run leaves in ``.snakemake``: its locks and its marks of unfinished outputs."""
MOUNTS = Path("/proc/mounts")
LOCAL_DISKS = (
    "bcachefs",
    "btrfs",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "overlay",
    "tmpfs",
    "xfs",
    "zfs",
)
"""Types of disks that one machine uses. A lock on such a disk is seen by all its processes."""


@cache
def lock_run(folder: Path, stays: bool = True) -> str:
    """Lock the folder ``.snakemake`` for the life of this process.

    Snakemake's own lock outlives a killed run and looks like the lock of a living run. If
    nobody else has the folder, the leftovers of a killed run are removed. Its marks of unfinished
    outputs are not needed: an output of HSTF appears whole or not at all.

    The locks of a run on another machine stay if the disk may be used by several machines, because
    its lock may not be seen here. On a local disk, another name only means that the machine was
    renamed, or that a container was started again.

    Args:
        folder: the folder ``.snakemake``.
        stays: whether the lock stays. A dry run needs it only to remove the leftovers: it must not
            stop a run that starts meanwhile.

    Returns:
        A message about a run that was stopped or killed; empty if there was none.

    Raises:
        Taken: if another run is using the folder.
    """
    lock = folder / RUN_LOCK.name
    try:
        folder.mkdir(exist_ok=True)
        last_run = _last_run(lock)
        descriptor = take(lock)  # stays open until the process ends
    except OSError:
        return ""
    message = _remove_leftovers(folder, last_run, descriptor)
    if not stays:
        os.close(descriptor)
    return message


def _remove_leftovers(folder: Path, last_run: str, descriptor: int) -> str:
    """Remove what an earlier run left, and return a message about it."""
    found = [name for name in LEFTOVERS if any((folder / name).glob("*"))]
    is_from_here = not last_run or f" on {platform.node()} " in last_run
    if LOCKS in found and not is_from_here and _disk_type(folder) not in LOCAL_DISKS:
        # The next run must know, too, whose locks these are.
        os.write(descriptor, f"\n{last_run}".encode())
        return (
            f"the last run here was {last_run}, and this is {platform.node()}. Its lock stays,"
            " because a run on another machine may not be seen here. If no run is active there,"
            " start this command once with --unlock, and then as before."
        )
    for name in found:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(exist_ok=True)
    if not found:
        return ""
    if LOCKS not in found:  # Snakemake removed its lock itself
        return "the last run here was stopped. Its unfinished jobs continue."
    return "the last run here was killed. Its lock is removed, and its unfinished jobs continue."


@cache
def lock_results(root: Path) -> None:
    """Lock the results of an experiment for the life of this process.

    Two copies of the repository may have the same folder of results (``output:``). Each run would
    delete results that a job of the other one reads.

    Raises:
        Taken: if another run is writing the results.
    """
    lock = root / RESULTS_LOCK
    with suppress(OSError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        take(lock)  # stays open until the process ends


def active_run(root: Path) -> str:
    """Return the run that is active in the current folder or writes the results in ``root``."""
    return holder_of(RUN_LOCK) or holder_of(root / RESULTS_LOCK)


def _last_run(lock: Path) -> str:
    """Return the process that left the locks of Snakemake; empty if it is not known."""
    if not lock.is_file():
        return ""
    lines = lock.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


def _disk_type(folder: Path) -> str:
    """Return the type of the file system of a folder, such as ``ext4``; empty if not known."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    path = folder.resolve()
    found = ""
    deepest = -1
    for line in lines:
        _, mounted, disk, *_ = line.split(" ")
        mount_point = Path(mounted.replace("\\040", " "))
        depth = len(mount_point.parts)
        if depth >= deepest and path.is_relative_to(mount_point):
            deepest = depth
            found = disk
    return found
