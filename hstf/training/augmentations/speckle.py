"""Speckle of ultrasound: multiplicative noise in grains of a few voxels.

Ultrasound waves interfere with each other. Bright tissue has more speckle than dark tissue, and
black has none.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel
from hstf.training.augmentations.smoothing import grain


def speckle(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Multiply ``image`` ``(B, C, D, H, W)``, counted from its minimum, by noise about 1."""
    low = image.amin((2, 3, 4), keepdim=True)
    sigma = uniform_per_channel(
        image,
        0.0,
        0.3,
        generator,
    )
    factor = 1 + sigma * grain(image, generator, kind.spacing)
    return (image - low) * factor.clamp_min(0) + low
