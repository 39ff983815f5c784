"""Voxels of each class, on which training centres its patches."""

import hashlib

import numpy as np

from hstf.imaging.sparse_labels import is_sparse

MAXIMUM_LOCATIONS = 2000
"""Maximum number of voxels for each class."""


def class_locations(
    label: np.ndarray,
    classes: int,
    case_id: str,
) -> np.ndarray:
    """Draw up to :data:`MAXIMUM_LOCATIONS` random voxels of each foreground class.

    In a sparse label, background voxels are drawn too: random patches would hardly ever contain a
    background scribble.

    Args:
        label: ``(X, Y, Z)`` class indices.
        classes: number of classes, including the background.
        case_id: seed of the random numbers.

    Returns:
        Int32 ``(M, 4)``: class, x, y, z.
    """
    seed = hashlib.sha256(case_id.encode()).digest()
    generator = np.random.default_rng(list(seed))
    wanted = list(range(1, classes))
    if is_sparse(label):
        wanted.append(0)
    rows = []
    for index in wanted:
        found = np.flatnonzero(label == index)
        number = min(MAXIMUM_LOCATIONS, found.size)
        chosen = generator.choice(found, number, replace=False)
        chosen.sort()
        coordinates = np.unravel_index(chosen, label.shape)
        class_column = np.full(chosen.size, index)
        rows.append(np.stack([class_column, *coordinates], axis=1))
    return np.concatenate(rows).astype(np.int32)
