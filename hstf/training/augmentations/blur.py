"""Blur: Gaussian smoothing.

Reconstruction kernels, motion and partial volume blur scans to different degrees. Thick slices are
not blurred into each other, because neighbouring slices show different anatomy.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_number
from hstf.training.augmentations.smoothing import smooth


def blur(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Smooth ``image`` ``(B, C, D, H, W)`` by 0.5 to 1 finest voxel edge, the same for all."""
    return smooth(
        image,
        uniform_number(
            0.5,
            1.0,
            generator,
        ),
        kind.spacing,
    )
