"""Who has what on this machine: a run its folder, a process its shard or training, a job its GPU.

All of it hangs on file locks of the kernel (flock), which end with the process that holds them, however it ends: nothing
is left behind that somebody would have to clear away. A disk that knows no locks (some network disks) has none.
"""

import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Taken(Exception):
    """A lock is held by another process; the text says by which."""


def take(path: Path) -> int:
    """Lock ``path``, which is made when need be, for as long as the returned file descriptor stays open.

    Raises:
        Taken: somebody has it.
        OSError: it cannot be opened, or the disk knows no locks.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace")
        os.close(descriptor)
        raise Taken(holder or "another process") from None
    except OSError:
        os.close(descriptor)
        raise
    os.ftruncate(descriptor, 0)
    os.write(
        descriptor,
        f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}".encode(),
    )
    return descriptor


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; when another process has it, say so and wait.

    A killed workflow leaves its jobs running. The next one starts them again, waits here, and finds their work done.
    """
    descriptor = None
    if (
        os.environ.get("RANK", "0") == "0"
    ):  # of the ranks of one training the first holds it for all
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _wait(path, what)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait(path: Path, what: str) -> int:
    told = False
    while True:
        try:
            return take(path)
        except Taken as holder:
            if not told:
                print(f"{what}: {holder} is at it; waiting until it is done or ended", flush=True)
            told = True
            time.sleep(0.5)
