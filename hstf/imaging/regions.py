"""Structures: what is judged, audited and scored.

Each is a set of classes of the label map: a region of ``regions:``, or one class where there are none
(:attr:`hstf.config.Config.structures`). Whoever asks a label map about a structure asks here.
"""

from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np

Members = tuple[int, ...]
"""Indices of the classes of a structure."""
Structures = Mapping[str, Members]
"""By name. Every class of the foreground is in one or more."""
Box = tuple[slice, ...]


def class_count(structures: Structures) -> int:
    """How many classes there are, with the background."""
    return 1 + max(index for members in structures.values() for index in members)


def membership(structures: Structures) -> np.ndarray:
    """``(S, K)`` int64: 1 where a class (column) is in a structure (row)."""
    table = np.zeros((len(structures), class_count(structures)), np.int64)
    for row, members in zip(table, structures.values(), strict=True):
        row[list(members)] = 1
    return table


def mask(label: np.ndarray, members: Members) -> np.ndarray:
    """Where a map of class indices has one of ``members``: bool, of the shape of ``label``."""
    return reduce(np.logical_or, (label == index for index in members))


def probability(probabilities: np.ndarray, members: Members) -> np.ndarray:
    """Probability ``(...)`` uint8 of a structure, of 255, from those of the classes ``(K, ...)`` uint8: their sum."""
    return reduce(_capped_sum, (probabilities[index] for index in members))


def _capped_sum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of uint8 arrays, 255 at most: the rounding of each may add up to a step more."""
    return a + np.minimum(b, 255 - a)


def overlaps(table: np.ndarray, structures: Structures) -> np.ndarray:
    """``(3, S)`` voxels of each structure: in both maps, in the first, in the second.

    Args:
        table: ``(K, K)`` voxels by their class in two maps, rows the first.
    """
    of = membership(structures)
    return np.stack([(of @ table * of).sum(axis=1), of @ table.sum(axis=1), of @ table.sum(axis=0)])


def class_boxes(label: np.ndarray, classes: int) -> dict[int, Box]:
    """The box of each class of the foreground that a map of class indices ``(X, Y, Z)`` has."""
    from scipy.ndimage import find_objects

    boxes = enumerate(find_objects(label, max_label=classes - 1), start=1)
    return {index: box for index, box in boxes if box}


def box_around(boxes: Iterable[Box]) -> Box | None:
    """The smallest box that holds all of ``boxes``; None without any."""
    axes = list(zip(*boxes, strict=True))
    return (
        tuple(slice(min(s.start for s in a), max(s.stop for s in a)) for a in axes)
        if axes
        else None
    )


def with_margin(box: Box) -> Box:
    """``box`` with a voxel around it, as far as the volume goes."""
    return tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
