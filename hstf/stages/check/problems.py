"""The rules of the check: each one looks for a kind of problem in what was read from the files."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, CaseSheet, Split
from hstf.imaging.affines import geometry_distance, is_reordered
from hstf.imaging.guards import MASK, Issue, header_issues, image_issues, unreadable
from hstf.imaging.intensity import HU_OFFSET, lacks_hu_offset
from hstf.imaging.intensity_ranges import IntensityRange, range_issues
from hstf.imaging.scan import Scan
from hstf.imaging.voxel_summaries import MAXIMUM_INVALID_VALUES
from hstf.runtime.errors import few, numbers
from hstf.stages.check.findings import SHEET, Finding, Level, Scans, Source

FEW_SCANS = 20
"""Number of training scans up to which a scan is compared with the others without itself."""
MINIMUM_OTHERS = 4
"""Number of scans that a scan is compared with at least."""


def sources(sheet: CaseSheet, config: Config) -> list[Source]:
    """Return all files of all cases, in the order of the sheet."""
    found = []
    for case in sheet.cases:
        for (column, kind), path in zip(config.modalities.items(), case.images, strict=True):
            found.append(Source(case, column, path, is_mask=kind == MASK))
        if case.reference is not None:
            found.append(Source(case, "label", case.reference))
    return found


def examine(sheet: CaseSheet, scans: Scans, config: Config) -> list[Finding]:
    """Return all errors and warnings, and a row ``ok`` for each file without any.

    Args:
        sheet: the case sheet.
        scans: what was read from the files of :func:`sources`.
        config: the sections ``check``, ``labels``, ``modalities`` and ``withheld_labels``.

    Returns:
        The findings in the order of the sheet; the findings of all cases together come first.
    """
    findings = [
        *_withheld_findings(config),
        *_split_findings(sheet),
        *_patient_findings(sheet),
        *_duplicate_findings(scans, config),
        *_class_findings(scans, config),
        *_header_text_findings(scans),
        *_intensity_findings(scans, config),
    ]
    by_case: dict[str, list[Source]] = defaultdict(list)
    for source, scan in scans.items():
        by_case[source.case.case_id].append(source)
        findings += _file_findings(source, scan, config)
    for files in by_case.values():
        findings += _grid_findings(files, scans, config.check.affine_tolerance_mm)
    with_findings = {(finding.case_id, finding.file) for finding in findings}
    for source in scans:
        if (source.case.case_id, str(source.path)) not in with_findings:
            findings.append(source.ok())
    return _sorted_by_sheet(findings, sheet)


def _sorted_by_sheet(findings: Sequence[Finding], sheet: CaseSheet) -> list[Finding]:
    """Sort by case, then by level, the most serious first."""
    positions = {case.case_id: position for position, case in enumerate(sheet.cases)}
    levels = list(Level)

    def place(finding: Finding) -> tuple[int, int]:
        return positions.get(finding.case_id, -1), levels.index(finding.level)

    return sorted(findings, key=place)


def _sheet_warning(found: str, expected: str, what_to_do: str, case_id: str = "") -> Finding:
    return Finding(Level.WARNING, case_id, SHEET, found, expected, what_to_do)


# --- one file


def _file_findings(source: Source, scan: Scan, config: Config) -> Iterator[Finding]:
    if not source.is_label:
        for issue in image_issues(scan, config.modalities[source.column]):
            yield source.of(issue)
    elif scan.problem:
        yield source.of(unreadable(scan))
    else:
        for issue in header_issues(scan, label=True):
            yield source.of(issue)
        yield from _label_findings(source, scan, config)


def _label_findings(source: Source, scan: Scan, config: Config) -> Iterator[Finding]:
    unknown = _unknown_values(scan, config)
    if unknown:
        known = ", ".join(f"{value} ({name})" for name, value in config.labels.items())
        yield source.error(
            f"label values {_counted_values(unknown, scan)}",
            f"only {known}",
            _advice_on_values(unknown),
        )
    elif not any(scan.values.get(str(value)) for value in config.class_values):
        yield source.error(
            "a label in which every voxel is ignored",
            "a voxel of a class, for instance scribbles",
            "Label some voxels, or remove the label and make the case unlabelled.",
        )
    elif source.case.split is Split.LABELLED and not _foreground_voxels(scan, config):
        yield source.warning(
            "an empty label in a labelled case",
            "voxels of a class other than the background",
            "Keep it if the structure is really absent. Otherwise make the case unlabelled.",
        )


def _advice_on_values(unknown: Sequence[str]) -> str:
    """Advise on values that the configuration does not have; ``labels:`` accepts 0 to 255."""
    impossible = [value for value in unknown if not value.isdigit() or int(value) > 255]
    if impossible:
        return (
            "Number the classes of the file anew: label values are whole numbers from 0 to 255."
            " Voxels to ignore can have the value 255, with 'ignore: 255' in 'labels:'."
        )
    return (
        "Add the values to 'labels:' in the configuration, or correct the file. Voxels with the"
        " value of the name 'ignore' are left out."
    )


def _unknown_values(scan: Scan, config: Config) -> list[str]:
    """Return the values of a label that the configuration does not have, NaN last."""
    known = {str(value) for value in config.labels.values()}
    unknown = set(scan.values) - known
    return sorted(unknown, key=lambda value: (value == "nan", float(value)))


def _counted_values(values: Sequence[str], scan: Scan) -> str:
    """List the values of a label with their number of voxels."""
    first = values[:MAXIMUM_INVALID_VALUES]
    text = ", ".join(f"{value} ({scan.values[value]} voxels)" for value in first)
    # A scan counts only so many values, so that there may be others.
    if len(values) >= MAXIMUM_INVALID_VALUES:
        text += " and perhaps more"
    return text


def _foreground_voxels(scan: Scan, config: Config) -> int:
    """Return the number of voxels of a label that have a class other than the background."""
    return sum(scan.values.get(str(value), 0) for value in config.class_values[1:])


# --- the files of a case


def _grid_findings(files: Sequence[Source], scans: Scans, tolerance: float) -> Iterator[Finding]:
    """Find files of a case that do not have the voxels of its first readable file."""
    readable = [source for source in files if not scans[source].problem]
    for source in readable[1:]:
        first = readable[0]
        scan = scans[source]
        reference = scans[first]
        name = f"{first.path.name} ({first.column})"
        if scan.shape != reference.shape:
            expected = f"shape {numbers(reference.shape)} as in {name}"
            advice = _shape_advice(scan, reference, first, tolerance)
            yield source.error(f"shape {numbers(scan.shape)}", expected, advice)
            continue
        distance = geometry_distance(scan.matrices, reference.matrices, scan.shape)
        if distance > tolerance:
            yield source.error(
                f"an affine that places corner voxels up to {distance:.4g} mm away from those of"
                f" {name}",
                f"at most {tolerance:g} mm (check.affine_tolerance_mm)",
                _order_advice(scan, reference, first, tolerance)
                or _geometry_advice(source, scan, first),
            )


def _shape_advice(scan: Scan, reference: Scan, first: Source, tolerance: float) -> str:
    """Return what to do about a file that does not have the shape of another one."""
    order = _order_advice(scan, reference, first, tolerance)
    if order:
        return order
    if sorted(scan.shape) == sorted(reference.shape):
        return f"Its axes look transposed. Export it again on the grid of {first.path}."
    return f"Resample it onto the grid of {first.path}."


def _order_advice(scan: Scan, reference: Scan, first: Source, tolerance: float) -> str:
    """Return a sentence if a file has the voxels of another one in another order of the axes."""
    if not is_reordered(scan.matrix, scan.shape, reference.matrix, reference.shape, tolerance):
        return ""
    return (
        f"It has the same voxels with the axes {scan.orientation} instead of"
        f" {reference.orientation}. Reorder the axes as in {first.path}, without interpolation."
    )


def _geometry_advice(source: Source, scan: Scan, first: Source) -> str:
    """Return what to do about a file that has the shape of another one, but not its affine.

    Voxels of equal shape mostly correspond. Resampling would move them by the error of the header.
    """
    if not scan.has_orientation or np.array_equal(np.abs(scan.matrix[:3, :3]), np.eye(3)):
        return (
            f"Its geometry seems to be lost. If the voxels correspond one to one, copy the geometry"
            f" of {first.path}."
        )
    advice = f"If the voxels correspond one to one, copy the geometry of {first.path}."
    if source.is_label:
        return f"{advice} Otherwise, draw or export the label again on this image."
    return f"{advice} Otherwise, resample it onto the grid of {first.path}."


# --- all cases together


def _class_findings(scans: Scans, config: Config) -> Iterator[Finding]:
    """Find classes without a voxel in the labelled cases; sparse labels may lack the background."""
    labels = []
    for source, scan in scans.items():
        if source.is_label and source.case.split is Split.LABELLED:
            labels.append(scan)
    # Nothing is known about the classes of a file that cannot be read.
    if not labels or any(scan.problem for scan in labels):
        return
    for name, value in zip(config.class_names, config.class_values, strict=True):
        if not any(str(value) in scan.values for scan in labels):
            yield _sheet_warning(
                f"no labelled case with a voxel of {name} ({value})",
                "voxels of each class in the labelled cases",
                "Label some voxels of this class. The network cannot learn a class without them.",
            )


def _header_text_findings(scans: Scans) -> Iterator[Finding]:
    """Warn of text in headers that may identify patients, once for all files."""
    with_text = []
    for source, scan in scans.items():
        if scan.identifying:
            parts = ", ".join(scan.identifying)
            with_text.append(f"{source.case.case_id} ({source.column}: {parts})")
    if with_text:
        yield _sheet_warning(
            f"text in the header of {len(with_text)} files that may identify a patient:"
            f" {few(with_text)}",
            "no names, dates and numbers of patients in the headers",
            "hstf copies none of it into its files. Remove it from the scans before you pass"
            " them on.",
        )


def _intensity_findings(scans: Scans, config: Config) -> Iterator[Finding]:
    """Find scans whose intensities are unlike those of the other scans of their modality."""
    for name, kind in config.modalities.items():
        images = {}
        for source, scan in scans.items():
            if source.column == name and not source.is_label and len(scan.percentiles) == 3:
                images[source] = scan
        shifted = list(_offset_findings(images)) if kind == "ct" else []
        yield from shifted
        files = {finding.file for finding in shifted}
        for source, issue in _unlike_the_others(images, kind):
            if str(source.path) not in files:
                yield source.of(issue)


def _offset_findings(images: Scans) -> Iterator[Finding]:
    """Find CT scans that are stored without the offset of Hounsfield units, unlike the others."""
    sources = {source.case.case_id: source for source in images}
    percentiles = {source.case.case_id: scan.percentiles for source, scan in images.items()}
    for case_id in lacks_hu_offset(percentiles):
        yield sources[case_id].warning(
            f"intensities about {HU_OFFSET:g} above those of the other scans (half of the"
            f" voxels are below {percentiles[case_id][1]:g})",
            "CT values in HU: air is -1000, water 0",
            f"Subtract {HU_OFFSET:g}, or convert the file again from DICOM with its rescale"
            " intercept.",
        )


def _unlike_the_others(images: Scans, kind: str) -> Iterator[tuple[Source, Issue]]:
    """Compare each scan with the labelled and unlabelled ones, if there are some of them."""
    training = [source for source in images if source.case.split.is_training]
    bounds = _range_of(training, images)
    for source, scan in images.items():
        if len(training) <= FEW_SCANS:  # a single one would widen the range
            bounds = _range_of([other for other in training if other is not source], images)
        for issue in range_issues(scan, kind, bounds) if bounds else ():
            yield source, issue


def _range_of(sources: Sequence[Source], images: Scans) -> IntensityRange | None:
    """Return the range of the intensities of scans; None if there are only a few."""
    if len(sources) < MINIMUM_OTHERS:
        return None
    return IntensityRange.of([images[source].percentiles for source in sources])


def _withheld_findings(config: Config) -> Iterator[Finding]:
    """Warn if the model learns from withheld labels."""
    if config.withheld_labels:
        yield _sheet_warning(
            "the model learns from the withheld labels of the unlabelled cases",
            "only labels of labelled cases",
            "Remove withheld_labels, unless this experiment is the upper bound of a benchmark.",
        )


def _split_findings(sheet: CaseSheet) -> Iterator[Finding]:
    """Find splits with too few patients."""
    requirements = (
        (Split.UNLABELLED, "without them, self-training has no pseudo-labels"),
        (Split.TEST, "without them, the result is not evaluated"),
    )
    yield from _labelled_findings(sheet.of(Split.LABELLED))
    for split, reason in requirements:
        if not sheet.of(split):
            yield _sheet_warning(
                f"{split} cases of 0 patients", "at least 1", f"Add some: {reason}."
            )


def _labelled_findings(labelled: Sequence[Case]) -> Iterator[Finding]:
    """Find too few labelled patients; a single one is possible with two or more scans."""
    patients = {case.group for case in labelled}
    if len(patients) > 1:
        return
    found = f"{len(labelled)} labelled cases of {len(patients)} patients"
    expected = "at least 2 patients"
    if len(labelled) < 2:
        advice = "Add some: the warm-up trains on some and predicts the others."
        yield Finding(Level.ERROR, "", SHEET, found, expected, advice)
    else:
        advice = (
            "Each network of a fold has seen another scan of the patient that it predicts. The"
            " calibration, predicted Dice and the weights of external teachers are too optimistic."
        )
        yield _sheet_warning(found, expected, advice)


def _patient_findings(sheet: CaseSheet) -> Iterator[Finding]:
    """Find patients with labelled and unlabelled cases.

    The case sheet itself refuses patients of test cases in other splits.
    """
    by_patient: dict[str, list[Case]] = defaultdict(list)
    for case in sheet.cases:
        by_patient[case.group].append(case)
    for cases in by_patient.values():
        for case in cases:
            others = [other for other in cases if other.split is not case.split]
            if others:
                yield _patient_warning(case, others)


def _patient_warning(case: Case, others: Sequence[Case]) -> Finding:
    names = few(f"{other.case_id} ({other.split})" for other in others)
    return _sheet_warning(
        f"patient {case.group} is {case.split} here and has another split in {names}",
        "each patient in one split",
        "The teacher has seen this patient. Its pseudo-labels are better than those of others.",
        case.case_id,
    )


def _duplicate_findings(scans: Scans, config: Config) -> Iterator[Finding]:
    """Find files that are used twice, and files with the same voxels.

    Empty labels and masks are compared by path only, because many of them are equal.
    """
    same: dict[str, list[Source]] = defaultdict(list)
    for source, scan in scans.items():
        is_empty_label = source.is_label and not _foreground_voxels(scan, config)
        is_empty_mask = source.is_mask and scan.minimum == scan.maximum
        if scan.voxels_sha256 and not is_empty_label and not is_empty_mask:
            key = scan.voxels_sha256
        else:
            key = os.path.realpath(source.path)
        same[key].append(source)
    for duplicates in same.values():
        if len(duplicates) > 1:
            yield from _duplicates_of_one_file(duplicates)


def _duplicates_of_one_file(duplicates: Sequence[Source]) -> Iterator[Finding]:
    paths = {os.path.realpath(source.path) for source in duplicates}
    equal = "file" if len(paths) == 1 else "voxels"
    # Labels in different files may be equal by chance, and so may masks: one atlas for all cases.
    kinds = {source.kind for source in duplicates}
    is_one_kind = kinds in ({"label"}, {"mask"})
    may_be_chance = is_one_kind and len(paths) == len(duplicates)
    for source in duplicates:
        others = [other for other in duplicates if other is not source]
        names = few(f"{other.case.case_id} ({other.column}: {other.path})" for other in others)
        found = f"the same {equal} as in {names}"
        expected = "each image and label once"
        advice = "Correct the path in the case sheet, or remove all but one of them."
        if may_be_chance:
            yield source.warning(found, expected, advice)
        else:
            yield source.error(found, expected, advice)
