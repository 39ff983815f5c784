"""What can be wrong with a case, each a pure function of what was scanned."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.imaging.affines import corner_distance
from hstf.imaging.scan import MAXIMUM_INVALID_VALUES, Scan
from hstf.runtime.errors import few, numbers

LARGEST_SPACING_MM = 20.0
SHORTEST_AXIS = 4
SHEET = "case sheet"


class Level(StrEnum):
    """How bad it is: an error stops the workflow."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """A row of the report."""

    level: Level
    case_id: str
    """Empty for a fault of all cases together."""
    file: str
    """A path, or ``case sheet``."""
    found: str
    expected: str = ""
    what_to_do: str = ""

    def sentence(self) -> str:
        """The row as text for people."""
        return f"{self.level}: {self.file}: found: {self.found}; expected: {self.expected}. {self.what_to_do}"


@dataclass(frozen=True)
class Source:
    """A file of a case in its role: the image of a modality, or the label."""

    case: Case
    column: str
    path: Path

    @property
    def is_label(self) -> bool:
        """Whether the file is scanned as a label map."""
        return self.column == "label"

    def error(self, found: str, expected: str, what_to_do: str) -> Finding:
        """An error in this file."""
        return Finding(Level.ERROR, self.case.case_id, str(self.path), found, expected, what_to_do)

    def warning(self, found: str, expected: str, what_to_do: str) -> Finding:
        """A warning about this file."""
        return Finding(
            Level.WARNING, self.case.case_id, str(self.path), found, expected, what_to_do
        )


Scans = Mapping[Source, Scan]


def sources(sheet: CaseSheet, config: Config) -> list[Source]:
    """All files of all cases, in the order of the sheet."""
    found = []
    for case in sheet.cases:
        found += [
            Source(case, column, path)
            for column, path in zip(config.modalities, case.images, strict=True)
        ]
        if case.reference is not None:
            found.append(Source(case, "label", case.reference))
    return found


def examine(sheet: CaseSheet, scans: Scans, config: Config) -> list[Finding]:
    """Every fault and warning, and an ``ok`` row for each file that has none; in the order of the sheet."""
    findings = [
        *_withheld_findings(config),
        *_sheet_findings(sheet),
        *_group_findings(sheet),
        *_duplicate_findings(scans, config),
        *_class_findings(scans, config),
    ]
    by_case: dict[str, list[Source]] = defaultdict(list)
    for source, scan in scans.items():
        by_case[source.case.case_id].append(source)
        findings += _file_findings(source, scan, config)
    for of_case in by_case.values():
        findings += _grid_findings(of_case, scans, config.check.affine_tolerance_mm)
    faulty = {(finding.case_id, finding.file) for finding in findings}
    sound = [source for source in scans if (source.case.case_id, str(source.path)) not in faulty]
    findings += [
        Finding(Level.OK, source.case.case_id, str(source.path), "sound") for source in sound
    ]
    place = {case.case_id: number for number, case in enumerate(sheet.cases)}
    return sorted(findings, key=lambda f: (place.get(f.case_id, -1), list(Level).index(f.level)))


# --- one file --------------------------------------------------------------------------------------


def _file_findings(source: Source, scan: Scan, config: Config) -> Iterator[Finding]:
    if scan.problem:
        yield source.error(
            scan.problem.rstrip("."),
            "a sound 3D NIfTI file",
            "Export or copy it again from its source, or take the case out of the case sheet.",
        )
        return
    yield from _geometry_findings(source, scan)
    yield from (
        _label_findings(source, scan, config) if source.is_label else _image_findings(source, scan)
    )


def _geometry_findings(source: Source, scan: Scan) -> Iterator[Finding]:
    if not all(0 < size < np.inf for size in scan.pixdim):
        told = source.warning if scan.codes[1] else source.error
        stands_in = (
            "The sform stands in" if scan.codes[1] else "There is no sform that could stand in"
        )
        yield told(
            f"voxel sizes {numbers(scan.pixdim)} in the header (pixdim)",
            "positive voxel sizes",
            f"{stands_in}; correct the header.",
        )
    if max(scan.spacing) > LARGEST_SPACING_MM:
        yield source.warning(
            f"spacing {numbers(scan.spacing)} mm",
            f"at most {LARGEST_SPACING_MM:g} mm",
            "See whether the header's units are right.",
        )
    if min(scan.shape) < SHORTEST_AXIS:
        yield source.warning(
            f"shape {numbers(scan.shape)}",
            f"at least {SHORTEST_AXIS} voxels along each axis",
            "See whether it is a volume and not a slice or a localiser.",
        )
    if not any(scan.codes):
        yield source.warning(
            "neither sform nor qform, so left and right may be swapped",
            "an affine that places the voxels in space",
            "Convert it again from DICOM.",
        )
    if scan.unit in ("meter", "micron"):
        yield source.warning(
            f"lengths in {scan.unit}",
            "mm",
            "The affine is taken as mm; correct the header if it is not.",
        )
    if scan.extra_bytes:
        yield source.warning(
            f"{scan.extra_bytes} bytes behind the last voxel",
            f"no more than shape {numbers(scan.shape)} needs",
            "See whether the header's shape is right.",
        )


def _image_findings(source: Source, scan: Scan) -> Iterator[Finding]:
    if scan.non_finite:
        yield source.error(
            f"{scan.non_finite} voxels that are NaN or infinite",
            "finite values",
            "Where they mark the empty background, put its value in their place.",
        )
    elif scan.minimum == scan.maximum:
        yield source.error(
            f"a constant image: every voxel is {scan.minimum:g}",
            "a scan with contrast",
            "Export it again, or take the case out of the case sheet.",
        )


def _label_findings(source: Source, scan: Scan, config: Config) -> Iterator[Finding]:
    known = {str(value) for value in config.labels.values()}
    odd = sorted(set(scan.values) - known, key=lambda value: (value == "nan", float(value)))
    if odd:
        shown = ", ".join(
            f"{value} ({scan.values[value]} voxels)" for value in odd[:MAXIMUM_INVALID_VALUES]
        )
        yield source.error(
            f"label values {shown}{' and perhaps more' if len(odd) >= MAXIMUM_INVALID_VALUES else ''}",
            "only " + ", ".join(f"{value} ({name})" for name, value in config.labels.items()),
            "Name them under 'labels:' in the configuration (the name 'ignore' leaves voxels out),"
            " or correct the file.",
        )
    elif not any(scan.values.get(str(value)) for value in config.class_values):
        yield source.error(
            "a label in which every voxel is to be ignored",
            "a voxel of a class, or scribbles of some",
            "Label some of it, or leave the label out and make the case unlabelled.",
        )
    elif source.case.split is Split.LABELLED and not _foreground(scan, config):
        yield source.warning(
            "an empty label in a labelled case",
            "voxels of a class besides the background",
            "Keep it if the structure is truly absent; otherwise make the case unlabelled.",
        )


def _class_findings(scans: Scans, config: Config) -> Iterator[Finding]:
    """Classes that no labelled case shows, background too, which scribbles may forget."""
    labels = [
        scan
        for source, scan in scans.items()
        if source.is_label and source.case.split is Split.LABELLED
    ]
    for name, value in zip(config.class_names, config.class_values, strict=True):
        if labels and not any(scan.problem or str(value) in scan.values for scan in labels):
            yield Finding(
                Level.WARNING,
                "",
                SHEET,
                f"no labelled case with a voxel of {name} ({value})",
                "some of each class in the labelled cases together",
                "Label some of it: what is never shown is never learned.",
            )


def _foreground(scan: Scan, config: Config) -> int:
    """Voxels of a label that are of a class besides the background."""
    return sum(scan.values.get(str(value), 0) for value in config.class_values[1:])


# --- the files of a case ---------------------------------------------------------------------------


def _grid_findings(of_case: Sequence[Source], scans: Scans, tolerance: float) -> Iterator[Finding]:
    """Files of a case that do not lie on the grid of its first readable one."""
    readable = [source for source in of_case if not scans[source].problem]
    for source in readable[1:]:
        first, scan, reference = readable[0], scans[source], scans[readable[0]]
        advice = f"Resample it onto the grid of {first.path}."
        if scan.shape != reference.shape:
            expected = f"shape {numbers(reference.shape)} as in {first.path.name} ({first.column})"
            yield source.error(f"shape {numbers(scan.shape)}", expected, advice)
            continue
        distance = corner_distance(scan.matrix, reference.matrix, scan.shape)
        if distance > tolerance:
            yield source.error(
                f"an affine that puts corner voxels up to {distance:.4g} mm away from those of"
                f" {first.path.name} ({first.column})",
                f"at most {tolerance:g} mm (check.affine_tolerance_mm)",
                f"{advice} Where the voxels do match one by one, copy the affine.",
            )


# --- all cases together ----------------------------------------------------------------------------


def _withheld_findings(config: Config) -> Iterator[Finding]:
    """Withheld labels that are learned from."""
    if config.withheld_labels:
        yield Finding(
            Level.WARNING,
            "",
            SHEET,
            "the withheld labels of the unlabelled cases are learned from",
            "labels of labelled cases alone",
            "Leave withheld_labels out unless this is the ceiling of a benchmark.",
        )


def _sheet_findings(sheet: CaseSheet) -> Iterator[Finding]:
    """Splits that have too few patients."""
    needs = (
        (Split.LABELLED, 2, Level.ERROR, "the warm-up trains on some and predicts the others"),
        (
            Split.UNLABELLED,
            1,
            Level.WARNING,
            "without them there is nothing for later rounds to learn from",
        ),
        (Split.TEST, 1, Level.WARNING, "without them nothing is known about the result"),
    )
    for split, least, level, why in needs:
        found = len({case.group for case in sheet.of(split)})
        if found < least:
            yield Finding(
                level,
                "",
                SHEET,
                f"{split} cases of {found} patients",
                f"at least {least}",
                f"Add some: {why}.",
            )


def _group_findings(sheet: CaseSheet) -> Iterator[Finding]:
    """Patients who are labelled and unlabelled; the sheet itself refuses those with test cases."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in sheet.cases:
        groups[case.group].append(case)
    for group, cases in groups.items():
        if len({case.split for case in cases}) == 1:
            continue
        advice = "Mind that the teacher knows the patient; its pseudo-labels are better than those of others."
        for case in cases:
            others = few(
                [
                    f"{other.case_id} ({other.split})"
                    for other in cases
                    if other.split is not case.split
                ]
            )
            found = f"patient {group} is {case.split} here and elsewhere in {others}"
            yield Finding(
                Level.WARNING, case.case_id, SHEET, found, "each patient in one split", advice
            )


def _duplicate_findings(scans: Scans, config: Config) -> Iterator[Finding]:
    """Files that are used twice, or whose voxels are the same. Empty labels may well agree."""
    same: dict[str, list[Source]] = defaultdict(list)
    for source, scan in scans.items():
        telling = scan.voxels_sha256 and not (source.is_label and not _foreground(scan, config))
        same[scan.voxels_sha256 if telling else os.path.realpath(source.path)].append(source)
    for twins in same.values():
        if len(twins) > 1:
            yield from _twin_findings(twins)


def _twin_findings(twins: Sequence[Source]) -> Iterator[Finding]:
    paths = {os.path.realpath(twin.path) for twin in twins}
    by_chance = all(twin.is_label for twin in twins) and len(paths) == len(twins)
    for twin in twins:
        others = few(f"{o.case.case_id} ({o.column}: {o.path})" for o in twins if o is not twin)
        yield (twin.warning if by_chance else twin.error)(
            f"the same {'file' if len(paths) == 1 else 'voxels'} as in {others}",
            "each scan once",
            "Correct the path in the case sheet, or take all but one out.",
        )


# --- text ------------------------------------------------------------------------------------------
