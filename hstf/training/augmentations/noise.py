"""Gaussian noise: independent in each voxel.

This is the noise of an MR receiver. The other modalities have noise of their own.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import normal_like, uniform_per_channel


def noise(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Add noise with a standard deviation of 0 to 0.2 to ``image`` ``(B, C, D, H, W)``."""
    sigma = uniform_per_channel(
        image,
        0.0,
        0.2,
        generator,
    )
    return image + sigma * normal_like(image, generator)
