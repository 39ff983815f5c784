"""Convert the values of label files to class indices and back."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
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
    table = np.full(256, -1, np.int16)
    classes = len(config.class_values)
    table[config.class_values] = np.arange(classes)
    if config.ignore_value is not None:
        table[config.ignore_value] = IGNORED
    indices = table[values]
    is_unknown = indices < 0
    if is_unknown.any():
        unknown = np.unique(values[is_unknown]).tolist()
        raise HstfError(
            f"{path}: has the values {unknown}, which are not in 'labels:'"
            f" ({_describe(config.labels)}). Correct the file or add them to 'labels:'."
        )
    return indices.astype(np.uint8)


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
