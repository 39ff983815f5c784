"""Positions of the voxels of one grid in another one with the same centre.

Let the grid have ``G`` voxels of ``t`` mm along an axis, and the crop ``N`` voxels of ``s`` mm.
Voxel ``g`` of the grid then has this index in the crop::

    (g - (G - 1) / 2) * t / s + (N - 1) / 2
"""

import numpy as np

from hstf.imaging.spacing import Spacing, Triple, is_same_spacing

Coordinates = tuple[np.ndarray | None, ...]
"""For each axis the voxel coordinates to sample; None for an axis that is not interpolated."""


def matching_coordinates(
    source: Triple,
    source_mm: Spacing,
    target: Triple,
    target_mm: Spacing,
) -> Coordinates:
    """Return the positions of the voxels of ``target`` in ``source``, which has the same centre."""
    coordinates: list[np.ndarray | None] = []
    for axis in range(3):
        has_same_size = source[axis] == target[axis]
        if has_same_size and is_same_spacing(source_mm[axis], target_mm[axis], source[axis]):
            coordinates.append(None)
            continue
        source_centre = (source[axis] - 1) / 2
        target_centre = (target[axis] - 1) / 2
        offset = np.arange(target[axis]) - target_centre
        step = target_mm[axis] / source_mm[axis]
        coordinates.append(offset * step + source_centre)
    return tuple(coordinates)


def needed_planes(
    source: np.ndarray,
    rows: slice,
    coordinates: Coordinates,
) -> tuple[np.ndarray, Coordinates]:
    """Cut the planes of ``source`` that linear or nearest interpolation at ``rows`` needs.

    Returns:
        The planes as a view, and the coordinates within them.
    """
    if coordinates[0] is None:
        return source[rows], coordinates
    wanted = coordinates[0][rows].clip(0, len(source) - 1)
    first = int(wanted[0])
    last = int(np.ceil(wanted[-1]))
    planes = source[first : last + 1]
    within = (wanted - first, *coordinates[1:])
    return planes, within


class WinningClass:
    """The class with the maximum score of each voxel. Of equal scores, the first class wins.

    Scores are added one after the other, so that only one of them is in memory.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.label = np.zeros(shape, np.uint8)
        self._best = np.zeros(shape, np.float32)

    def add(
        self,
        index: int,
        score: np.ndarray,
    ) -> None:
        """Add the scores of the class ``index``."""
        self.label[score > self._best] = index
        np.maximum(self._best, score, out=self._best)
