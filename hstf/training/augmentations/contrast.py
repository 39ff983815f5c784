"""Contrast: the difference to the mean is scaled.

Scanners and protocols show the same tissues with different contrast. The mean intensity of a patch
stays the same, so that brightness and contrast change independently.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel


def contrast(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Multiply the difference of ``image`` ``(B, C, D, H, W)`` to its mean by 0.7 to 1.4."""
    factor = uniform_per_channel(
        image,
        0.7,
        1.4,
        generator,
    )
    mean = image.mean((2, 3, 4), keepdim=True)
    return (image - mean) * factor + mean
