"""From the values in label files to class indices and back."""

from pathlib import Path

import numpy as np

from hstf.config import Config
from hstf.preprocess import class_indices
from hstf.volumes import read_label


def read_indices(path: Path, config: Config) -> np.ndarray:
    """Class indices ``(X, Y, Z)`` uint8 of a label file, :data:`hstf.geometry.IGNORED` where voxels are to be ignored.

    Raises:
        HstfError: unreadable, or values that ``labels:`` does not name.
    """
    return class_indices(read_label(path).data, config, path)


def to_values(indices: np.ndarray, config: Config) -> np.ndarray:
    """File values ``(X, Y, Z)`` uint8 of class indices."""
    return np.asarray(config.class_values, dtype=np.uint8)[indices]
