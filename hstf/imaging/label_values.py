"""Convert the values of label files to class indices and back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
from hstf.imaging.slabs import slabs
from hstf.runtime.errors import HstfError

IGNORED = 255
"""Class index of voxels to ignore: their class is unknown. Nothing is learned or measured there."""


def class_indices(
    values: np.ndarray,
    config: Config,
    path: Path,
) -> np.ndarray:
    """Convert the values of a label file to class indices.

    Args:
        values: ``(X, Y, Z)`` uint8.
        config: configuration, which names the values.
        path: the file, for the error message.

    Returns:
        ``(X, Y, Z)`` uint8, :data:`IGNORED` for voxels to ignore.

    Raises:
        HstfError: if the configuration does not name a value.
    """
    classes = len(config.class_values)
    table = np.zeros(256, np.uint8)
    table[config.class_values] = np.arange(classes)
    is_known = np.zeros(256, bool)
    is_known[config.class_values] = True
    if config.ignore_value is not None:
        table[config.ignore_value] = IGNORED
        is_known[config.ignore_value] = True
    found = values_in(values)
    unknown = [value for value in found if not is_known[value]]
    if unknown:
        raise HstfError(
            f"{path}: has the values {unknown}, which are not in 'labels:'"
            f" ({_describe(config.labels)}). Correct the file or add them to 'labels:'."
        )
    indices = np.empty(values.shape, np.uint8)
    for slab in slabs(values.shape):
        indices[slab] = table[values[slab]]
    return indices


def values_in(values: np.ndarray) -> list[int]:
    """Return the values that occur in a map ``(X, Y, Z)`` uint8, in order."""
    counts = np.zeros(256, np.int64)
    for slab in slabs(values.shape):
        counts += np.bincount(values[slab].reshape(-1), minlength=256)
    return np.flatnonzero(counts).tolist()


def _describe(labels: Mapping[str, int]) -> str:
    parts = [f"{name} {value}" for name, value in labels.items()]
    return ", ".join(parts)


def to_label_values(
    indices: np.ndarray,
    config: Config,
) -> np.ndarray:
    """Convert class indices ``(X, Y, Z)`` to the values of a label file (uint8)."""
    table = np.asarray(config.class_values, dtype=np.uint8)
    return table[indices]
