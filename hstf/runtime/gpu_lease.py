"""A GPU for each process of a machine, as long as there are enough.

Nobody sets ``CUDA_VISIBLE_DEVICES`` for jobs that run without SLURM. Each process therefore takes
the GPU that the fewest other processes use. A lease is a lock file, so it ends with its process.
"""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from hstf.runtime.locks import Taken, take

SLOTS = 64
"""Maximum number of processes that share a GPU."""


def gpu_of_this_process(count: int) -> int | None:
    """Return the index of the GPU that this process uses; None if there is no choice.

    There is no choice with one GPU, or if SLURM assigned the GPUs to this process. The processes of
    one training take the GPUs that SLURM assigned to the job by their local rank.
    """
    if count < 2:
        return None
    if "SLURM_JOB_ID" in os.environ:
        local_rank = os.environ.get("LOCAL_RANK")
        return int(local_rank) % count if local_rank is not None else None
    names = visible_devices(count, os.environ)
    return lease(names, Path(tempfile.gettempdir()) / "hstf_gpu_leases")


def lease(devices: Sequence[str], folder: Path) -> int | None:
    """Lease the device that the fewest processes use until this process ends.

    Returns:
        The position of the device in ``devices``; None if the disk of ``folder`` has no locks.
    """
    with suppress(OSError):
        folder.mkdir(exist_ok=True)
        with suppress(OSError):
            folder.chmod(0o777)  # all users of the machine lease the same devices
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
