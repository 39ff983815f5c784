"""Interpolation along one axis at a time: a grid that keeps the axes of its source is a separable problem."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

Order = Literal[0, 1, 3]
SLAB = 16  # planes worked on at once: temporaries stay small beside the volume


def resample(
    array: np.ndarray, coordinates: Sequence[np.ndarray | None], orders: Sequence[Order]
) -> np.ndarray:
    """``array`` ``(X, Y, Z)`` at the voxel ``coordinates`` of each axis, as float32.

    Coordinates beyond the outermost voxel centres take the value there. An axis whose coordinates are None stays as
    it is, bit for bit. Order 0 takes the nearest voxel, 1 interpolates linearly, 3 by cubic B-splines (Unser 1999).
    """
    todo = [axis for axis in range(3) if coordinates[axis] is not None]
    growth = {axis: len(coordinates[axis]) / array.shape[axis] for axis in todo}  # type: ignore[arg-type]
    result = array.astype(np.float32, copy=False)
    for axis in sorted(
        todo, key=lambda axis: growth[axis]
    ):  # shrinking axes first: less to do for the others
        result = _along(result, axis, coordinates[axis], orders[axis])  # type: ignore[arg-type]
    return result


def _along(array: np.ndarray, axis: int, coordinates: np.ndarray, order: Order) -> np.ndarray:
    size = array.shape[axis]
    if order == 0 or size == 1:
        return array.take(np.clip(np.floor(coordinates + 0.5), 0, size - 1).astype(np.intp), axis)
    shape = list(array.shape)
    shape[axis] = len(coordinates)
    result = np.empty(shape, np.float32)
    indices, weights = _taps(np.clip(coordinates, 0, size - 1), size, order)
    expand = (slice(None), *(None,) * (2 - axis))
    across = 1 if axis == 0 else 0
    for start in range(0, shape[across], SLAB):
        slab = (slice(None),) * across + (slice(start, start + SLAB),)
        source = _spline_coefficients(array[slab], axis) if order == 3 else array[slab]
        result[slab] = source.take(indices[0], axis) * weights[0][expand]
        for index, weight in zip(indices[1:], weights[1:], strict=True):
            result[slab] += source.take(index, axis) * weight[expand]
    return result


def _spline_coefficients(array: np.ndarray, axis: int) -> np.ndarray:
    from scipy.ndimage import spline_filter1d

    return spline_filter1d(array, order=3, axis=axis, output=np.float32, mode="mirror")


def _taps(
    coordinates: np.ndarray, size: int, order: Order
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Indices and weights of the 2 (linear) or 4 (cubic) neighbours, mirrored at the outermost voxel centres."""
    low = np.floor(coordinates).astype(np.intp)
    t = (coordinates - low).astype(np.float32)
    if order == 1:
        return [low, np.minimum(low + 1, size - 1)], [1 - t, t]
    weights = [
        (1 - t) ** 3 / 6,
        2 / 3 - t**2 + t**3 / 2,
        2 / 3 - (1 - t) ** 2 + (1 - t) ** 3 / 2,
        t**3 / 6,
    ]
    period = 2 * (size - 1)
    mirrored = [np.abs((low + k + size - 1) % period - (size - 1)) for k in (-1, 0, 1, 2)]
    return mirrored, weights
