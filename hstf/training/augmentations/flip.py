"""Flip: axes are mirrored.

Left and right of many organs look alike. Only the configured axes are mirrored, because position
along an axis may decide the class.
"""

from collections.abc import Sequence

import torch

from hstf.training.augmentations.draws import uniform


def random_flips(
    batch: int,
    axes: Sequence[int],
    generator: torch.Generator,
) -> list[tuple[int, ...]]:
    """Draw the axes along which each patch is mirrored.

    Args:
        batch: number of patches B.
        axes: axes that may be mirrored, each with probability 0.5.
        generator: source of the random numbers.
    """
    below = (uniform((batch, 3), 0, 1, generator) < 0.5).numpy().tolist()
    return [tuple(axis for axis in range(3) if axis in axes and flags[axis]) for flags in below]
