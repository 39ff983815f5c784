"""Training cases held in the memory of the GPU: read and decompressed once instead of for every patch, and cut there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from hstf.imaging.arrays import read_array
from hstf.training.patches import TrainingCase


@dataclass(frozen=True, eq=False)
class HeldCase(TrainingCase):
    """A case whose arrays are tensors on a device."""

    voxels: Tensor
    """``(C, X, Y, Z)`` float16."""
    label: Tensor | None
    """What the file ``target_path`` holds, uint8."""
    positions: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory that the arrays take."""
        return self.voxels.nbytes + (0 if self.label is None else self.label.nbytes)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.voxels.shape[1:])

    def locations(self) -> np.ndarray:
        return self.positions

    def arrays(self) -> tuple[Tensor, Tensor | None]:
        return self.voxels, self.label


def hold(
    cases: Sequence[TrainingCase], device: torch.device, gigabytes: float
) -> list[TrainingCase]:
    """``cases``, as many of them on ``device`` as ``gigabytes`` take; a CPU leaves them all on disk.

    Raises:
        HstfError: a file is missing or damaged.
    """
    if device.type == "cpu":
        return list(cases)
    held: list[TrainingCase] = []
    room = gigabytes * 1e9
    for case in cases:
        candidate = on_device(case, device) if room > 0 else None
        room -= candidate.nbytes if candidate is not None else 0
        held.append(candidate if candidate is not None and room >= 0 else case)
    return held


def on_device(case: TrainingCase, device: torch.device) -> HeldCase:
    """``case`` with its arrays on ``device``."""
    voxels = torch.from_numpy(read_array(case.image_path)).to(device)
    label = (
        None
        if case.target_path is None
        else torch.from_numpy(read_array(case.target_path)).to(device)
    )
    return HeldCase(**asdict(case), voxels=voxels, label=label, positions=case.locations())
