"""A GPU for each process of a machine, as long as there are enough.

Nobody sets ``CUDA_VISIBLE_DEVICES`` for jobs that run without SLURM. Each process therefore takes
the GPU that the fewest other processes of its user use. A lease is a lock file, so it ends with its
process.

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

    There is no choice with one GPU, or if SLURM assigned the GPUs to this process. The processes of
    one training take the GPUs that SLURM assigned to the job by their local rank.

    Raises:
        HstfError: as :func:`lease_folder`.
    """
    if count < 2:
        return None
    if "SLURM_JOB_ID" in os.environ:
        local_rank = os.environ.get("LOCAL_RANK")
        return int(local_rank) % count if local_rank is not None else None
    names = visible_devices(count, os.environ)
    folder = lease_folder()
    return None if folder is None else lease(names, folder)


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
    """Return the names of the visible GPUs: those of the environment, or their numbers."""
    visible = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = [name.strip() for name in visible]
    return names if len(names) == count else [str(index) for index in range(count)]
