"""Brightness: a constant is added.

The offset of MR intensities is arbitrary, and that of CT differs a little between scanners. PET has
no offset because uptake starts at 0, and in ultrasound black stays black.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel


def brightness(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Add -0.3 to 0.3 (normalised intensity) to each channel of ``image`` ``(B, C, D, H, W)``."""
    return image + uniform_per_channel(
        image,
        -0.3,
        0.3,
        generator,
    )
