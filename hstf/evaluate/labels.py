"""From the values in label files to class indices and back."""

from pathlib import Path

import numpy as np

from hstf.config import Config
from hstf.errors import HstfError
from hstf.metrics import IGNORE
from hstf.volumes import read_label


def read_indices(path: Path, config: Config) -> np.ndarray:
    """Class indices ``(X, Y, Z)`` uint8 of a label file, :data:`hstf.metrics.IGNORE` where voxels are to be ignored.

    Raises:
        HstfError: unreadable, or values that ``labels:`` does not name.
    """
    values = read_label(path).data
    table = np.full(256, -1, dtype=np.int16)
    table[config.class_values] = np.arange(len(config.class_values))
    if config.ignore_value is not None:
        table[config.ignore_value] = IGNORE
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    unknown = [int(value) for value in present if table[value] < 0]
    if unknown:
        raise HstfError(
            f"{path}: holds the values {unknown}, which 'labels:' does not name; it has {config.labels}."
            " Correct the file or the configuration."
        )
    return np.maximum(table, 0).astype(np.uint8)[values]


def to_values(indices: np.ndarray, config: Config) -> np.ndarray:
    """File values ``(X, Y, Z)`` uint8 of class indices."""
    return np.asarray(config.class_values, dtype=np.uint8)[indices]
