"""``hstf predict``: segment scans with an exported model. The workflow is not needed.

Each scan is examined as ``hstf check`` examines it, and compared with the training scans. An error
stops the scan, and never the other ones. Warnings are printed and written to ``predict.csv``.
"""

import argparse
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hstf.commands.predict_input import (
    TABLE,
    Scan,
    ScansFound,
    find_scans,
    is_readable_folder,
)
from hstf.experiment.tables import PREDICT
from hstf.imaging.guards import MASK, Issue, Level, image_issues, spacing_issues
from hstf.imaging.intensity_ranges import range_issues
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import read_image, suffix_of, write_like
from hstf.method.exported_model import WITH_QUALITY, ExportedModel, read_exported_model
from hstf.method.plr.predicted_dice import CONFORMAL_PATIENTS
from hstf.method.plr.scan_quality import QualityModel, ScanQuality
from hstf.runtime.errors import HstfError, is_memory_error, join_problems
from hstf.runtime.files import make_folder
from hstf.runtime.locks import exclusive
from hstf.runtime.progress import track

if TYPE_CHECKING:
    from torch import Tensor

    from hstf.method.inference import Predictor

Existing = Literal["refuse", "skip", "overwrite"]
"""What to do if a segmentation already exists."""
EXPORT_AGAIN = (
    "An earlier version exported it, so scans are not compared with the training scans. Export the"
    " model again."
)
NO_QUALITY = (
    "An earlier version exported it. The segmentations are the same. Export the model again to get"
    " a predicted Dice."
)
LOOK = "Look at this segmentation first."
WRITE_SECONDS = 10.0
"""Time after which ``predict.csv`` is written again during a long run."""
LOCK = ".predict.lock"
"""Lock beside ``predict.csv``: other runs may write it, too."""
LEFT_OUT = "left out"
"""Level of a row about a file or folder that is no scan."""
Row = dict[str, Any]
"""A row of ``predict.csv``."""


def run(args: argparse.Namespace) -> int:
    """Segment the input of the command line."""
    predict(
        args.model,
        args.input,
        args.output,
        args.device,
        args.existing,
        not args.no_predicted_dice,
    )
    return 0


def predict(
    model_folder: Path,
    source: Path,
    output: Path,
    device: str = "auto",
    existing: Existing = "refuse",
    predicted_dice: bool = True,
) -> list[Path]:
    """Segment a file or all files of a folder and its subfolders.

    A segmentation has the geometry of its scan and the label values of the training data. It has
    the name of its scan, or ``<case>.nii.gz`` for several modalities and for scans that are not
    NIfTI. ``predict.csv`` in the output folder has a row for each scan, warning and error.

    Args:
        model_folder: an exported model.
        source: a volume, or a folder of volumes.
        output: folder of the segmentations.
        device: ``auto``, ``cpu`` or ``cuda``.
        existing: what to do if a segmentation already exists.
        predicted_dice: whether to predict the Dice of each segmentation.

    Returns:
        The files that were written.

    Raises:
        HstfError: before any computation if the model, the input or the output folder is invalid;
            at once if a segmentation cannot be written; after all other scans are segmented if some
            scans cannot be segmented or read.
    """
    is_readable_folder(source)
    model = read_exported_model(model_folder)
    found = find_scans(source, list(model.modalities), output)
    scans = select_scans(found.scans, output, existing)
    report = Report.open(output, source)
    report.leave_out(found)
    if not model.intensities:
        report.warn(
            model_folder, "the model has no intensities of its training scans", EXPORT_AGAIN
        )
    if not predicted_dice:
        model = model.model_copy(update={"quality": None})
    elif model.format < WITH_QUALITY:
        report.warn(model_folder, "the model has no calibration of predicted Dice", NO_QUALITY)
    elif model.quality is not None:
        _print(_cost_of(model.quality))
    if scans:
        _print(f"scans to segment: {len(scans)} ({_formats(scans)})")
    for folder in {output, *((output / scan.name).parent for scan in scans)}:
        make_folder(folder)
    if scans:
        _segment_all(model, model_folder, scans, device, report)
    else:
        report.write()
    report.finish(len(scans))
    return [output / scan.name for scan in scans]


def _formats(scans: Iterable[Scan]) -> str:
    """Return the number of files of each format."""
    counts = Counter(suffix_of(path) for scan in scans for path in scan.images)
    return ", ".join(f"{count} {suffix}" for suffix, count in sorted(counts.items()))


def _segment_all(
    model: ExportedModel,
    model_folder: Path,
    scans: Sequence[Scan],
    device: str,
    report: "Report",
) -> None:
    """Segment scans, and write what is reported about them, also if the run is interrupted."""
    from hstf.method.inference import Predictor

    predictor = Predictor.load(
        model.weights(model_folder),
        model.plan,
        model.predict,
        model.modalities,
        device,
        model.preprocess,
        model.structure,
    )
    try:
        for scan in track(scans, "predict"):
            _segment(predictor, model, scan, report)
            report.write_sometimes()
    finally:
        report.write()


def _examine(model: ExportedModel, scan: Scan, report: "Report") -> None:
    """Report what is wrong or doubtful in the files of a scan."""
    for (path, kind), name in zip(_kinds(model, scan), model.modalities, strict=True):
        facts = scan_file(path, label=False)
        issues = image_issues(facts, kind)
        if not any(issue.level is Level.ERROR for issue in issues):
            issues += spacing_issues(facts, model.plan.spacing)
            if name in model.intensities:
                issues += range_issues(facts, kind, model.intensities[name])
        report.add(scan, path, facts.sha256, issues)


def _kinds(model: ExportedModel, scan: Scan) -> Iterator[tuple[Path, str]]:
    """Yield each file of a scan with its modality. A channel that is not normalised is a mask."""
    channels = zip(scan.images, model.modalities.values(), model.plan.normalisation, strict=True)
    for path, kind, normalisation in channels:
        yield path, MASK if normalisation.scheme == MASK else kind


def _segment(predictor: "Predictor", model: ExportedModel, scan: Scan, report: "Report") -> None:
    """Examine and segment a scan, and write the segmentation. Reports why this is not possible.

    Raises:
        HstfError: if the segmentation cannot be written. The next ones could not be, either.
    """
    values = np.array(list(model.labels.values()), np.uint8)
    try:
        _examine(model, scan, report)
        if report.has_error(scan):
            return
        volumes = [read_image(path) for path in scan.images]
        image, geometry = predictor.prepare(volumes)
        classes = predictor.predict_prepared(image, geometry, members=False).label
    except HstfError as error:
        report.fail(scan, str(error))
        return
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        report.fail(scan, "out of memory")
        return
    write_like(report.output / scan.name, values[classes], volumes[0])
    if model.quality is not None:
        _add_quality(predictor, model.quality, scan, image, classes, report)
    report.segmented(scan)


def _add_quality(
    predictor: "Predictor",
    model: QualityModel,
    scan: Scan,
    image: "Tensor",
    classes: np.ndarray,
    report: "Report",
) -> None:
    """Report the predicted Dice of a segmentation. A failure costs only this number."""
    try:
        summary = predictor.summarise(image, model.classes, model.views)
    except (HstfError, MemoryError, RuntimeError) as error:
        if not isinstance(error, HstfError) and not is_memory_error(error):
            raise
        why = str(error) if isinstance(error, HstfError) else "out of memory"
        issue = Issue(Level.WARNING, f"no predicted Dice: {why}", "", "")
        report.add_warnings(scan, [issue])
        return
    quality = model.judge(summary, classes)
    report.add_quality(scan, quality)
    report.add_warnings(scan, quality_issues(quality))


def quality_issues(quality: ScanQuality) -> Iterator[Issue]:
    """Yield a warning for each reason to look at a segmentation."""
    for name in quality.missing:
        yield Issue(
            Level.WARNING,
            f"the segmentation has no {name}",
            "every labelled case has it",
            LOOK,
        )
    if quality.is_low:
        yield Issue(
            Level.WARNING,
            f"a predicted Dice of {quality.mean:.3f}",
            f"at least {quality.bound:.3f}, as all labelled cases",
            LOOK,
        )


def _cost_of(model: QualityModel) -> str:
    """Describe what the predicted Dice of a scan costs, and what its interval is worth."""
    text = (
        f"predicted Dice: each network predicts a scan about {model.passes:.1f} times more, with"
        " the TTA views of the calibration (--no-predicted-dice turns this off)"
    )
    if model.interval.method == "guess":
        text += (
            f". Its interval is a guess: the errors of {model.interval.patients} labelled patients"
            f" are known, and at least {CONFORMAL_PATIENTS} are needed"
        )
    return text


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
            _print(f"left out: {what}: {why}")
        for what, why in found.problems:
            self._row("", Level.ERROR, what, why)
            self._problem(f"{what}: {why}")

    def warn(self, path: Path, found: str, what_to_do: str) -> None:
        """Report a warning about all scans."""
        row = self._row("", Level.WARNING, str(path), found)
        row["what_to_do"] = what_to_do
        _print(f"{path}: warning: {found}. {what_to_do}")

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
                _print(f"{path}: {issue.sentence()}")

    def add_warnings(self, scan: Scan, issues: Iterable[Issue]) -> None:
        """Report warnings about the segmentation of a scan."""
        for issue in issues:
            row = self._row(self._name(scan), issue.level, str(scan.images[0]), issue.found)
            row["expected"] = issue.expected
            row["what_to_do"] = issue.what_to_do
            row["sha256"] = self.digests.get(scan.images[0], "")
            _print(f"{self._name(scan)}: {issue.sentence()}")

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
        _print(f"{', '.join(counts)}; see {self.output / TABLE}")
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
        _print(text)


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


def _print(text: str) -> None:
    print(f"hstf predict: {text}", file=sys.stderr, flush=True)


def select_scans(
    scans: Sequence[Scan],
    output: Path,
    existing: Existing,
) -> list[Scan]:
    """Return the scans to segment into ``output``.

    Raises:
        HstfError: if segmentations would replace the scans, or if they already exist and
            ``existing`` is ``refuse``.
    """
    if output.exists() and not output.is_dir():
        raise HstfError(f"{output}: is a file. Give a folder to --output.")
    folders = _folders(scans)
    for scan in scans:
        folder = (output / scan.name).parent
        if folder.resolve() in folders:
            raise HstfError(
                f"{folder}: contains the scans themselves. Give another folder to --output."
            )
    blocked = [scan.name for scan in scans if (output / scan.name).is_dir()]
    if blocked:
        raise join_problems(
            f"{output}: folders have the names of segmentations. Rename them, or give another"
            " folder to --output.",
            blocked,
        )
    done = [scan for scan in scans if (output / scan.name).exists()]
    if done and existing == "refuse":
        raise join_problems(
            f"{output}: {len(done)} segmentations already exist."
            " Add --existing skip or --existing overwrite.",
            [scan.name for scan in done],
        )
    if existing == "skip":
        return [scan for scan in scans if scan not in done]
    return list(scans)


def _folders(scans: Iterable[Scan]) -> set[Path]:
    """Return the folders of all images. A link has two: its own one and that of its target."""
    folders = set()
    for scan in scans:
        for path in scan.images:
            folders.add(path.parent.resolve())
            folders.add(path.resolve().parent)
    return folders
