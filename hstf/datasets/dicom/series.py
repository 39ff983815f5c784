"""A DICOM series as one volume: which slices, in which order, on which grid.

Slices are ordered by their position along the normal of the slices. Names of files and instance
numbers do not count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hstf.datasets.dicom.headers import RESCALE_TAGS, Header
from hstf.imaging.affines import affine_problem

LOCALIZER = ("LOCALIZER", "SCOUT")
"""Values of ImageType that mark overview images."""
NO_IMAGES = ("SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "SR", "PR", "KO", "REG", "FID", "DOC")
"""Values of Modality of objects that are no scan, although some of them have pixels."""
SAME_ORIENTATION = 1e-3
"""Maximum difference of direction cosines of slices that are parallel."""
MAXIMUM_OTHERS = 0.25
"""If more slices are not parallel, the series is no volume."""
SAME_PLACE_MM = 0.01
"""Slices that are closer together show the same place."""
LENGTH_TOLERANCE = 0.01
"""Maximum difference of the length of a direction from 1."""
TOLERANCE_MM = 0.1
"""Positions are written with few digits: a slice may be so far from its place on the grid."""
TOLERANCE = 0.02
"""The same as a fraction of the distance of slices. The higher of both counts."""
MISSING = 1.5
"""A gap of so many distances of slices means that slices are missing."""
MAXIMUM_PIXELS = 1 << 24
"""Pixels of a slice. A small file with a header that claims more would fill the memory."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From the axes of DICOM (left, posterior, superior) to those of NIfTI."""


class NotVolume(Exception):
    """The series is no volume by its nature, such as a localiser: it is left out."""


class BrokenSeries(Exception):
    """The series should be a volume, but is not: what was found, and what to do."""


@dataclass(frozen=True)
class Series:
    """A series with its slices in order."""

    slices: tuple[Header, ...]
    affine: np.ndarray
    """``(4, 4)``: (column, row, slice) to mm in the axes of NIfTI."""
    set_aside: int = 0
    """Number of files that are no slices of the volume: overview images, reports, pictures."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of columns, rows and slices."""
        rows, columns = self.slices[0].shape
        return columns, rows, len(self.slices)

    @property
    def first(self) -> Header:
        """The first slice."""
        return self.slices[0]


def source_folder(headers: Sequence[Header]) -> Path:
    """Return the innermost folder with a valid name that contains all files of a series."""
    folder = headers[0].path.parent
    while not all(header.path.is_relative_to(folder) for header in headers):
        folder = folder.parent
    folder = folder.resolve()
    # A name that is not valid UTF-8, of a file made by Windows, cannot be stored in a table.
    while not is_valid_name(folder):
        folder = folder.parent
    return folder


def is_valid_name(path: Path) -> bool:
    """Return whether a path can be written as UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def build_series(headers: Sequence[Header], lost: str = "") -> Series:
    """Return the volume that a series is.

    Args:
        headers: the headers of its files.
        lost: a description of files that may be lost slices of it; empty if there are none.

    Raises:
        NotVolume: if it is none by its nature.
        BrokenSeries: if slices are missing, exist twice, or do not fit together.
    """
    slices = _volume_slices(headers, at_least=1 if lost else 2)
    if lost:
        raise BrokenSeries(lost)
    _check_directions(slices)
    _check_equal(slices)
    _check_rescale(slices)
    positions = np.array([header.position for header in slices])
    along = positions @ _normal(slices[0])
    order = np.argsort(along, kind="stable")
    _check_distances(along[order])
    ordered = tuple(slices[index] for index in order)
    affine = _affine(ordered[0], positions[order])
    _check_line(positions[order])
    problem = affine_problem(affine)
    if problem:
        raise BrokenSeries(problem)
    return Series(ordered, affine, set_aside=len(headers) - len(slices))


def is_no_image(header: Header) -> bool:
    """Return whether a file is no part of a scan, such as a report or a segmentation."""
    return not header.shape[0] or header.modality in NO_IMAGES


def _volume_slices(headers: Sequence[Header], at_least: int) -> list[Header]:
    """Return the slices of a volume, without overview images.

    Raises:
        NotVolume: if there are none, or fewer than ``at_least``.
    """
    images = [header for header in headers if not is_no_image(header)]
    if not images:
        raise NotVolume(f"no image ({headers[0].modality or 'unknown'})")
    single = [header for header in images if header.frames <= 1]
    if not single:
        raise NotVolume(
            "one object with many frames (enhanced or multi-frame), which is not read. Convert it"
            " with dcm2niix, or export it from the PACS as single slices"
        )
    grey = [header for header in single if not header.is_coloured]
    if not grey:
        raise NotVolume("colour pictures")
    slices = [header for header in grey if not set(header.image_type) & set(LOCALIZER)]
    if not slices:
        raise NotVolume("a localiser")
    if len(slices) < at_least:
        raise NotVolume("a single slice")
    placed = [len(h.position) == 3 and len(h.orientation) == 6 for h in slices]
    if not any(placed):
        raise NotVolume("pictures without a position in the patient")
    if not all(placed):
        raise BrokenSeries(
            f"{placed.count(False)} of {len(slices)} slices have no position. Export the series"
            " from the PACS again"
        )
    _check_parallel(slices)
    return slices


def _check_parallel(slices: Sequence[Header]) -> None:
    """Check that slices are parallel.

    Raises:
        BrokenSeries: if a few are not parallel to all others.
        NotVolume: if many are not.
    """
    directions = np.array([header.orientation for header in slices])
    differ = np.abs(directions - np.median(directions, axis=0)).max(axis=1) > SAME_ORIENTATION
    count = int(differ.sum())
    if count > MAXIMUM_OTHERS * len(slices):
        raise NotVolume("slices that are not parallel, as in a localiser")
    if count:
        raise BrokenSeries(
            f"{count} of {len(slices)} slices are not parallel to the others, such as an overview"
            " image that is not marked as one. Move these files elsewhere"
        )


def _check_directions(slices: Sequence[Header]) -> None:
    """Check that directions have the length 1; rows and columns would have other distances.

    Raises:
        BrokenSeries: if one has another length.
    """
    directions = np.reshape([header.orientation for header in slices], (-1, 2, 3))
    lengths = np.linalg.norm(directions, axis=-1)
    worst = float(lengths.flat[np.abs(lengths - 1).argmax()])
    if not abs(worst - 1) <= LENGTH_TOLERANCE:
        raise BrokenSeries(
            f"a direction (ImageOrientationPatient) has the length {worst:.4g}, expected 1. Export"
            " the series from the PACS again"
        )


def _directions(header: Header) -> np.ndarray:
    """Return the directions of rows and columns, ``(2, 3)``, with the length 1."""
    directions = np.reshape(header.orientation, (2, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _check_equal(slices: Sequence[Header]) -> None:
    """Check that all slices have one size and belong to one patient.

    Raises:
        BrokenSeries: if they differ.
    """
    patients = {header.patient_id for header in slices}
    if len(patients) > 1:
        raise BrokenSeries(
            f"its files name {len(patients)} patients. Correct the PatientID, and export it again"
        )
    rows, columns = slices[0].shape
    if rows * columns > MAXIMUM_PIXELS:
        raise BrokenSeries(f"slices of {rows} x {columns} pixels, which no scanner makes")
    shapes = sorted({header.shape for header in slices})
    if len(shapes) > 1:
        found = ", ".join(f"{rows} x {columns}" for rows, columns in shapes)
        raise BrokenSeries(f"slices of several sizes ({found}), expected one. Split the series")
    spacings = {header.pixel_spacing for header in slices}
    valid = all(len(spacing) == 2 and min(spacing) > 0 for spacing in spacings)
    if not valid:
        raise BrokenSeries("slices without a pixel size. Export the series from the PACS again")
    sizes = np.array(sorted(spacings))
    if np.ptp(sizes, axis=0).max() > SAME_ORIENTATION * sizes.max():
        raise BrokenSeries("slices of several pixel sizes, expected one. Split the series")


def _check_rescale(slices: Sequence[Header]) -> None:
    """Check that all slices have a rescale, or none. Its values may differ, as those of PET do.

    Raises:
        BrokenSeries: if only some have one, or if a table replaces it.
    """
    if any(header.has_lookup_table for header in slices):
        raise BrokenSeries(
            "the values of its pixels are in a table (ModalityLUTSequence), which is not read."
            " Convert it with another program, and import the result with hstf import folder"
        )
    tags = {header.rescale_tags for header in slices}
    if len(tags) > 1:
        count = sum(header.rescale_tags != RESCALE_TAGS for header in slices)
        raise BrokenSeries(
            f"{count} of {len(slices)} slices have no RescaleSlope or RescaleIntercept, expected"
            " both in all slices, or none. Export the series from the PACS again"
        )


def _normal(header: Header) -> np.ndarray:
    """Return the direction from slice to slice."""
    row, column = _directions(header)
    return np.cross(row, column)


def _check_distances(along: np.ndarray) -> None:
    """Check that slices have equal distances.

    Args:
        along: positions (mm) along the normal, in order.

    Raises:
        BrokenSeries: if slices are missing or exist twice, or if distances differ.
    """
    steps = np.diff(along)
    places = 1 + int((steps > SAME_PLACE_MM).sum())
    if places < len(along):
        raise BrokenSeries(_describe_duplicates(len(along), places))
    step = float(np.median(steps))
    gaps = np.flatnonzero(steps > MISSING * step)
    allowed = max(TOLERANCE_MM, TOLERANCE * step)
    differ = np.abs(steps - step).max() > allowed
    if gaps.size and _are_multiples(steps[gaps] / step):
        missing = int(np.rint(steps[gaps] / step - 1).sum())
        first = int(gaps[0])
        raise BrokenSeries(
            f"{missing} slices are missing: after slice {first + 1} of {len(along)} there is a gap"
            f" of {steps[first]:.4g} mm, but slices are {step:.4g} mm apart. Export the whole"
            " series from the PACS again"
        )
    if differ:
        raise BrokenSeries(
            f"slices are {steps.min():.4g} to {steps.max():.4g} mm apart, expected one distance."
            " Resample the scan to equal distances (dcm2niix does, in its files Eq), and import"
            " the result with hstf import folder"
        )


def _are_multiples(gaps: np.ndarray) -> bool:
    """Return whether all gaps, in distances of slices, are close to whole numbers."""
    return bool(np.abs(gaps - np.rint(gaps)).max() < 0.1)


def _describe_duplicates(slices: int, places: int) -> str:
    advice = (
        "Delete files that exist twice. Split time points, echoes and diffusion directions into"
        " series of their own (dcm2niix does), or choose other series with --series"
    )
    if slices % places == 0:
        where = f"{places} places" if places > 1 else "one place"
        return f"{slices} slices at {where}, {slices // places} at each. {advice}"
    return f"{slices} slices at {places} places: some slices exist twice. {advice}"


def _check_line(positions: np.ndarray) -> None:
    """Check that slices are on the grid, not beside it.

    Raises:
        BrokenSeries: if one is not.
    """
    number = len(positions)
    ends = np.linspace(0, 1, number)[:, None] * (positions[-1] - positions[0]) + positions[0]
    distances = np.linalg.norm(positions - ends, axis=1)
    step = float(np.linalg.norm(positions[-1] - positions[0])) / (number - 1)
    if distances.max() > max(TOLERANCE_MM, TOLERANCE * step):
        raise BrokenSeries(
            f"slices are up to {distances.max():.3g} mm away from a grid with equal distances."
            " Resample the scan, and import the result with hstf import folder"
        )


def _affine(header: Header, positions: np.ndarray) -> np.ndarray:
    """Return the affine of a volume (column, row, slice)."""
    row, column = _directions(header)
    between_rows, between_columns = header.pixel_spacing
    affine = np.eye(4)
    affine[:3, 0] = row * between_columns
    affine[:3, 1] = column * between_rows
    affine[:3, 2] = (positions[-1] - positions[0]) / (len(positions) - 1)
    affine[:3, 3] = positions[0]
    return LPS_TO_RAS @ affine
