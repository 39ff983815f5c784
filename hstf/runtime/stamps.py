"""Recognise files that have not changed since they were hashed, without reading them again."""

import os
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from hstf.runtime.documents import Part
from hstf.runtime.files import sha256_file
from hstf.runtime.voxel_files import voxel_file


class Stamp(NamedTuple):
    """What the file system knows about a file.

    Programs can set the time of the last change of the content, but not that of the last change of
    the status. So a file that was edited, or replaced by a copy with the same size and an older
    time, has another stamp.
    """

    size: int
    """Bytes."""
    modified: int
    """Time of the last change of the content, in nanoseconds."""
    changed: int
    """Time of the last change of content or status, in nanoseconds."""
    inode: int


class HashedFile(Part):
    """A file, its SHA-256, and its stamp when it was hashed."""

    path: str
    sha256: str
    stamp: Stamp


CLOCK_TOLERANCE = 5.0
"""Seconds by which the clocks of two machines may differ."""


_known: dict[tuple[Path, Stamp], str] = {}
"""SHA-256 of the files that this process has hashed."""


def stamp_of(path: Path) -> Stamp | None:
    """Return the stamp of a file; None if it does not exist."""
    try:
        status = path.stat()
        voxels = voxel_file(path)
        if voxels is not None:
            return _joined(status, voxels.stat())
    except OSError:
        return None
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _joined(header: os.stat_result, voxels: os.stat_result) -> Stamp:
    """Return the stamp of a volume in two files. The inode is that of the voxels."""
    return Stamp(
        header.st_size + voxels.st_size,
        max(header.st_mtime_ns, voxels.st_mtime_ns),
        max(header.st_ctime_ns, voxels.st_ctime_ns),
        voxels.st_ino,
    )


def remember(path: Path, stamp: Stamp, sha256: str) -> None:
    """Keep a SHA-256 that was computed elsewhere, so that the file is not read again."""
    _known[path, stamp] = sha256


def sha256_once(path: Path) -> str:
    """Return the SHA-256 of a file. In one process an unchanged file is read once.

    Raises:
        HstfError: if the file is missing or cannot be read.
    """
    file = hash_file(path)
    return file.sha256 if file is not None else sha256_file(path)  # the latter raises


def hash_file(path: Path) -> HashedFile | None:
    """Hash a file. In one process an unchanged file is read once.

    Returns:
        None if the file does not exist.

    Raises:
        HstfError: if the file cannot be read.
    """
    stamp = stamp_of(path)
    if stamp is None:
        return None
    if (path, stamp) not in _known:
        _known[path, stamp] = sha256_file(path)
    return HashedFile(path=str(path), sha256=_known[path, stamp], stamp=stamp)


def future_date(path: Path) -> str:
    """Describe the time stamp of a file if it is in the future; empty for any other file.

    Snakemake stops after each job whose results are older than a file that the job has read.
    """
    try:
        modified = max(path.stat().st_mtime, os.lstat(path).st_mtime)
    except OSError:
        return ""
    now = time.time()
    if modified <= now + CLOCK_TOLERANCE:
        return ""
    return (
        f"is dated in the future ({_written(modified)}), on this machine it is {_written(now)}."
        f" Correct the clock, or set the time of the file: touch {shlex.quote(str(path))}"
    )


def _written(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
