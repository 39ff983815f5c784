"""Mean probabilities of groups of TTA views, for example of all views at scale 0.8.

A view is as large as the scan times the number of classes. Only the means of the groups are kept in
memory, never all views. The means of very large scans are kept on disk.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import IO

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hstf.imaging.slabs import slabs
from hstf.runtime.errors import HstfError

IN_MEMORY = 2**28
"""Values of a group mean that are kept in memory as float32 (1 GB). Larger ones go to disk."""
BLOCK_BYTES = 2**23
"""Zeros that are written at once where a system cannot reserve disk space."""
SLAB_VALUES = 2**21
"""Values of a group mean that are summarised at a time; about twenty such arrays exist at once."""

Groups = dict[str, dict[str, np.ndarray]]
"""Arrays by kind of group (scales, members or flips), then by name of the group."""


class GroupMeans:
    """Mean probabilities of each group of views, for example of all views at scale 0.8.

    The mean of all views is the mean of the scales. Other kinds of groups are kept only if they
    have at least two groups, because the mean of a single group is the mean of all views.

    Args:
        keys: names of the groups of each kind.
        shape: ``(K, X, Y, Z)`` of the planned grid.

    Example:
        >>> import torch
        >>> keys = {"scales": ["0.8", "1.0"], "members": ["seed_0"], "flips": ["none"]}
        >>> means = GroupMeans(keys, (2, 4, 4, 4))
        >>> means.add(torch.ones(2, 3, 3, 3), {"scales": "0.8", "members": "seed_0"})
        >>> float(means.arrays["scales"]["0.8"].max())
        1.0
    """

    def __init__(self, keys: Mapping[str, Sequence[str]], shape: tuple[int, ...]) -> None:
        """Set all means to 0."""
        self.keys = keys
        self.shape = shape
        self.weight: dict[str, float] = {}
        """Weight of a view in the mean of its group, by kind."""
        self.arrays: Groups = {}
        views = prod(len(names) for names in keys.values())
        for kind, names in keys.items():
            self.weight[kind] = len(names) / views
            if len(names) > 1 or kind == "scales":
                self.arrays[kind] = {name: _zeros(shape) for name in names}

    def add(self, probabilities: Tensor, groups: Mapping[str, str]) -> None:
        """Add a view.

        Args:
            probabilities: ``(K, ...)``; resampled to the planned grid, class by class.
            groups: the group of the view, by kind.
        """
        for index in range(self.shape[0]):
            on_grid = _resampled(probabilities[index], self.shape[1:]).numpy()
            for kind, arrays in self.arrays.items():
                arrays[groups[kind]][index] += on_grid * self.weight[kind]

    def slabs(self) -> Iterator[tuple[slice, Groups]]:
        """Yield all groups as float32, a few planes along X at a time."""
        for slab in slabs(self.shape[1:], SLAB_VALUES // self.shape[0]):
            groups: Groups = {}
            for kind, arrays in self.arrays.items():
                groups[kind] = {}
                for name, array in arrays.items():
                    groups[kind][name] = np.asarray(array[:, slab], np.float32)
            yield slab, groups


def _resampled(volume: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(volume.shape) == tuple(shape):
        return volume
    batch = volume[None, None]
    resampled = F.interpolate(
        batch,
        size=list(shape),
        mode="trilinear",
        align_corners=False,
    )
    return resampled[0, 0]


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros in memory or, above :data:`IN_MEMORY`, in an unnamed file in ``TMPDIR``."""
    if prod(shape) <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    size = 2 * prod(shape)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the memory map exists)
    # Reserve the space now: a disk that becomes full under a memory map kills the process.
    try:
        _reserve(file, size)
    except OSError as error:
        raise HstfError(
            f"{tempfile.gettempdir()}: there is no room for {size / 1e9:.1f} GB of probabilities"
            f" ({error.strerror}). Set TMPDIR to a folder with more space."
        ) from error
    return np.memmap(file, np.float16, "r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Reserve disk space for an empty file.

    Raises:
        OSError: if there is not enough space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, BLOCK_BYTES):  # macOS
        file.write(bytes(min(BLOCK_BYTES, size - start)))
    file.flush()
