"""Voxel sizes: lengths and volumes, which axis is coarse, and how a grid is zoomed."""

from collections.abc import Sequence

import numpy as np

from hstf.experiment.plan import Spacing, Triple

__all__ = ["Spacing", "Triple"]

ANISOTROPY = 3.0
"""Ratio to the shortest voxel edge above which an axis is coarse, as in nnU-Net."""
MAXIMUM_DRIFT = 0.02
"""Difference of the extents of an axis, in voxels, up to which two spacings are equal."""

VoxelSteps = Sequence[float] | np.ndarray
"""The voxel size (mm) along each axis, or the axes ``(3, 3)`` of an affine, whose columns are the
steps from voxel to voxel (mm)."""


def voxel_mm3(steps: VoxelSteps) -> float:
    """Return the volume of a voxel: the product of its edges, or the determinant of the axes."""
    array = np.asarray(steps, dtype=float)
    if array.ndim == 1:
        return float(np.prod(array))
    return float(abs(np.linalg.det(array)))


def to_mm(indices: np.ndarray, steps: VoxelSteps) -> np.ndarray:
    """Return the positions (mm) of voxel ``indices`` ``(N, 3)``, relative to voxel 0."""
    array = np.asarray(steps, dtype=float)
    if array.ndim == 1:
        return indices * array
    return indices @ array.T


def diagonal_mm(shape: Sequence[int], steps: VoxelSteps) -> float:
    """Return the maximum distance (mm) of two corners of a volume."""
    array = np.asarray(steps, dtype=float)
    if array.ndim == 1:
        return float(np.linalg.norm(np.multiply(shape, array)))
    directions = np.array([(1, 1, 1), (1, 1, -1), (1, -1, 1), (-1, 1, 1)])
    diagonals = to_mm(directions * np.asarray(shape), array)
    return float(np.linalg.norm(diagonals, axis=1).max())


def is_same_spacing(
    first: float,
    second: float,
    voxels: int,
) -> bool:
    """Return whether two voxel sizes (mm) are equal up to rounding, along an axis.

    A difference adds up along the axis. Hence a long axis allows a smaller one.

    Args:
        first: voxel size (mm).
        second: voxel size (mm).
        voxels: number of voxels along the axis.
    """
    drift_mm = voxels * abs(first - second)
    return drift_mm <= MAXIMUM_DRIFT * min(first, second)


def coarse_axis(spacing: Spacing) -> int | None:
    """Return the axis with the longest voxel edge, if that edge is coarse (:data:`ANISOTROPY`)."""
    longest = int(np.argmax(spacing))
    if spacing[longest] > ANISOTROPY * min(spacing):
        return longest
    return None


def slice_axis(spacing: Spacing) -> int | None:
    """Return the axis across thick slices: its voxel edge is coarse compared with both others."""
    longest = int(np.argmax(spacing))
    within = [edge for axis, edge in enumerate(spacing) if axis != longest]
    return longest if spacing[longest] > ANISOTROPY * max(within) else None


def relative_spacing(spacing: Sequence[float]) -> tuple[float, ...]:
    """Return the voxel edges in units of the shortest one."""
    shortest = min(spacing)
    return tuple(mm / shortest for mm in spacing)


def axis_zooms(
    zoom: float,
    spacing: Sequence[float],
) -> tuple[float, ...]:
    """Return the zoom factor of each axis: 1 for coarse axes, ``zoom`` for the others.

    Interpolation between thick slices would invent structures.

    Args:
        zoom: factor by which the number of voxels changes.
        spacing: voxel size (mm).
    """
    zooms = []
    for edge in relative_spacing(spacing):
        is_coarse = edge > ANISOTROPY
        zooms.append(1.0 if is_coarse else zoom)
    return tuple(zooms)
