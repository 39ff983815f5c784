"""The voxels of each pair of classes of two label maps, and the Dice that follows from them."""

from math import nan

import numpy as np

from hstf.imaging.regions import (
    Structures,
    class_count,
    overlaps,
)
from hstf.imaging.slabs import slabs
from hstf.imaging.sparse_labels import unknown_structures


def structure_dice(
    prediction: np.ndarray,
    reference: np.ndarray,
    structures: Structures,
    empty: float = 1.0,
) -> np.ndarray:
    """Compute the Dice of each structure in two maps of class indices, without ignored voxels.

    Args:
        prediction: class indices ``(X, Y, Z)``.
        reference: class indices ``(X, Y, Z)``.
        structures: structures to score.
        empty: Dice of a structure that is absent from both.

    Returns:
        ``(S,)``; NaN for structures that a sparse reference does not show.
    """
    table = confusion(prediction, reference, class_count(structures))
    dices = table_dice(table, structures, empty)
    return np.where(unknown_structures(reference, structures), nan, dices)


def table_dice(
    table: np.ndarray,
    structures: Structures,
    empty: float = 1.0,
) -> np.ndarray:
    """Compute the Dice ``(S,)`` of each structure from :func:`confusion`.

    Args:
        table: voxel counts ``(K, K)``.
        structures: structures to score.
        empty: Dice of a structure that is absent from both.
    """
    hits, predicted, true = overlaps(table, structures)
    both = predicted + true
    dices = 2 * hits / np.maximum(both, 1)
    return np.where(both > 0, dices, empty)


def confusion(
    prediction: np.ndarray,
    reference: np.ndarray,
    classes: int,
) -> np.ndarray:
    """Count the voxels of each pair of classes.

    Values of at least ``classes`` are left out, among them
    :data:`hstf.imaging.label_values.IGNORED`. The volume is processed in slabs, so that temporary
    arrays stay small.

    Args:
        prediction: class indices ``(X, Y, Z)``.
        reference: class indices ``(X, Y, Z)``.
        classes: number of classes with the background.

    Returns:
        ``(classes, classes)``, rows for the prediction, columns for the reference.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"label maps of shapes {prediction.shape} and {reference.shape}")
    table = np.zeros(classes * classes, dtype=np.int64)
    for slab in slabs(prediction.shape):
        rows = prediction[slab]
        columns = reference[slab]
        valid = (rows < classes) & (columns < classes)
        cells = rows[valid].astype(np.intp) * classes + columns[valid]
        table += np.bincount(cells, minlength=classes * classes)
    return table.reshape(classes, classes)
