"""Voxel sizes: which axis is coarse, and how a grid is zoomed."""

from collections.abc import Sequence

import numpy as np

from hstf.experiment.plan import Spacing, Triple

__all__ = ["Spacing", "Triple"]

ANISOTROPY = 3.0
"""Ratio to the shortest voxel edge above which an axis is coarse, as in nnU-Net."""
MAXIMUM_DRIFT = 0.02
"""Difference of the extents of an axis, in voxels, up to which two spacings are equal."""


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
