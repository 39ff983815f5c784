"""Flip: axes are mirrored.

Left and right of many organs look alike. Only the configured axes are mirrored, because position
along an axis may decide the class.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.training.augmentations.draws import uniform


def random_flips(
    batch: int,
    axes: Sequence[int],
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw ``(B, 3)`` factors: -1 for axes to mirror, 1 for the others.

    Args:
        batch: number of patches B.
        axes: axes that may be mirrored, each with probability 0.5.
        generator: source of the random numbers.
        device: device of the result.
    """
    factors = torch.ones(batch, 3, device=device)
    mirrored = (
        uniform(
            (batch, 3),
            0,
            1,
            generator,
            device,
        )
        < 0.5
    )
    for axis in axes:
        factors[:, axis] = torch.where(mirrored[:, axis], -1.0, 1.0)
    return factors
