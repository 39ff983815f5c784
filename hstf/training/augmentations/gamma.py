"""Gamma: a power law between the minimum and the maximum of a patch.

Contrast between dark tissues and contrast between bright tissues change in opposite directions, as
they do between MR sequences or display settings. The order of intensities stays the same.
"""

import math

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel


def gamma(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Apply an exponent of 0.7 to 1.5 to each channel of ``image`` ``(B, C, D, H, W)``."""
    low = image.amin((2, 3, 4), keepdim=True)
    high = image.amax((2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    exponent = uniform_per_channel(
        image,
        math.log(0.7),
        math.log(1.5),
        generator,
    ).exp()
    return ((image - low) / span) ** exponent * span + low
