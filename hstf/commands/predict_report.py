"""What ``hstf predict`` prints and writes to ``predict.csv``.

Several runs may write into one folder: each keeps the rows of the others.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hstf.commands.predict_input import TABLE, Scan, ScansFound
from hstf.experiment.tables import PREDICT
from hstf.imaging.guards import Issue, Level
from hstf.method.plr.scan_quality import ScanQuality
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.locks import exclusive

WRITE_SECONDS = 10.0
"""Time after which ``predict.csv`` is written again during a long run."""
LOCK = ".predict.lock"
"""Lock beside ``predict.csv``: other runs may write it, too."""
LEFT_OUT = "left out"
"""Level of a row about a file or folder that is no scan."""
Row = dict[str, Any]
"""A row of ``predict.csv``."""


@dataclass
class Report:
    """What is printed and written to ``predict.csv``."""

    output: Path
    source: Path
    stale: set[tuple[str, ...]] = field(default_factory=set)
    """Earlier rows about no scan: the runs that wrote them have ended, and they are dropped."""
    rows: dict[str, list[Row]] = field(default_factory=lambda: defaultdict(list))
    """Rows by scan; empty for what was left out."""
    problems: list[str] = field(default_factory=list)
    """Why scans were not segmented."""
    digests: dict[Path, str] = field(default_factory=dict)
    """SHA-256 of the files."""
    qualities: dict[str, Row] = field(default_factory=dict)
    """Columns of the predicted Dice, by the name of the segmentation."""
    failed: set[str] = field(default_factory=set)
    """Names of the scans that were not segmented."""
    written: float = field(default_factory=time.monotonic)
    """When the table was last written."""

    @classmethod
    def open(cls, output: Path, source: Path) -> "Report":
        """Start a report. Rows of earlier runs about other scans are kept.

        Raises:
            HstfError: if there is another file of the same name.
        """
        rows = _rows_of(output / TABLE)
        return cls(output, source, {_identity(row) for row in rows if not row["scan"]})

    def leave_out(self, found: ScansFound) -> None:
        """Report what is no scan, and what cannot be read."""
        for what, why in found.left_out:
            self._row("", LEFT_OUT, what, why)
            print_message(f"left out: {what}: {why}")
        for what, why in found.problems:
            self._row("", Level.ERROR, what, why)
            self._problem(f"{what}: {why}")

    def warn(self, path: Path, found: str, what_to_do: str) -> None:
        """Report a warning about all scans."""
        row = self._row("", Level.WARNING, str(path), found)
        row["what_to_do"] = what_to_do
        print_message(f"{path}: warning: {found}. {what_to_do}")

    def add(self, scan: Scan, path: Path, sha256: str, issues: Iterable[Issue]) -> None:
        """Report the issues of a file of a scan."""
        self.digests[path] = sha256
        for issue in issues:
            row = self._row(self._name(scan), issue.level, str(path), issue.found)
            row["expected"] = issue.expected
            row["what_to_do"] = issue.what_to_do
            row["sha256"] = sha256
            if issue.level is Level.ERROR:
                self.failed.add(scan.name)
                self._problem(f"{path}: {issue.sentence()}")
            else:
                print_message(f"{path}: {issue.sentence()}")

    def add_warnings(self, scan: Scan, issues: Iterable[Issue]) -> None:
        """Report warnings about the segmentation of a scan."""
        for issue in issues:
            row = self._row(self._name(scan), issue.level, str(scan.images[0]), issue.found)
            row["expected"] = issue.expected
            row["what_to_do"] = issue.what_to_do
            row["sha256"] = self.digests.get(scan.images[0], "")
            print_message(f"{self._name(scan)}: {issue.sentence()}")

    def add_quality(self, scan: Scan, quality: ScanQuality) -> None:
        """Report the predicted Dice of a segmentation."""
        columns: Row = {
            "predicted_dice": quality.mean,
            "predicted_dice_low": quality.low,
            "predicted_dice_high": quality.high,
            "predicted_dice_interval": quality.interval,
        }
        for name, value in quality.predicted.items():
            columns[f"predicted_dice_of_{name}"] = value
        self.qualities[scan.name] = columns

    def has_error(self, scan: Scan) -> bool:
        """Return whether an error of a scan was reported."""
        return scan.name in self.failed

    def fail(self, scan: Scan, why: str) -> None:
        """Report that a scan was not segmented."""
        self._row(self._name(scan), Level.ERROR, str(scan.images[0]), why)
        self.failed.add(scan.name)
        self._problem(f"{self._name(scan)}: {why}")

    def segmented(self, scan: Scan) -> None:
        """Report that a scan was segmented."""
        name = self._name(scan)
        if not self.rows[name]:
            row = self._row(name, Level.OK, str(scan.images[0]), "valid")
            row["sha256"] = self.digests.get(scan.images[0], "")
        for row in self.rows[name]:
            row["segmentation"] = scan.name
            row |= self.qualities.get(scan.name, {})

    def write_sometimes(self) -> None:
        """Write ``predict.csv`` unless it was written a short time ago."""
        if time.monotonic() - self.written > WRITE_SECONDS:
            self.write()

    def write(self) -> None:
        """Write ``predict.csv``. Rows that other runs have written until now stay.

        Raises:
            HstfError: if it cannot be written, or if there is another file of the same name now.
        """
        path = self.output / TABLE
        with exclusive(self.output / LOCK, f"hstf predict: {path}"):
            new = [row for rows in self.rows.values() for row in rows]
            PREDICT.write(path, [*self._rows_of_others(path), *new])
        self.written = time.monotonic()

    def _rows_of_others(self, path: Path) -> list[Row]:
        """Return the rows of the table that this run does not replace."""
        scans = {_as_cell(name) for name in self.rows if name}
        dropped = self.stale | {_identity(row) for row in self.rows.get("", [])}
        return [
            row
            for row in _rows_of(path)
            if row["scan"] not in scans and _identity(row) not in dropped
        ]

    def finish(self, count: int) -> None:
        """Print how many scans were segmented, with warnings, and left out.

        Args:
            count: number of scans.

        Raises:
            HstfError: if scans were not segmented, or if files or folders could not be read.
        """
        levels = Counter(row["level"] for rows in self.rows.values() for row in rows)
        counts = [f"{count - len(self.failed)} of {count} scans segmented"]
        counts.append(f"{levels[Level.WARNING]} warnings")
        counts.append(f"{levels[LEFT_OUT]} kinds of files or folders left out")
        print_message(f"{', '.join(counts)}; see {self.output / TABLE}")
        if not self.problems:
            return
        if self.failed:
            text = f"{len(self.failed)} of {count} scans were not segmented. All others were."
        else:
            text = "Parts of the input cannot be read. All scans that were found are segmented."
        raise join_problems(text, self.problems)

    def _row(self, name: str, level: str, file: str, found: str) -> Row:
        """Add a row, and return it."""
        row = {"scan": name, "level": str(level), "file": file, "found": found}
        self.rows[name].append(row)
        return row

    def _name(self, scan: Scan) -> str:
        first = scan.images[0]
        return first.name if first == self.source else str(first.relative_to(self.source))

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        print_message(text)


def _rows_of(path: Path) -> list[Row]:
    """Read a table of ``hstf predict``; a missing one has no rows.

    Raises:
        HstfError: if it is another file.
    """
    if not path.exists():
        return []
    try:
        return PREDICT.records(path)
    except HstfError as error:
        raise HstfError(
            f"{path}: is not a table of hstf predict, which would replace it. Rename it, or give"
            " another folder to --output."
        ) from error


def _identity(row: Row) -> tuple[str, ...]:
    """Return what distinguishes rows about no scan, as the table stores it."""
    return tuple(_as_cell(row[name]) for name in ("scan", "level", "file", "found"))


def _as_cell(text: str) -> str:
    """Return a text as it is read back from a table."""
    return text.replace("\r", " ")


def print_message(text: str) -> None:
    """Print a line for the person at the screen."""
    print(f"hstf predict: {text}", file=sys.stderr, flush=True)
