"""The exception that a user is meant to read: sentences without a traceback."""

import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from hstf.runtime.links import link_problem

WRITE_ERRORS = {
    errno.EROFS: "The disk is read-only: mount it for writing, or use another folder.",
    errno.EACCES: "You may not write here: change the permissions, or use another folder.",
    errno.EPERM: "You may not write here: change the permissions, or use another folder.",
    errno.ENOSPC: "Free some space on this disk, and start again.",
    errno.EDQUOT: "Free some space in your quota, and start again.",
    errno.ENOTDIR: "A file has the name of a folder: rename it.",
    errno.EEXIST: "A file has the name of a folder: rename it.",
    errno.EISDIR: "A folder has the name of this file: rename it.",
}
"""What to do about an error of the operating system, by its number."""
LINK_ERRORS = (errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
"""What a link that leads nowhere may cause: the folder that it should be cannot be made."""
FULL_DISK_BYTES = 1 << 20
"""Number of free bytes below which a disk is full."""
MAXIMUM_PROBLEMS = 10
"""Number of problems that a message lists if there may be thousands."""
GPU_LIBRARY_ERRORS = ("cublas_status_alloc_failed", "cudnn_status_alloc_failed")
"""What the libraries of CUDA report if the memory of a GPU is full, in lower case."""


class HstfError(Exception):
    """A problem in data, configuration or files: what was found, what was expected, what to do."""


class WriteError(HstfError):
    """A file or folder that could not be written, for example because the disk is full."""


def join_problems(headline: str, problems: Sequence[str]) -> HstfError:
    """Put all ``problems`` in one error below ``headline``, so that they can be fixed in one go."""
    return HstfError("\n".join([headline, *(f"  - {problem}" for problem in problems)]))


def write_error(path: Path | str, error: OSError) -> WriteError:
    """Describe why a file or folder could not be written, and what to do."""
    number = error.errno
    reason = error.strerror or str(error)
    if number is None and _is_full(Path(path).parent):
        # numpy only states how much of an array it has written.
        number = errno.ENOSPC
        reason = os.strerror(number)
    advice = WRITE_ERRORS.get(number or 0, "")
    if number in LINK_ERRORS and (problem := link_problem(Path(path))):
        advice = f"{problem}."
    return WriteError(f"{path}: could not be written ({reason}). {advice}".rstrip())


def _is_full(folder: Path) -> bool:
    """Return whether the disk of a folder is full; a folder that cannot be found has no disk."""
    try:
        return shutil.disk_usage(folder).free < FULL_DISK_BYTES
    except OSError:
        return False


def shortened(problems: Sequence[str]) -> list[str]:
    """Keep the first of ``problems`` and the number of the others; there may be thousands."""
    rest = len(problems) - MAXIMUM_PROBLEMS
    if rest <= 0:
        return list(problems)
    return [*problems[:MAXIMUM_PROBLEMS], f"and {rest} more"]


def few(names: Iterable[str]) -> str:
    """List the first three of ``names``; there may be thousands."""
    first = list(islice(names, 4))
    more = " and more" if len(first) > 3 else ""
    return ", ".join(first[:3]) + more


def numbers(values: Iterable[float]) -> str:
    """Write numbers for a message: ``40 x 40 x 32``."""
    return " x ".join(f"{value:.6g}" for value in values)


def is_memory_error(error: Exception) -> bool:
    """Return whether ``error`` means out of memory; PyTorch raises a plain RuntimeError for it."""
    message = str(error).lower()
    causes = ("can't allocate memory", "out of memory", *GPU_LIBRARY_ERRORS)
    return isinstance(error, MemoryError) or any(cause in message for cause in causes)


def is_gpu_memory_error(error: Exception) -> bool:
    """Return whether ``error`` means that the memory of a GPU is full, which workers do not use."""
    message = str(error).lower()
    is_from_gpu = type(error).__name__ == "OutOfMemoryError" or "cuda" in message
    is_from_library = any(cause in message for cause in GPU_LIBRARY_ERRORS)
    return is_memory_error(error) and (is_from_gpu or is_from_library)
