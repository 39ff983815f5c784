"""A GPU for each process."""

import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from pathlib import Path

from hstf.runtime.locks import Taken, take

SLOTS = 64  # processes that may share a GPU


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
    return lease(
        visible_devices(count, os.environ), Path(tempfile.gettempdir()) / "hstf_gpu_leases"
    )
