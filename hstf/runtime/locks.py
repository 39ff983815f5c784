"""Locks that end with the process that holds them.

They are file locks of the kernel (flock), so a killed process leaves nothing behind that somebody
would have to remove. On a disk without locks (some network disks) nothing is locked.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

POLL_SECONDS = 0.5


class Taken(Exception):
    """Another process holds the lock; the text names the process."""


def take(path: Path) -> int:
    """Lock ``path`` until the returned file descriptor is closed. The file is created if needed.

    Raises:
        Taken: if another process holds the lock.
        OSError: if the file cannot be opened or the disk has no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").partition("\n")[0]
        os.close(descriptor)
        raise Taken(holder or "another process") from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    holder = f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}"
    os.write(descriptor, holder.encode())
    return descriptor


def holder_of(path: Path) -> str:
    """Return the process that holds a lock now; empty if nobody does or the disk has no locks."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace") or "another process"
    except OSError:
        return ""
    finally:
        os.close(descriptor)
    return ""


@contextmanager
def exclusive(path: Path, title: str) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; wait for another process that has it.

    A killed workflow may leave its jobs running. The next run starts them again, waits here, and
    finds their work done. Of the processes of one training only the first one takes the lock.

    Args:
        path: the lock file.
        title: what the message about waiting begins with.
    """
    descriptor = None
    if is_first_process():
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _wait(path, title)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def is_first_process() -> bool:
    """Return whether this is the first of the processes that torchrun has started, or the only one.

    The environment states it before PyTorch is imported.
    """
    return os.environ.get("RANK", "0") == "0"


def _wait(path: Path, title: str) -> int:
    announced = False
    while True:
        try:
            return take(path)
        except Taken as holder:
            if not announced:
                print(f"{title}: waiting for {holder}, which does the same work", flush=True)
            announced = True
            time.sleep(POLL_SECONDS)
