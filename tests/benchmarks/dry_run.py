"""Measure the time and the memory of a dry run with many cases.

``python tests/benchmarks/dry_run.py [--cases 10000] [--rounds 3] [--shard-size 100]
[--finished]``. The scans are empty files, because a dry run reads only their names and times. A
finished experiment has a small file for each result, and the records that make them valid.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from hstf.config.load import load_config
from hstf.experiment.jobs import Jobs
from hstf.experiment.records import recorded

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
experiment: many
cases: {folder}/cases.csv
rounds: {rounds}
{shard_size}
"""


@dataclass(frozen=True)
class DryRun:
    """What a dry run took and planned."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    jobs: int


def make_experiment(folder: Path, unlabelled: int, rounds: int, shard_size: int | None) -> None:
    """Write a configuration, a case sheet and empty scans to ``folder``."""
    splits = ["labelled"] * 50 + ["test"] * 200 + ["unlabelled"] * unlabelled
    rows = ["case_id,image,label,split"]
    for number, split in enumerate(splits):
        image = f"image_{number:05d}.nii.gz"
        (folder / image).touch()
        label = ""
        if split != "unlabelled":
            label = f"label_{number:05d}.nii.gz"
            (folder / label).touch()
        rows.append(f"case_{number:05d},{image},{label},{split}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.yaml").write_text(
        CONFIG.format(
            folder=folder,
            rounds=rounds,
            shard_size=f"shard_size: {shard_size}" if shard_size else "",
        )
    )


def dry_run(folder: Path) -> DryRun:
    """Run Snakemake with ``--dry-run`` on the experiment in ``folder``."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / "config.yaml")]
    command += ["--cores", "8", "--dry-run", "--quiet", "rules"]
    cpu = _cpu_seconds()
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    lines = (done.stdout + done.stderr).splitlines()
    jobs = [int(line.split()[1]) for line in lines if line.startswith("total")]
    return DryRun(seconds, _cpu_seconds() - cpu, megabytes, jobs[0] if jobs else 0)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def finish(folder: Path) -> None:
    """Write a few bytes for each result, and the record of each job."""
    os.chdir(folder)
    jobs = Jobs(load_config(folder / "config.yaml"))
    for job in jobs.all():
        for path in jobs.outputs(job):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(job.name)
        with recorded(jobs, job):
            pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=10_000, help="number of unlabelled cases")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shard-size", type=int, help="default: as the workflow chooses")
    parser.add_argument("--finished", action="store_true", help="with the results of all jobs")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_experiment(Path(name), args.cases, args.rounds, args.shard_size)
        if args.finished:
            finish(Path(name))
        for attempt in ("first", "second"):
            run = dry_run(Path(name))
            print(
                f"{args.cases} cases, {args.rounds} rounds, {run.jobs} jobs, {attempt} dry run:"
                f" {run.seconds:.1f} s, {run.cpu_seconds:.1f} CPU s, {run.megabytes:.0f} MB",
                flush=True,
            )
        os.chdir(ROOT)


if __name__ == "__main__":
    main()
