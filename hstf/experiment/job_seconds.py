"""The time of jobs, from the benchmark files that Snakemake writes."""

from dataclasses import dataclass
from math import isfinite
from pathlib import Path


@dataclass(frozen=True)
class Compute:
    """Seconds of all jobs together, as measured by Snakemake.

    An interrupted job counts from its last start.
    """

    cpu: float
    wall: float

    def __add__(self, other: "Compute") -> "Compute":
        """Add the seconds of other jobs."""
        return Compute(self.cpu + other.cpu, self.wall + other.wall)


def job_seconds(file: Path) -> Compute:
    """Read the benchmark file of a job (:func:`hstf.experiment.last_run.benchmark_of`).

    Snakemake omits the CPU time of very short jobs, which then counts as 0. After a full disk or a
    crash the file may be empty.
    """
    rows = [line.split("\t") for line in file.read_text(errors="replace").splitlines()]
    header, lines = (rows[0], rows[1:]) if rows else ([], [])
    cpu = 0.0
    wall = 0.0
    for line in lines:
        row = dict(zip(header, line, strict=False))
        cpu += _seconds(row.get("cpu_time", ""))
        wall += _seconds(row.get("s", ""))
    return Compute(cpu, wall)


def _seconds(text: str) -> float:
    """Convert a cell to seconds; ``NA``, ``-`` and an empty cell are 0."""
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if isfinite(value) else 0.0
