"""How many threads a command computes with, and how they wait for each other.

Between two parallel operations, the threads of OpenMP spin: they wait busily for some milliseconds.
That is fastest if a command has its cores for itself. If other jobs use the same cores, threads
that only wait take them away from threads that compute, and two trainings at once take many times
as long.

The same happens if programs outside of the workflow use the cores: a prediction took six times as
long beside another program, and 1.2 times with threads that sleep. Commands that run networks
therefore look at first whether the cores are free.

OpenMP reads these settings when PyTorch is imported, so that they are set before. Settings of the
user stay. Snakemake sets ``OMP_NUM_THREADS`` to the threads of a job.
"""

import os
import time
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
WAIT_POLICY = "OMP_WAIT_POLICY"
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
"""Microseconds of CPU time of a container, or ``max``, in each period of so many microseconds."""

CPU_TIMES = Path("/proc/stat")
"""What each core has done since the start of the machine (Linux)."""
WATCHED_SECONDS = 0.1
BUSY_CORES = 0.5
"""Threads sleep while they wait if other programs keep more cores busy than this."""


def own_cores() -> set[int]:
    """Return the numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # macOS binds no process to cores


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    cores = len(own_cores())
    try:
        quota, period = CPU_QUOTA.read_text().split()
    except (OSError, ValueError):
        return cores
    if quota == "max":
        return cores
    return max(1, min(cores, int(quota) // int(period)))


def choose_threads(runs_networks: bool) -> None:
    """Choose the threads of this process; they sleep while they wait if other jobs have cores, too.

    The processes of a training on several GPUs divide the threads among themselves.

    Args:
        runs_networks: whether the waiting matters, so that it is worth 0.1 seconds to look whether
            other programs use the cores.
    """
    cores = usable_cores()
    threads = configured_threads() or cores
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = max(1, threads // ranks)
    if threads != len(own_cores()):
        os.environ[THREADS] = str(threads)
    if WAIT_POLICY in os.environ:
        return
    if threads < cores or (runs_networks and busy_cores() > BUSY_CORES):
        os.environ[WAIT_POLICY] = "passive"


def busy_cores() -> float:
    """Return how many of the cores of this process other programs use now; 0 if it is unknown."""
    before = _busy_seconds()
    start = time.monotonic()
    time.sleep(WATCHED_SECONDS)
    return (_busy_seconds() - before) / (time.monotonic() - start)


def _busy_seconds() -> float:
    """Return the CPU time (s) of all programs on the cores of this process."""
    names = {f"cpu{core}" for core in own_cores()}
    try:
        lines = CPU_TIMES.read_text().splitlines()
    except OSError:
        return 0.0
    ticks = 0
    for line in lines:
        name, *columns = line.split()
        if name in names:
            # user, nice, system, idle, iowait, irq, softirq, steal; guests are a part of user
            times = [int(column) for column in columns[:8]]
            ticks += sum(times) - times[3] - times[4]
    return ticks / os.sysconf("SC_CLK_TCK")


def configured_threads() -> int:
    """Return ``OMP_NUM_THREADS``, which Snakemake sets to the threads of a job; 0 without it."""
    value = os.environ.get(THREADS, "")
    return int(value) if value.isdecimal() else 0
