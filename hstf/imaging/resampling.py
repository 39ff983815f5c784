"""Resample volumes axis by axis.

A grid that keeps the axes of its source is a separable problem: one axis is interpolated at a time.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hstf.imaging.slabs import plane_slabs

Order = Literal[0, 1, 3]
"""Order of interpolation: 0 nearest voxel, 1 linear, 3 cubic B-splines."""
Arrays = list[np.ndarray]


def resample(
    array: np.ndarray,
    coordinates: Sequence[np.ndarray | None],
    orders: Sequence[Order],
) -> np.ndarray:
    """Sample a volume on a grid.

    Coordinates outside the volume take the value of the closest voxel.

    Args:
        array: ``(X, Y, Z)``.
        coordinates: for each axis, the voxel coordinates of the grid in ascending order. An axis
            with None is not changed.
        orders: for each axis, the order of interpolation: 0 takes the nearest voxel, 1 interpolates
            linearly, 3 by cubic B-splines (Unser 1999).

    Returns:
        Float32.
    """
    growth: dict[int, float] = {}
    for axis, wanted in enumerate(coordinates):
        if wanted is not None:
            growth[axis] = len(wanted) / array.shape[axis]
    result = array.astype(np.float32, copy=False)
    # Axes that shrink come first: this leaves less work for the others.
    for axis in sorted(growth, key=growth.__getitem__):
        wanted = coordinates[axis]
        assert wanted is not None
        result = _resample_axis(result, axis, wanted, orders[axis])
    return result


def _resample_axis(
    array: np.ndarray,
    axis: int,
    coordinates: np.ndarray,
    order: Order,
) -> np.ndarray:
    size = array.shape[axis]
    if order == 0 or size == 1:
        nearest = np.floor(coordinates + 0.5)
        nearest = np.clip(nearest, 0, size - 1)
        return array.take(nearest.astype(np.intp), axis)
    shape = list(array.shape)
    shape[axis] = len(coordinates)
    result = np.empty(shape, np.float32)
    inside = np.clip(coordinates, 0, size - 1)
    indices, weights = _neighbours(inside, size, order)
    along_axis = (slice(None), *(None,) * (2 - axis))
    # Work in slabs of another axis, so that temporary arrays stay small.
    slab_axis = 1 if axis == 0 else 0
    for planes in plane_slabs(shape[slab_axis]):
        slab = (slice(None),) * slab_axis + (planes,)
        source = array[slab]
        if order == 3:
            source = _spline_coefficients(source, axis)
        first = weights[0][along_axis]
        result[slab] = source.take(indices[0], axis) * first
        for number in range(1, len(indices)):
            weight = weights[number][along_axis]
            result[slab] += source.take(indices[number], axis) * weight
    return result


def _spline_coefficients(
    array: np.ndarray,
    axis: int,
) -> np.ndarray:
    from scipy.ndimage import spline_filter1d

    return spline_filter1d(
        array,
        order=3,
        axis=axis,
        output=np.float32,
        mode="mirror",
    )


def _neighbours(
    coordinates: np.ndarray,
    size: int,
    order: Order,
) -> tuple[Arrays, Arrays]:
    """Return indices and weights of the 2 (linear) or 4 (cubic) neighbours of each coordinate.

    The volume is mirrored at the centres of its outermost voxels.
    """
    low = np.floor(coordinates).astype(np.intp)
    t = (coordinates - low).astype(np.float32)
    if order == 1:
        high = np.minimum(low + 1, size - 1)
        return [low, high], [1 - t, t]
    weights = [
        (1 - t) ** 3 / 6,
        2 / 3 - t**2 + t**3 / 2,
        2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2,
        t**3 / 6,
    ]
    # The mirrored volume repeats after this number of voxels.
    period = 2 * (size - 1)
    indices = []
    for step in (-1, 0, 1, 2):
        wrapped = (low + step + size - 1) % period
        indices.append(np.abs(wrapped - (size - 1)))
    return indices, weights
