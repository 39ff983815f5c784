"""What is wrong or doubtful in the header and the voxels of a scan.

There is one set of rules. ``check``, ``predict`` and ``import`` apply it to what
:func:`hstf.imaging.scan.scan_file` or :func:`hstf.imaging.scan.scan_header` has read. An error
means that no correct result is possible; a warning, that the result may be wrong.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from math import prod

import numpy as np
from nibabel.orientations import aff2axcodes

from hstf.imaging.affines import corner_distance
from hstf.imaging.scan import Scan
from hstf.imaging.spacing import Spacing
from hstf.imaging.voxel_summaries import NON_FINITE
from hstf.runtime.errors import numbers

MAXIMUM_SPACING_MM = 20.0
MINIMUM_SPACING_MM = 0.01
"""Lower bound for the voxel size of a scan whose header has another unit than mm."""
MAXIMUM_VOLUME_RATIO = 64.0
"""Ratio of the volumes of two voxels: 4 along each axis."""
MINIMUM_VOXELS = 4
"""Along each axis."""
GEOMETRY_TOLERANCE = 0.1
"""Distance of two geometries, in voxels, up to which they are equal: a qform is less exact."""
SIZE_TOLERANCE = 0.01
"""Relative difference of two voxel sizes up to which they are equal."""
NEARLY_EMPTY = 0.001
"""Fraction of voxels that are not empty background below which a scan is nearly empty."""
CT_AIR = -900.0
"""HU below which there is only air."""
NOT_CT = ("mr", "pet", "us")
"""Modalities whose values are not HU."""
OTHER = "other"
"""The kind of a channel that may be a mask."""
MASK = "mask"
"""The kind of a channel that is no scan but a mask: it may be constant or have few values."""


class Level(StrEnum):
    """How serious a finding is. An error stops the case, and in ``check`` the workflow."""

    ERROR = "error"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True)
class Issue:
    """Something wrong or doubtful in a file."""

    level: Level
    found: str
    expected: str
    what_to_do: str

    def sentence(self) -> str:
        """Return the issue as text."""
        return (
            f"{self.level}: found: {self.found}; expected: {self.expected}. {self.what_to_do}"
        ).rstrip()


def _error(found: str, expected: str, what_to_do: str) -> Issue:
    return Issue(Level.ERROR, found, expected, what_to_do)


def _warning(found: str, expected: str, what_to_do: str) -> Issue:
    return Issue(Level.WARNING, found, expected, what_to_do)


def image_issues(scan: Scan, kind: str) -> list[Issue]:
    """Return all issues of an image.

    Args:
        scan: what :func:`hstf.imaging.scan.scan_file` has read.
        kind: the modality: ct, mr, pet, us, other or mask.
    """
    if scan.problem:
        return [unreadable(scan)]
    return [*header_issues(scan), *content_issues(scan, kind)]


def unreadable(scan: Scan) -> Issue:
    """Return the issue of a file that cannot be read."""
    return _error(
        scan.problem.rstrip("."),
        "a readable 3D volume",
        "Export or copy the file again, or leave it out.",
    )


# --- header


def header_issues(scan: Scan, label: bool = False) -> Iterator[Issue]:
    """Yield the issues in the header of a file that can be read.

    Args:
        scan: what :func:`hstf.imaging.scan.scan_header` or ``scan_file`` has read.
        label: whether the file is a label. A label may have two geometries: its voxels are compared
            with those of its image.
    """
    yield from _spacing_issues(scan)
    yield from _unit_issues(scan)
    if not scan.has_orientation:
        yield _orientation_issue(scan)
    elif _is_default_geometry(scan):
        yield _warning(
            "voxels of 1 x 1 x 1 mm along the axes of the scanner, the first one at 0 x 0 x 0 mm",
            "the geometry of the scan",
            "A program that knew no geometry writes this. Copy the geometry from the source.",
        )
    if min(scan.shape) < MINIMUM_VOXELS:
        yield _warning(
            f"shape {numbers(scan.shape)}",
            f"at least {MINIMUM_VOXELS} voxels along each axis",
            "Check that the file is a volume and not a slice or a localiser.",
        )
    if scan.extra_bytes:
        yield _warning(
            f"{scan.extra_bytes} bytes after the last voxel",
            f"only the voxels of shape {numbers(scan.shape)}",
            "Check the shape in the header.",
        )
    if not label:
        yield from _second_geometry_issues(scan)


def _is_default_geometry(scan: Scan) -> bool:
    """Return whether a scan has the geometry that ITK or nibabel write if none is given."""
    absolute = np.abs(scan.matrix)
    return scan.has_spacing and bool(np.array_equal(absolute, np.eye(4)))


def _has_positive_sizes(scan: Scan) -> bool:
    return all(0 < size < np.inf for size in scan.pixdim)


def _spacing_issues(scan: Scan) -> Iterator[Issue]:
    if not _has_positive_sizes(scan):
        found = f"voxel sizes {numbers(scan.pixdim)} in the header (pixdim)"
        expected = "positive voxel sizes"
        if scan.has_spacing:
            yield _warning(found, expected, "The sform is used instead. Correct the header.")
        else:
            advice = "There is no sform that could be used instead. Correct the header."
            yield _error(found, expected, advice)
    elif not scan.has_spacing:
        yield _error(
            "no voxel size in the header",
            "the voxel size in mm along each axis",
            "Convert the volume again from its source, or add the voxel sizes.",
        )
    if max(scan.spacing) > MAXIMUM_SPACING_MM and not _is_other_unit(scan):
        yield _warning(
            f"spacing {numbers(scan.spacing)} mm",
            f"at most {MAXIMUM_SPACING_MM:g} mm",
            "Check the units in the header.",
        )


def _is_other_unit(scan: Scan) -> bool:
    return scan.unit not in ("", "mm", "unknown")


def _unit_issues(scan: Scan) -> Iterator[Issue]:
    if not _is_other_unit(scan):
        return
    sizes = scan.spacing
    if min(sizes) >= MINIMUM_SPACING_MM and max(sizes) <= MAXIMUM_SPACING_MM:
        advice = "The affine is read as mm. Correct the header if it is not in mm."
        yield _warning(f"lengths in {scan.unit}", "mm", advice)
        return
    yield _error(
        f"lengths in {scan.unit}, and voxels of {numbers(sizes)}",
        "lengths in mm",
        "They would be read as mm. Write the voxel sizes, the affine and the unit of the header in"
        " mm.",
    )


def _orientation_issue(scan: Scan) -> Issue:
    if any(scan.codes):  # ITK has filled in a default
        found = "no directions of the axes in the header"
    else:
        found = "neither sform nor qform"
    return _warning(
        f"{found}, so left and right may be swapped",
        "an affine that places the voxels in space",
        "Convert the file again from DICOM.",
    )


def spacing_issues(scan: Scan, planned: Spacing) -> Iterator[Issue]:
    """Yield a warning if the voxels of a scan are much larger or smaller than those of a model.

    Args:
        scan: what was read from the file.
        planned: voxel size (mm) of the model.
    """
    ratio = prod(scan.spacing) / prod(planned)
    if not 1 / MAXIMUM_VOLUME_RATIO <= ratio <= MAXIMUM_VOLUME_RATIO:
        yield _warning(
            f"voxels of {numbers(scan.spacing)} mm",
            f"voxels of about {numbers(planned)} mm, for which the model was trained",
            "Check the voxel sizes in the header. Look at the segmentation.",
        )


def _second_geometry_issues(scan: Scan) -> Iterator[Issue]:
    """Find two geometries in a header: sform and qform, or the voxel sizes of one of them."""
    if not _has_positive_sizes(scan):
        return
    if not scan.second_affine:
        if not np.allclose(scan.pixdim, scan.spacing, rtol=SIZE_TOLERANCE, atol=0):
            yield _warning(
                f"voxel sizes {numbers(scan.pixdim)} in the header (pixdim), and"
                f" {numbers(scan.spacing)} in the sform",
                "one voxel size",
                "The sform is used. Other programs may use pixdim. Correct the header.",
            )
        return
    second = scan.matrices[1]
    distance = corner_distance(scan.matrix, second, scan.shape)
    if distance <= GEOMETRY_TOLERANCE * min(scan.spacing):
        return
    other = "".join(aff2axcodes(second))
    directions = "" if other == scan.orientation else f" ({scan.orientation} and {other})"
    yield _warning(
        f"two geometries: sform and qform place corner voxels up to {distance:.4g} mm"
        f" apart{directions}",
        "one geometry",
        "The sform is used. Programs of ITK may use the qform. Labels are accepted with either"
        " geometry.",
    )


# --- voxels


def content_issues(scan: Scan, kind: str) -> Iterator[Issue]:
    """Yield the issues in the voxels of an image that can be read.

    Args:
        scan: what was read from the file.
        kind: the modality: ct, mr, pet, us, other or mask.
    """
    if scan.non_finite:
        yield _error(
            f"{scan.non_finite} voxels that are {NON_FINITE}",
            "finite values",
            "If they mark the empty background, replace them by its value.",
        )
    elif scan.minimum == scan.maximum:
        level = Level.WARNING if kind == MASK else Level.ERROR
        yield Issue(
            level,
            f"a constant image: every voxel is {scan.minimum:g}",
            "an image with contrast",
            "Export the image again, or leave out the case. Only an image of the modality mask may"
            " be constant.",
        )
    elif kind != MASK:
        yield from _doubtful_content(scan, kind)
    yield from _modality_issues(scan, kind)


def _doubtful_content(scan: Scan, kind: str) -> Iterator[Issue]:
    if scan.filled < NEARLY_EMPTY and kind != OTHER:
        yield _warning(
            f"a nearly empty image: {100 * (1 - scan.filled):.4g}% of its voxels are background",
            "an image with contrast",
            "Look at the image in a viewer.",
        )
    elif scan.distinct and kind != OTHER:
        yield _warning(
            f"only {scan.distinct} different values, all of them whole numbers",
            "a scan",
            "Check that the file is not a label map.",
        )


def _modality_issues(scan: Scan, kind: str) -> Iterator[Issue]:
    """Find scans that the header or the range of values shows to be of another modality."""
    if scan.modality and kind in ("ct", *NOT_CT) and scan.modality != kind:
        yield _warning(
            f"modality {scan.modality.upper()} in the header",
            f"{kind.upper()}",
            "Check that the file is the right one.",
        )
    if not scan.percentiles:
        return
    lowest = scan.minimum
    text = f"values from {lowest:g} to {scan.maximum:g}"
    if kind == "ct" and lowest >= 0 and scan.maximum > 0:
        yield _warning(
            f"{text}, none of them negative",
            "CT values in HU: air is -1000",
            "Check that the file is a CT, and that the offset of the HU was not lost.",
        )
    if kind in NOT_CT and lowest <= CT_AIR and scan.percentiles[0] < CT_AIR / 10:
        yield _warning(
            f"{text}, as in a CT",
            f"values of {kind.upper()}",
            "Check that the file is the right one.",
        )
