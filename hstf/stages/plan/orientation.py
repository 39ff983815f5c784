"""Whether the orientation of scans within their thick slices is known.

Slices of a short-axis heart are tilted against the body, and files that went through other formats
have lost their orientation. Such scans have any orientation within the plane of their slices. Then
training patches are turned and mirrored within this plane, as is common for these data.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hstf.imaging.spacing import Spacing, coarse_axis, slice_axis
from hstf.runtime.errors import few
from hstf.stages.plan.fingerprint import Fingerprint, ScanSummary

LEFT_RIGHT = (0,)
TILTED_DEGREES = 30.0
"""Angle to the closest axis of the body above which this axis is a matter of chance."""
MINIMUM_FRACTION = 0.1
"""Fraction of the scans from which on their orientation counts as unknown."""
SQUARE = 1.05
"""Ratio of the edges of a slice up to which it is square: a turn does not change its shape."""
KEYS = "'augmentation.quarter_turns' and 'augmentation.flip_axes' overrule it."


@dataclass(frozen=True)
class InPlaneOrientation:
    """How training patches are turned and mirrored."""

    flip_axes: tuple[int, ...]
    quarter_turns: tuple[int, ...]
    reason: str

    @property
    def is_unknown(self) -> bool:
        """Whether the scans have any orientation."""
        return bool(self.quarter_turns)


def in_plane_orientation(
    fingerprint: Fingerprint, spacing: Spacing, by_slices: bool = False
) -> InPlaneOrientation:
    """Decide whether patches are turned and mirrored within thick slices.

    Args:
        fingerprint: properties of the scans.
        spacing: planned voxel size (mm).
        by_slices: whether the directions of the header are ignored (``preprocess.axes: slices``).
    """
    mixed = mixed_slices(fingerprint.scans)
    if mixed:
        reason = f"No axis is that of the slices of all scans: {mixed}"
        return InPlaneOrientation(LEFT_RIGHT, (), f"{reason} {KEYS}")
    thick = _thick_axis(fingerprint, spacing)
    if thick is None:
        reason = "There are no thick slices. Patches are mirrored from left to right only."
        return InPlaneOrientation(LEFT_RIGHT, (), f"{reason} {KEYS}")
    plane = tuple(axis for axis in range(3) if axis != thick)
    evidence = list(_evidence(fingerprint.scans, plane))
    if by_slices:
        evidence.insert(0, "'preprocess.axes' ignores the directions of the headers")
    if not evidence:
        reason = (
            f"The slices along axis {thick} are thick, and the headers state the orientation within"
            " them. Patches are mirrored from left to right only."
        )
        return InPlaneOrientation(LEFT_RIGHT, (), f"{reason} {KEYS}")
    reason = (
        f"The slices along axis {thick} are thick, and the orientation within them is unknown:"
        f" {'; '.join(evidence)}. Patches are turned by multiples of 90 degrees about axis {thick}"
        f" and mirrored along the axes {plane[0]} and {plane[1]}."
    )
    return InPlaneOrientation(plane, (thick,), f"{reason} {KEYS}")


def scans_by_thick_axis(scans: Sequence[ScanSummary]) -> dict[int, list[str]]:
    """Return the names of the scans with thick slices by the axis across them, most scans first."""
    names: dict[int, list[str]] = {}
    for scan in scans:
        axis = slice_axis(scan.spacing)
        if axis is not None:
            names.setdefault(axis, []).append(scan.case_id)
    return dict(sorted(names.items(), key=lambda item: -len(item[1])))


def mixed_slices(scans: Sequence[ScanSummary]) -> str:
    """Describe that the slices of scans are across different axes; empty if they are not.

    The axis of the body that is closest to the normal of tilted slices is a matter of chance. No
    spacing and no patch fits slices across different axes.
    """
    by_axis = scans_by_thick_axis(scans)
    sizes = [len(names) for names in by_axis.values()]
    if len(sizes) < 2 or sum(sizes[1:]) < MINIMUM_FRACTION * len(scans):
        return ""
    counts = [f"{len(names)} scans ({few(names)}) axis {axis}" for axis, names in by_axis.items()]
    return (
        f"thick slices are across different axes of the body: {', '.join(counts)}. They are"
        " resampled as if they were of one kind. Set 'preprocess: {axes: slices}': the last axis"
        " then goes from slice to slice in each scan."
    )


def _thick_axis(fingerprint: Fingerprint, spacing: Spacing) -> int | None:
    """Return the axis along which slices are thick, by the plan or, if it has none, by the scans.

    A plan with large voxels within the slices has no thick slices. The scans still have them, and
    their orientation is as unknown as with small voxels.
    """
    planned = coarse_axis(spacing)
    if planned is not None:
        return planned
    by_axis = scans_by_thick_axis(fingerprint.scans)
    for axis, names in by_axis.items():
        if len(names) >= len(fingerprint.scans) / 2:
            return axis
    return None


def _evidence(scans: Sequence[ScanSummary], plane: tuple[int, ...]) -> Iterator[str]:
    """Yield what shows that the orientation is unknown, without a full stop."""
    total = len(scans)
    unplaced = [scan.case_id for scan in scans if not scan.is_placed]
    if len(unplaced) >= MINIMUM_FRACTION * total:
        yield (
            f"the header of {len(unplaced)} of {total} scans ({few(unplaced)}) has the origin and"
            " the directions that files without an orientation get"
        )
    tilted = [scan.case_id for scan in scans if scan.tilt_degrees > TILTED_DEGREES]
    if len(tilted) >= MINIMUM_FRACTION * total:
        yield (
            f"{len(tilted)} of {total} scans ({few(tilted)}) are tilted by more than"
            f" {TILTED_DEGREES:g} degrees, so that the closest axis of the body is a matter of"
            " chance"
        )
    yield from _swapped_shapes(scans, plane)


def _swapped_shapes(scans: Sequence[ScanSummary], plane: tuple[int, ...]) -> Iterator[str]:
    """Yield that slices of some scans have the shape of others, turned by 90 degrees."""
    first, second = plane
    shapes: dict[tuple[int, int], list[str]] = {}
    for scan in scans:
        shapes.setdefault((scan.shape[first], scan.shape[second]), []).append(scan.case_id)
    turned = []
    example = ""
    for (width, height), names in shapes.items():
        others = shapes.get((height, width), [])
        if max(width, height) > SQUARE * min(width, height) and len(names) < len(others):
            turned += names
            example = example or f"{width}x{height} instead of {height}x{width}"
    if len(turned) >= MINIMUM_FRACTION * len(scans):
        yield (
            f"{len(turned)} of {len(scans)} scans ({few(turned)}) have the shape of others turned"
            f" by 90 degrees ({example})"
        )
