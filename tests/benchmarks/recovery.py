"""Print a table of problems and of the time that the work takes to resume.

``python tests/benchmarks/recovery.py [--slurm]`` runs the tests that cause these problems, about a
quarter of an hour on two cores. Each test checks that the results are those of an undisturbed run.
``--slurm`` also starts a SLURM (Debian, root).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = [
    "tests/workflow/test_interruptions.py",
    "tests/training/test_training.py",
    "tests/training/test_distributed.py",
    "tests/slurm",
]


class RecoveryTests:
    """A plugin of pytest that selects the tests that record a recovery."""

    def pytest_collection_modifyitems(self, items: list[pytest.Function]) -> None:
        """Keep the tests that use ``record_property``."""
        items[:] = [item for item in items if "record_property" in item.fixturenames]


def recorded(report: Path) -> Iterator[dict[str, str]]:
    """Yield what each test of a JUnit ``report`` recorded."""
    for case in ElementTree.parse(report).iter("testcase"):
        found = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        if "problem" in found:
            yield found


def table(rows: list[dict[str, str]]) -> str:
    """Return a Markdown table, the shortest time first."""
    lines = ["| problem | the next run resumes | seconds until done |", "|---|---|---:|"]
    for row in sorted(rows, key=lambda row: float(row["seconds"])):
        lines.append(f"| {row['problem']} | {row['resumes']} | {float(row['seconds']):.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Run the tests and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slurm", action="store_true", help="also on a SLURM of simulated nodes")
    args = parser.parse_args()
    os.environ["HSTF_SLURM"] = "1" if args.slurm else ""
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = [*TESTS, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        code = pytest.main(options, plugins=[RecoveryTests()])
        print(table(list(recorded(report))))
    return code


if __name__ == "__main__":
    sys.exit(main())
