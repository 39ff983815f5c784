"""A GPU for each process of a machine, as long as there are enough.

Nobody sets ``CUDA_VISIBLE_DEVICES`` for jobs that run without SLURM, or for those of a whole run
within one job of SLURM (``salloc``). Each process therefore takes the GPU that the fewest other
processes of its user use. A lease is a lock file, so it ends with its process.

The folder of the locks is private: nobody else can hold locks in it to stop a training, or put
links there. Therefore users do not see the leases of each other.
"""

import os
import re
import stat
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from hstf.runtime.errors import HstfError
from hstf.runtime.locks import Taken, take

SLOTS = 64
"""Maximum number of processes that share a GPU."""


def gpu_of_this_process(count: int) -> int | None:
    """Return the index of the GPU that this process uses; None if there is no choice.

    There is no choice with one GPU. The processes of one training choose among different GPUs,
    because they cannot use the same one.

    Raises:
        HstfError: as :func:`lease_folder`.
    """
    if count < 2:
        return None
    names = visible_devices(count, os.environ)
    indices = indices_of_rank(count, os.environ)
    folder = lease_folder()
    position = lease([names[index] for index in indices], folder) if folder is not None else None
    return indices[position or 0]


def indices_of_rank(count: int, environment: Mapping[str, str]) -> list[int]:
    """Return the GPUs that this process of a training may use: every second one of two processes.

    Example:
        >>> indices_of_rank(4, {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"})
        [1, 3]
        >>> indices_of_rank(4, {})
        [0, 1, 2, 3]
    """
    rank = int(environment.get("LOCAL_RANK", "0"))
    size = int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return list(range(rank, count, size)) or [rank % count]


def count_gpus(devices: Path = Path("/dev")) -> int:
    """Return the number of GPUs that may be used, without PyTorch, which takes seconds to start.

    Args:
        devices: the folder of the device files.
    """
    found = len(list(devices.glob("nvidia[0-9]*")))
    if not found and (devices / "dxg").exists():
        found = 1  # Windows Subsystem for Linux
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return found
    names = [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    return min(found, len(names))


def lease_folder() -> Path | None:
    """Return the private folder of the locks, which is created if necessary.

    It is ``hstf-<uid>`` in the folder for temporary files. If somebody else owns this one, it is in
    ``XDG_RUNTIME_DIR``, which does not outlive the login.

    Returns:
        The folder; None if nothing can be written to either place.

    Raises:
        HstfError: if the folder belongs to another user and there is no other place.
    """
    name = f"hstf-{os.geteuid()}"
    places = [Path(tempfile.gettempdir()) / name]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        places.append(Path(runtime) / name)
    foreign = []
    for place in places:
        with suppress(OSError):
            if _is_private(place):
                return place
            foreign.append(str(place))
    if foreign:
        raise HstfError(
            f"{' and '.join(foreign)}: belongs to another user or is a link. The locks of the GPUs"
            " need a folder that only you can write to. Ask for its removal, or set TMPDIR to a"
            " folder of your own, or CUDA_VISIBLE_DEVICES to one GPU."
        )
    return None


def _is_private(folder: Path) -> bool:
    """Create a folder and return whether only this user can use it."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        return False
    if stat.S_IMODE(status.st_mode) != 0o700:
        folder.chmod(0o700)
    return True


def lease(devices: Sequence[str], folder: Path) -> int | None:
    """Lease the device that the fewest processes use until this process ends.

    Returns:
        The position of the device in ``devices``; None if the disk of ``folder`` has no locks.
    """
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        for slot, index in product(range(SLOTS), range(len(devices))):
            name = re.sub(r"[^\w-]", "_", devices[index])
            with suppress(Taken):
                take(folder / f"gpu_{name}_{slot}.lock")  # stays open until the process ends
                return index
    return None


def visible_devices(count: int, environment: Mapping[str, str]) -> list[str]:
    """Return the names of the visible GPUs: those of the environment, or their numbers.

    SLURM may number the GPUs of each job from 0. So there the number of the job is in the name.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [name.strip() for name in visible]
    if len(names) != count:
        names = [str(index) for index in range(count)]
    job = environment.get("SLURM_JOB_ID")
    return [f"{name}_of_job_{job}" for name in names] if job else names
