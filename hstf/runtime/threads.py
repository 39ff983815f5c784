"""How many threads a command computes with, and how they wait for each other.

Between two parallel operations, the threads of OpenMP spin: they wait busily for some milliseconds.
That is fastest if a command has its cores for itself. If other jobs use the same cores, threads
that only wait take them away from threads that compute, and two trainings at once take many times
as long.

OpenMP reads these settings when PyTorch is imported, so that they are set before. Settings of the
user stay. Snakemake sets ``OMP_NUM_THREADS`` to the threads of a job.
"""

import os
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
WAIT_POLICY = "OMP_WAIT_POLICY"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time of a container, or ``max``, in each period of so many microseconds."""


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def choose_threads() -> None:
    """Choose the threads of this process; they sleep while they wait if other jobs have cores, too.

    The processes of a training on several GPUs divide the threads among themselves.
    """
    cores = usable_cores()
    threads = _configured_threads() or cores
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(1, threads // ranks)
    if threads != len(os.sched_getaffinity(0)):
        os.environ[THREADS] = str(threads)
    if threads < cores:
        os.environ.setdefault(WAIT_POLICY, "passive")


def _configured_threads() -> int:
    """Return ``OMP_NUM_THREADS``, or 0 if it is no number."""
    value = os.environ.get(THREADS, "")
    return int(value) if value.isdecimal() else 0
