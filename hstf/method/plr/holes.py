"""Holes: background that is enclosed by the foreground.

Example:
    >>> label = np.zeros((5, 5, 5), np.uint8)
    >>> label[1:4, 1:4, 1:4] = 2
    >>> label[2, 2, 2] = 0
    >>> _, owners, holes = find_holes(label)
    >>> int(owners[holes[1, 1, 1]])
    2
"""

import numpy as np
from scipy import ndimage

from hstf.imaging.components import connected_components
from hstf.imaging.regions import Box


def find_holes(label: np.ndarray) -> tuple[Box, np.ndarray, np.ndarray]:
    """Find the holes of the foreground.

    Args:
        label: ``(X, Y, Z)`` uint8 class index; background is 0.

    Returns:
        The box of the foreground, the class ``(n + 1,)`` that owns each background component in the
        box (0 if the component is no hole), and the number of the component of each voxel of the
        box, from 1 to n (0 in the foreground).
    """
    boxes = ndimage.find_objects((label > 0).view(np.uint8), max_label=1)
    if boxes[0] is None:
        empty = (slice(0, 0),) * 3
        return empty, np.zeros(1, np.uint8), np.zeros((0, 0, 0), np.uint8)
    inner = label[boxes[0]]
    background = connected_components(inner == 0, connectivity=6)
    owners = np.zeros(int(background.max()) + 1, np.uint8)
    enclosed = np.ones(len(owners), bool)
    enclosed[0] = False
    for axis in range(3):
        for face in (0, -1):
            reached = np.unique(background.take(face, axis=axis))
            enclosed[reached] = False
    if enclosed.any():
        owners[enclosed] = _most_touched_class(inner, background, enclosed)[enclosed]
    return boxes[0], owners, background


def _most_touched_class(
    label: np.ndarray,
    background: np.ndarray,
    enclosed: np.ndarray,
) -> np.ndarray:
    """Return the class of most face neighbours of each background component.

    Args:
        label: ``(X, Y, Z)`` class index.
        background: ``(X, Y, Z)`` number of the background component.
        enclosed: bool, for each component, whether it is enclosed. The others are not computed.
    """
    voxels = np.argwhere(enclosed[background])
    component = background[tuple(voxels.T)].astype(np.int64)
    counts = np.zeros((len(enclosed), int(label.max()) + 1), np.int64)
    for axis in range(3):
        for step in (-1, 1):
            # The neighbours are in the volume: an enclosed component reaches no face.
            neighbours = voxels.copy()
            neighbours[:, axis] += step
            np.add.at(
                counts,
                (component, label[tuple(neighbours.T)]),
                1,
            )
    counts[:, 0] = 0
    return counts.argmax(axis=1)
