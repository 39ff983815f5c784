"""What ``hstf predict`` prints and writes to ``predict.csv``.

Several runs may write into one folder: each keeps the rows of the others.
"""

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hstf.commands.predict_input import TABLE, Scan, ScansFound
from hstf.experiment.product_tables import PREDICT
from hstf.imaging.guards import Issue, Level
from hstf.method.plr.scan_quality import ScanQuality
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import remove_leftovers, sha256_file
from hstf.runtime.locks import exclusive

WRITE_SECONDS = 10.0
"""Time after which ``predict.csv`` is written again during a long run."""
LEFTOVER_SECONDS = 600.0
"""Age of temporary files that no run is still writing."""
LOCK = ".predict.lock"
"""Lock beside ``predict.csv``: other runs may write it, too."""
LEFT_OUT = "left out"
"""Level of a row about a file or folder that is no scan."""
PENDING = "pending"
"""Level of a scan whose segmentation is about to be written. The row stays if the run is killed."""
NO_ROW = f"it has no row in {TABLE}"
"""Why a segmentation is not known."""
MOVE = "Move it, or add --existing overwrite."
Row = dict[str, Any]
"""A row of ``predict.csv``."""


@dataclass
class Report:
    """What is printed and written to ``predict.csv``."""

    output: Path
    source: Path
    model: str
    """SHA-256 of ``model.json``, which has those of the weights."""
    earlier: dict[str, Row] = field(default_factory=dict)
    """Rows of earlier runs, by segmentation."""
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
    kept: set[str] = field(default_factory=set)
    """Names of the scans that were not segmented because another file has the name of their
    segmentation."""
    pending: dict[str, Row] = field(default_factory=dict)
    """Rows of the scans that are not segmented yet, by segmentation."""
    complete: dict[str, str] = field(default_factory=dict)
    """Segmentations of the scans that were segmented or failed, by scan. Until then, the earlier
    rows of a scan stay."""
    written: float = field(default_factory=time.monotonic)
    """When the table was last written."""

    @classmethod
    def open(cls, output: Path, source: Path, model: str) -> "Report":
        """Start a report. Rows of earlier runs about other scans are kept.

        Raises:
            HstfError: if there is another file of the same name.
        """
        rows = _rows_of(output / TABLE)
        earlier = {row["segmentation"]: row for row in rows if row["segmentation"]}
        stale = {_identity(row) for row in rows if not row["scan"]}
        return cls(output, source, model, earlier, stale)

    def difference(self, scan: Scan) -> str:
        """Return why the model has to segment a scan again that has a segmentation; or nothing.

        Raises:
            HstfError: if the scan cannot be read.
        """
        row = self.earlier.get(_as_cell(scan.name))
        if row is None:
            return NO_ROW
        if row["level"] == PENDING:
            return "because the run that segmented them was interrupted"
        if not row.get("model"):
            return "because an earlier version of hstf, which stored no model, segmented them"
        if row["model"] != self.model:
            return "because another model segmented them"
        if _have_changed(row, scan):
            return "because the scans have changed"
        return ""

    def foreign(self, scan: Scan) -> str:
        """Return why an existing segmentation is no file of this command; or nothing.

        Raises:
            HstfError: if it cannot be read.
        """
        row = self.earlier.get(_as_cell(scan.name))
        if row is None:
            return NO_ROW
        written = row.get("segmentation_sha256")
        if written and written != sha256_file(self.output / scan.name):
            return "it was changed after hstf predict had written it"
        if _is_of_other_scan(row, scan):
            return f"it is the segmentation of {row['file']}, another scan of the same name"
        return ""

    def keep(self, scan: Scan, why: str) -> None:
        """Report that a scan is not segmented because its segmentation may not be replaced."""
        path = str(self.output / scan.name)
        found = f"is kept, and its scan is not segmented: {why}"
        self._row("", Level.ERROR, path, found)
        self.kept.add(scan.name)
        self._problem(f"{path}: {found}")

    def announce(self, scans: Iterable[Scan]) -> None:
        """Report that scans are going to be segmented, and write the table.

        Otherwise, a run that is killed would leave segmentations that no row describes, or the row
        of an earlier model for a new segmentation.
        """
        for scan in scans:
            row: Row = {"scan": self._name(scan), "level": PENDING}
            row["file"] = _absolute(scan.images[0])
            row["found"] = "not segmented yet"
            row["segmentation"] = scan.name
            self.pending[scan.name] = row
        self.write()

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
            row = self._row(self._name(scan), issue.level, _absolute(path), issue.found)
            row["expected"] = issue.expected
            row["what_to_do"] = issue.what_to_do
            row["sha256"] = sha256
            if issue.level is Level.ERROR:
                self._fail(scan)
                self._problem(f"{path}: {issue.sentence()}")
            else:
                print_message(f"{path}: {issue.sentence()}")

    def add_warnings(self, scan: Scan, issues: Iterable[Issue]) -> None:
        """Report warnings about the segmentation of a scan."""
        for issue in issues:
            file = _absolute(scan.images[0])
            row = self._row(self._name(scan), issue.level, file, issue.found)
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
        self._row(self._name(scan), Level.ERROR, _absolute(scan.images[0]), why)
        self._fail(scan)
        self._problem(f"{self._name(scan)}: {why}")

    def discard(self, scan: Scan) -> None:
        """Remove the segmentation that an earlier run wrote for a scan that has an error now.

        Raises:
            HstfError: if it cannot be removed.
        """
        path = self.output / scan.name
        if not path.exists():
            return
        why = self.foreign(scan)
        if why:
            self._problem(f"{path}: is kept, although its scan has an error: {why}")
            return
        try:
            path.unlink()
        except OSError as error:
            raise HstfError(f"{path}: could not be removed ({error.strerror}).") from error
        self._problem(f"{path}: was removed: it is of an earlier run, and its scan has an error")

    def segmented(self, scan: Scan, sha256: str) -> None:
        """Report that a scan was segmented.

        Args:
            scan: the scan.
            sha256: SHA-256 of the segmentation.
        """
        name = self._name(scan)
        if not self.rows[name]:
            row = self._row(name, Level.OK, _absolute(scan.images[0]), "valid")
            row["sha256"] = self.digests.get(scan.images[0], "")
        for row in self.rows[name]:
            row["segmentation"] = scan.name
            row |= self.qualities.get(scan.name, {})
            row["model"] = self.model
            row["images_sha256"] = [self.digests.get(path, "") for path in scan.images]
            row["segmentation_sha256"] = sha256
        self._complete(scan)

    def remove_leftovers(self, scans: Iterable[Scan]) -> None:
        """Remove the temporary files that a killed run left."""
        for name in (TABLE, *(scan.name for scan in scans)):
            with suppress(OSError):  # of another user, or another run has removed it
                remove_leftovers(self.output / name, LEFTOVER_SECONDS)

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
            names = [name for name in self.rows if not name or name in self.complete]
            new = [row for name in names for row in self.rows[name]]
            PREDICT.write(path, [*self._rows_of_others(path), *new, *self.pending.values()])
        self.written = time.monotonic()

    def _rows_of_others(self, path: Path) -> list[Row]:
        """Return the rows of the table that this run does not replace."""
        scans = {_as_cell(name) for name in self.complete}
        scans |= {_as_cell(row["scan"]) for row in self.pending.values()}
        segmentations = {_as_cell(name) for name in (*self.complete.values(), *self.pending)}
        dropped = self.stale | {_identity(row) for row in self.rows.get("", [])}
        kept = []
        for row in _rows_of(path):
            name = row["segmentation"]
            is_replaced = name in segmentations if name else row["scan"] in scans
            if not is_replaced and _identity(row) not in dropped:
                kept.append(row)
        return kept

    def finish(self, count: int) -> None:
        """Print how many scans were segmented, with warnings, and left out.

        Args:
            count: number of scans, without those of :attr:`kept`.

        Raises:
            HstfError: if scans were not segmented, or if files or folders could not be read.
        """
        levels = Counter(row["level"] for rows in self.rows.values() for row in rows)
        count += len(self.kept)
        missing = len(self.failed) + len(self.kept)
        counts = [f"{count - missing} of {count} scans segmented"]
        counts.append(f"{levels[Level.WARNING]} warnings")
        counts.append(f"{levels[LEFT_OUT]} kinds of files or folders left out")
        print_message(f"{', '.join(counts)}; see {self.output / TABLE}")
        if not self.problems:
            return
        if missing == count > 0:
            text = "No scan was segmented."
        elif missing:
            text = f"{missing} of {count} scans were not segmented. All others were."
        else:
            text = "Parts of the input cannot be read. All scans that were found are segmented."
        raise join_problems(text, self.problems)

    def _row(self, name: str, level: str, file: str, found: str) -> Row:
        """Add a row, and return it."""
        row = {"scan": name, "level": str(level), "file": file, "found": found}
        self.rows[name].append(row)
        return row

    def _fail(self, scan: Scan) -> None:
        self.failed.add(scan.name)
        self._complete(scan)

    def _complete(self, scan: Scan) -> None:
        self.complete[self._name(scan)] = scan.name
        self.pending.pop(scan.name, None)

    def _name(self, scan: Scan) -> str:
        """Return the first file of a scan, relative to the input if it is a folder."""
        first = scan.images[0]
        if first != self.source and first.is_relative_to(self.source):
            return str(first.relative_to(self.source))
        return first.name

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


def _absolute(path: Path) -> str:
    """Return the file of a scan so that a later run in another folder finds it."""
    return str(path.absolute())


def _have_changed(row: Row, scan: Scan) -> bool:
    """Return whether the files of a scan differ from those that a row describes.

    Raises:
        HstfError: if a file cannot be read.
    """
    return row.get("images_sha256") != [sha256_file(path) for path in scan.images]


def _is_of_other_scan(row: Row, scan: Scan) -> bool:
    """Return whether a row is about another scan, which still exists.

    Runs with the inputs ``patient_1/scan.nii.gz`` and ``patient_2/scan.nii.gz`` write segmentations
    of the same name.
    """
    earlier = Path(row["file"])
    if not earlier.is_file() or earlier.resolve() in [path.resolve() for path in scan.images]:
        return False
    try:
        return _have_changed(row, scan)
    except HstfError:  # a scan with an error, which the row is not about
        return True


def _identity(row: Row) -> tuple[str, ...]:
    """Return what distinguishes rows about no scan, as the table stores it."""
    return tuple(_as_cell(row[name]) for name in ("scan", "level", "file", "found"))


def _as_cell(text: str) -> str:
    """Return a text as it is read back from a table."""
    return text.replace("\r", " ")


def print_message(text: str) -> None:
    """Print a line for the person at the screen."""
    print(f"hstf predict: {text}", file=sys.stderr, flush=True)
