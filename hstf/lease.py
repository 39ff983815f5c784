"""Who has what on this machine: a run its folder, a process its shard or training, a job its GPU.

All of it hangs on file locks of the kernel (flock), which end with the process that holds them, however it ends: nothing
is left behind that somebody would have to clear away. A disk that knows no locks (some network disks) has none.
"""

import fcntl
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import product
from pathlib import Path

SLOTS = 64  # processes that may share a GPU


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
        descriptor, f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}".encode()
    )
    return descriptor


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; when another process has it, say so and wait.

    A killed workflow leaves its jobs running. The next one starts them again, waits here, and finds their work done.
    """
    descriptor = None
    if os.environ.get("RANK", "0") == "0":  # of the ranks of one training the first holds it for all
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


def visible_devices(count: int, environment: Mapping[str, str]) -> list[str]:
    """Names of the ``count`` GPUs that torch sees: as the environment lists them, else their numbers."""
    listed = [name.strip() for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    return listed if len(listed) == count else [str(index) for index in range(count)]


def lease(devices: Sequence[str], folder: Path) -> int | None:
    """The place in ``devices`` of the one that the fewest processes have leased; it is leased until this process ends.

    None where the disk of ``folder`` knows no locks.
    """
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        with suppress(OSError):
            folder.chmod(0o777)  # every user of the machine leases the same devices
        for slot, index in product(range(SLOTS), range(len(devices))):
            name = re.sub(r"[^\w-]", "_", devices[index])
            with suppress(Taken):
                take(folder / f"gpu_{name}_{slot}.lock")  # never closed
                return index
    return None


def leased_index(count: int) -> int | None:
    """The index for torch of a GPU of its own for this process, or of the least used; None where there is no choice.

    One GPU, and one that SLURM or ``CUDA_VISIBLE_DEVICES`` gave to this process alone, need no lease; those that SLURM gave
    to several ranks of a training they take in turn.
    """
    if count < 2:
        return None
    if "SLURM_JOB_ID" in os.environ:
        return int(os.environ["LOCAL_RANK"]) % count if "LOCAL_RANK" in os.environ else None
    return lease(visible_devices(count, os.environ), Path(tempfile.gettempdir()) / "hstf_gpu_leases")
