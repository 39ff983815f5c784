"""Seconds and memory of a dry run with many cases: ``python tests/benchmarks/dry_run.py [--cases 10000] [--rounds 3]``.

The scans are empty files: a dry run looks at names and times alone.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def make_experiment(folder: Path, unlabelled: int, rounds: int) -> None:
    """A configuration and a case sheet with empty scans in ``folder``."""
    splits = ["labelled"] * 50 + ["test"] * 200 + ["unlabelled"] * unlabelled
    rows = ["case_id,image,label,split"]
    for n, split in enumerate(splits):
        label = f"label_{n:05d}.nii.gz" if split != "unlabelled" else ""
        rows.append(f"case_{n:05d},image_{n:05d}.nii.gz,{label},{split}")
        for name in filter(None, rows[-1].split(",")[1:3]):
            (folder / name).touch()
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.yaml").write_text(
        f"experiment: many\ncases: {folder}/cases.csv\nrounds: {rounds}\n"
    )


def dry_run(folder: Path) -> tuple[float, float, str]:
    """Seconds, MB and the last lines of a dry run of the experiment in ``folder``."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
    ]
    command += [
        "--configfile",
        str(folder / "config.yaml"),
        "--cores",
        "8",
        "--dry-run",
        "--quiet",
        "rules",
    ]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - start
    return (
        seconds,
        resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
        done.stdout + done.stderr,
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="unlabelled cases")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        make_experiment(Path(name), args.cases, args.rounds)
        seconds, megabytes, output = dry_run(Path(name))
    total = next(line.split()[1] for line in output.splitlines() if line.startswith("total"))
    cores = len(os.sched_getaffinity(0))
    print(
        f"{args.cases} cases, {args.rounds} rounds, {total} jobs: {seconds:.1f} s, {megabytes:.0f} MB ({cores} cores)"
    )


if __name__ == "__main__":
    main()
