"""A cache of training cases in GPU memory.

Cached cases are read and decompressed once instead of for every patch, and patches are cut on the
GPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hstf.imaging.arrays import read_array
from hstf.imaging.label_values import IGNORED
from hstf.training.patches import TrainingCase


@dataclass(frozen=True, eq=False, kw_only=True)
class CachedCase(TrainingCase):
    """A case whose arrays are tensors on a device."""

    voxels: Tensor
    """``(C, X, Y, Z)`` float16."""
    label: Tensor | None
    """Content of the file ``target_path``, uint8."""
    positions: np.ndarray
    """Content of the file ``locations_path``."""
    sparse: bool
    """Whether the label has voxels to ignore."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays (bytes)."""
        label_bytes = 0 if self.label is None else self.label.nbytes
        return self.voxels.nbytes + label_bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along the three axes."""
        return tuple(self.voxels.shape[1:])

    def locations(self) -> np.ndarray:
        """Return class and position ``(M, 4)``; see :class:`TrainingCase`."""
        return self.positions

    def may_ignore(self, label: Tensor) -> bool:
        """Return whether the whole label has voxels to ignore: a part is not read back."""
        return self.sparse

    def arrays(self) -> tuple[Tensor, Tensor | None]:
        """Return image and target on the device."""
        return self.voxels, self.label


def cache_cases(
    cases: Sequence[TrainingCase],
    device: torch.device,
    gigabytes: float,
) -> list[TrainingCase]:
    """Load as many cases as fit into the cache; the others stay on disk.

    Args:
        cases: the training cases.
        device: if it is a CPU, nothing is cached.
        gigabytes: maximum size of the cache.

    Raises:
        HstfError: if a file is missing or damaged.
    """
    if device.type == "cpu":
        return list(cases)
    result: list[TrainingCase] = []
    remaining = gigabytes * 1e9
    for case in cases:
        if remaining > 0:
            cached = load_on_device(case, device)
            remaining -= cached.nbytes
            result.append(cached if remaining >= 0 else case)
        else:
            result.append(case)
    return result


def load_on_device(case: TrainingCase, device: torch.device) -> CachedCase:
    """Load the arrays of a case to ``device``."""
    voxels = torch.from_numpy(read_array(case.checked(case.image_path))).to(device)
    label = None
    sparse = False
    if case.target_path is not None:
        stored = read_array(case.checked(case.target_path))
        sparse = bool((stored == IGNORED).any())
        label = torch.from_numpy(stored).to(device)
    return CachedCase(
        **vars(case),
        voxels=voxels,
        label=label,
        positions=case.locations(),
        sparse=sparse,
    )
