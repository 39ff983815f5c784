"""Structures: what is scored, calibrated and checked.

A structure is a set of classes of the label map: a region of ``regions:``, or one class if the
configuration has no regions (:attr:`hstf.config.experiment.Config.structures`).
"""

from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np

ClassIndices = tuple[int, ...]
"""Class indices of a structure."""
Structures = Mapping[str, ClassIndices]
"""Class indices of each structure by name. Every foreground class is in at least one structure."""
Box = tuple[slice, ...]
"""A box of voxels, as slices."""


def class_count(structures: Structures) -> int:
    """Return the number of classes, including the background."""
    last = max(max(classes) for classes in structures.values())
    return last + 1


def membership(structures: Structures) -> np.ndarray:
    """Return a table ``(S, K)`` int64: 1 where a class (column) is in a structure (row)."""
    shape = (len(structures), class_count(structures))
    table = np.zeros(shape, np.int64)
    for row, classes in enumerate(structures.values()):
        table[row, list(classes)] = 1
    return table


def structure_mask(
    label: np.ndarray,
    classes: ClassIndices,
) -> np.ndarray:
    """Return a boolean mask of a structure.

    Args:
        label: map of class indices.
        classes: classes of the structure.
    """
    return reduce(np.logical_or, (label == index for index in classes))


def structure_probability(
    probabilities: np.ndarray,
    classes: ClassIndices,
) -> np.ndarray:
    """Return the probability of a structure: the sum over its classes.

    Args:
        probabilities: ``(K, ...)`` uint8, 255 times the probability.
        classes: classes of the structure.

    Returns:
        ``(...)`` uint8.
    """
    return reduce(_add_up_to_255, (probabilities[index] for index in classes))


def _add_up_to_255(
    first: np.ndarray,
    second: np.ndarray,
) -> np.ndarray:
    """Add two uint8 arrays. Rounding may have made the sum of all classes more than 255."""
    return first + np.minimum(second, 255 - first)


def overlaps(
    table: np.ndarray,
    structures: Structures,
) -> np.ndarray:
    """Count the voxels of each structure in two label maps.

    Args:
        table: ``(K, K)`` number of voxels by their class in the first map (row) and in the second.
        structures: structures to count.

    Returns:
        ``(3, S)``: voxels in both maps, in the first, in the second.
    """
    in_structure = membership(structures)
    both = (in_structure @ table * in_structure).sum(axis=1)
    first = in_structure @ table.sum(axis=1)
    second = in_structure @ table.sum(axis=0)
    return np.stack([both, first, second])


def class_boxes(
    label: np.ndarray,
    classes: int,
) -> dict[int, Box]:
    """Return the bounding box of each foreground class that a label map ``(X, Y, Z)`` has."""
    from scipy.ndimage import find_objects

    boxes = find_objects(label, max_label=classes - 1)
    found = {}
    for index, box in enumerate(boxes, start=1):
        if box is not None:
            found[index] = box
    return found


def box_around(boxes: Iterable[Box]) -> Box | None:
    """Return the bounding box of all ``boxes``; None if there are no boxes."""
    merged = []
    for edges in zip(*boxes, strict=True):
        start = min(edge.start for edge in edges)
        stop = max(edge.stop for edge in edges)
        merged.append(slice(start, stop))
    return tuple(merged) or None


def with_margin(box: Box) -> Box:
    """Extend a box by one voxel on each side, within the volume."""
    extended = []
    for edge in box:
        start = max(0, edge.start - 1)
        extended.append(slice(start, edge.stop + 1))
    return tuple(extended)
