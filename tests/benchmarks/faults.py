"""A table of faults and of the time that it takes to go on: ``python tests/benchmarks/faults.py [--slurm]``.

Runs the tests that make the faults, a quarter of an hour on two cores; each ends with the bytes of an undisturbed run.
``--slurm`` starts a SLURM too (Debian, root).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/workflow/test_interruptions.py",
    "tests/training/test_training.py",
    "tests/training/test_distributed.py",
    "tests/slurm",
]
CHOSEN = "faults or killed or cancelled or preempted or out_of_time"


def measured(report: Path) -> Iterator[dict[str, str]]:
    """What the tests of a JUnit ``report`` recorded about faults."""
    for case in ElementTree.parse(report).iter("testcase"):
        found = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        if "fault" in found:
            yield found


def table(rows: list[dict[str, str]]) -> str:
    """A Markdown table, the quickest first."""
    rows = sorted(rows, key=lambda row: float(row["seconds"]))
    lines = [f"| {row['fault']} | {row['goes on']} | {float(row['seconds']):.1f} |" for row in rows]
    return "\n".join(
        ["| fault | the next run goes on | seconds until done |", "|---|---|---:|", *lines]
    )


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slurm", action="store_true", help="on a SLURM of pretended nodes too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [*TESTS, "-k", CHOSEN, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        environment = os.environ | {"HSTF_SLURM": "1" if args.slurm else ""}
        done = subprocess.run([sys.executable, "-m", "pytest", *options], cwd=ROOT, env=environment)
        print(table(list(measured(report))))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
