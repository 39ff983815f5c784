"""Affine matrices: orientation, voxel size, and comparison of the geometry of two files.

An affine ``(4, 4)`` maps voxel indices to millimetres (RAS+).
"""

from collections.abc import Sequence
from itertools import product
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from hstf.imaging.spacing import Spacing, VoxelSteps
from hstf.runtime.errors import HstfError

MINIMUM_EDGE_MM = 1e-6
MINIMUM_DETERMINANT = 1e-6
"""Lower bound for the determinant of the direction vectors: below it, axes are parallel."""
MAXIMUM_SHEAR_DEGREES = 3.0
"""Upper bound for the deviation of two axes from a right angle. Patches, zooms and rotations of the
planned grid ignore such a small deviation; scores do not, see :func:`steps_of`."""
THICK = 2.0
"""Ratio of the longest to the middle voxel edge above which it is the distance of slices."""
GridAxes = Literal["anatomical", "slices"]
"""The axes of the grid, see :func:`grid_orientation`."""
ITK_TOLERANCE = 1e-4
"""Maximum scalar product of two direction vectors for which ITK accepts an affine."""


def spacing_of(affine: np.ndarray) -> Spacing:
    """Return the voxel size (mm) along each array axis."""
    axes = affine[:3, :3]
    x, y, z = np.linalg.norm(axes, axis=0)
    return float(x), float(y), float(z)


def steps_of(affine: np.ndarray) -> VoxelSteps:
    """Return what distances and volumes of voxels are computed from.

    Returns:
        The voxel size, or the axes ``(3, 3)`` of the affine if they are not at right angles.
    """
    if is_accepted_by_itk(affine):
        return spacing_of(affine)
    return np.asarray(affine, dtype=float)[:3, :3]


def affine_problem(affine: np.ndarray) -> str:
    """Describe why an affine cannot place voxels in space. Return an empty string if it can."""
    if not np.isfinite(affine).all():
        return "the affine has values that are not finite"
    axes = affine[:3, :3]
    if _is_singular(axes):
        matrix = np.array2string(axes, precision=4)
        return f"the affine is singular: {matrix}".replace("\n", "")
    shear = shear_degrees(affine)
    if shear > MAXIMUM_SHEAR_DEGREES:
        return (
            f"the grid is sheared: two of its axes meet at {90 - shear:.1f} degrees, expected 90."
            " The gantry of a CT was tilted, or a registration was written into the header."
            " Convert the DICOM files with dcm2niix, which straightens them, or resample scan and"
            " label as in docs/how-to/own-data.md, 'Sheared grids'"
        )
    return ""


def shear_degrees(affine: np.ndarray) -> float:
    """Return how far two axes deviate at most from a right angle."""
    return float(np.degrees(np.arcsin(min(1.0, _highest_cosine(affine)))))


def is_accepted_by_itk(affine: np.ndarray) -> bool:
    """Return whether ITK accepts an affine as an sform: its axes are at right angles."""
    return _highest_cosine(affine) < ITK_TOLERANCE / 2


def _highest_cosine(affine: np.ndarray) -> float:
    """Return the highest cosine of an angle between two axes."""
    axes = np.asarray(affine, dtype=float)[:3, :3]
    directions = axes / np.linalg.norm(axes, axis=0)
    cosines = np.abs(directions.T @ directions - np.eye(3))
    return float(cosines.max())


def _is_singular(axes: np.ndarray) -> bool:
    edges = np.linalg.norm(axes, axis=0)
    if edges.min() < MINIMUM_EDGE_MM:
        return True
    determinant = np.linalg.det(axes / edges)
    return bool(abs(determinant) < MINIMUM_DETERMINANT)


def orientation_of(affine: np.ndarray) -> np.ndarray:
    """Return the closest RAS axis of each array axis.

    Returns:
        ``(3, 2)`` integers as in nibabel: the RAS axis, and 1 or -1 for its direction.

    Raises:
        HstfError: if an axis of ``affine`` has no direction.
    """
    orientation = io_orientation(np.asarray(affine, dtype=float))
    if np.isnan(orientation).any():
        raise HstfError(
            f"an axis of the affine has no direction: {np.asarray(affine).tolist()}."
            " Restore the affine from the source of the file."
        )
    return orientation.astype(int)


def grid_orientation(affine: np.ndarray, axes: GridAxes = "anatomical") -> np.ndarray:
    """Return the axis of the grid of each array axis.

    Args:
        affine: ``(4, 4)``, voxel index to mm.
        axes: ``anatomical`` for RAS axes; ``slices`` for the axes of the slices, of which the last
            one goes from slice to slice, whatever their direction in the body.

    Returns:
        ``(3, 2)`` integers as :func:`orientation_of`.

    Raises:
        HstfError: if an axis of ``affine`` has no direction.
    """
    closest = orientation_of(affine)
    if axes == "anatomical":
        return closest
    edges = spacing_of(np.asarray(affine, dtype=float))
    longest = int(np.argmax(edges))
    through = longest if edges[longest] > THICK * float(np.median(edges)) else 2
    order = [axis for axis in range(3) if axis != through] + [through]
    orientation = np.ones((3, 2), dtype=int)
    orientation[order, 0] = range(3)
    if np.linalg.det(np.asarray(affine, dtype=float)[:3, order]) < 0:
        orientation[through, 1] = -1  # otherwise the anatomy would be mirrored
    return orientation


def ras_order(affine: np.ndarray, axes: GridAxes = "anatomical") -> np.ndarray:
    """Return the array axis of each of the three axes of :func:`to_ras`."""
    return np.argsort(grid_orientation(affine, axes)[:, 0])


def to_ras(
    array: np.ndarray,
    affine: np.ndarray,
    axes: GridAxes = "anatomical",
) -> np.ndarray:
    """Return a view of ``array`` ``(X, Y, Z)`` whose axes are closest to RAS.

    RAS axes point to the right, anterior and superior. See :func:`grid_orientation` for others.
    """
    return apply_orientation(array, grid_orientation(affine, axes))


def ras_spacing(affine: np.ndarray, axes: GridAxes = "anatomical") -> Spacing:
    """Return the voxel size (mm) along the axes of :func:`to_ras`."""
    sizes = spacing_of(np.asarray(affine, dtype=float))
    x, y, z = ras_order(affine, axes)
    return sizes[x], sizes[y], sizes[z]


def without_shear(affine: np.ndarray) -> np.ndarray:
    """Return the closest affine with right angles between its axes, as a qform stores it.

    Args:
        affine: ``(4, 4)``, voxel index to mm.
    """
    header = nib.Nifti1Header()
    header.set_qform(affine, code="scanner")
    return np.asarray(header.get_qform(), dtype=float)


def tilt_degrees(affine: np.ndarray) -> float:
    """Return the maximum angle of an axis of a scan to the closest axis of the body.

    Args:
        affine: ``(4, 4)``, voxel index to mm.
    """
    axes = np.asarray(affine, dtype=float)[:3, :3]
    cosines = np.abs(axes / np.linalg.norm(axes, axis=0)).max(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, 0, 1))).max())


def is_placed(affine: np.ndarray, shape: Sequence[int]) -> bool:
    """Return whether an affine places a scan in the body.

    An affine without a rotation whose origin is 0, or the centre of the scan, is what programs
    write that do not know the position.

    Args:
        affine: ``(4, 4)``, voxel index to mm.
        shape: shape of the scan.
    """
    if tilt_degrees(affine) > 1e-3:
        return True
    origin = np.asarray(affine, dtype=float)[:3, 3]
    centre = np.asarray(affine)[:3, :3] @ ((np.array(shape[:3]) - 1) / 2) + origin
    return bool(np.abs(origin).max() > 1e-3 and np.abs(centre).max() > 1e-3)


def corner_distance(
    first: np.ndarray,
    second: np.ndarray,
    shape: Sequence[int],
) -> float:
    """Return the maximum distance (mm) between the corners of a volume under two affines.

    Args:
        first: affine ``(4, 4)``.
        second: affine ``(4, 4)``.
        shape: shape of the volume.
    """
    ends = [(0, size - 1) for size in shape]
    corners = [(*corner, 1) for corner in product(*ends)]
    difference = first - second
    offsets = np.array(corners, dtype=float) @ difference.T
    distances = np.linalg.norm(offsets[:, :3], axis=1)
    return float(distances.max())


def is_reordered(
    affine: np.ndarray,
    shape: Sequence[int],
    other: np.ndarray,
    other_shape: Sequence[int],
    tolerance_mm: float,
) -> bool:
    """Return whether two files have the same voxels, with their axes in another order or direction.

    Args:
        affine: affine of a file, ``(4, 4)``.
        shape: its shape.
        other: affine of another file, ``(4, 4)``.
        other_shape: its shape.
        tolerance_mm: maximum distance (mm) of the corners.
    """
    transform = ornt_transform(io_orientation(affine), io_orientation(other))
    new_shape = [0, 0, 0]
    for axis, new_axis in enumerate(transform[:, 0].astype(int)):
        new_shape[new_axis] = shape[axis]
    if tuple(new_shape) != tuple(other_shape):
        return False
    reordered = affine @ inv_ornt_aff(transform, tuple(shape))
    return corner_distance(reordered, other, other_shape) <= tolerance_mm


def second_geometry(header: nib.Nifti1Header) -> np.ndarray | None:
    """Return the affine of the qform if a header also has an sform, which is used instead.

    Returns:
        ``(4, 4)``; None if the header has at most one of them, or if the qform is not valid.
    """
    if not (int(header["qform_code"]) and int(header["sform_code"])):
        return None
    try:
        affine = np.asarray(header.get_qform(), dtype=float)
    except ValueError:  # not a rotation
        return None
    return None if affine_problem(affine) else affine


def geometry_distance(
    affines: Sequence[np.ndarray],
    image_affines: Sequence[np.ndarray],
    shape: Sequence[int],
) -> float:
    """Return the distance (mm) of the corners of two files whose headers may have two geometries.

    Programs differ in which geometry they use and write. So the geometry that is used of one file
    may be any geometry of the other one.

    Args:
        affines: affines of a file, the one that is used first.
        image_affines: affines of another file, the one that is used first.
        shape: shape of both files.
    """
    pairs = [(affines[0], other) for other in image_affines]
    pairs += [(other, image_affines[0]) for other in affines[1:]]
    return min(corner_distance(first, second, shape) for first, second in pairs)
