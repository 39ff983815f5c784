"""From the values of label files to class indices and back."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hstf.config.experiment import Config
from hstf.imaging.geometry import IGNORED
from hstf.imaging.sparse_labels import is_sparse
from hstf.runtime.errors import HstfError

LOCATIONS = 2000  # voxels kept for each class: training centres patches on them


def class_indices(values: np.ndarray, config: Config, path: Path) -> np.ndarray:
    """A label file's values (uint8) as class indices, 255 where the voxel is to be ignored.

    Raises:
        HstfError: a value that the configuration does not name; ``path`` is told.
    """
    table = np.full(256, -1, np.int16)
    table[config.class_values] = np.arange(len(config.class_values))
    if config.ignore_value is not None:
        table[config.ignore_value] = IGNORED
    indices = table[values]
    if (indices < 0).any():
        unknown = np.unique(values[indices < 0]).tolist()
        raise HstfError(
            f"{path}: holds the values {unknown}, which 'labels:' does not name ({_named(config.labels)})."
        )
    return indices.astype(np.uint8)


def _named(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def class_locations(label: np.ndarray, classes: int, case_id: str) -> np.ndarray:
    """Up to 2000 random voxels of each foreground class of ``label`` ``(X, Y, Z)``, drawn by ``case_id``.

    Of a sparse label also voxels of the background: patches that lie anywhere would hardly meet its scribbles.

    Returns:
        Int32 ``(M, 4)``: class, x, y, z.
    """
    generator = np.random.default_rng(list(hashlib.sha256(case_id.encode()).digest()))
    rows = []
    for index in (*range(1, classes), *([0] if is_sparse(label) else [])):
        found = np.flatnonzero(label == index)
        chosen = np.sort(generator.choice(found, min(LOCATIONS, found.size), replace=False))
        rows.append(
            np.stack([np.full(chosen.size, index), *np.unravel_index(chosen, label.shape)], axis=1)
        )
    return np.concatenate(rows).astype(np.int32)


def to_values(indices: np.ndarray, config: Config) -> np.ndarray:
    """File values ``(X, Y, Z)`` uint8 of class indices."""
    return np.asarray(config.class_values, dtype=np.uint8)[indices]
