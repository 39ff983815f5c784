"""Count noise of PET: its standard deviation grows with the square root of the uptake.

PET counts decays, so its noise is close to a Poisson distribution. Normalised PET intensities are
arcsinh(uptake / median of the body), divided by their spread in the body. The spread differs
between scans and is not stored, so a typical value is used. The darkest voxel of a patch counts as
no uptake.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import normal_like, uniform_per_channel

UPTAKE_SPREAD = 0.4
"""Typical standard deviation of arcsinh(uptake / median of the body) within a body."""


def count_noise(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Add Poisson-like noise to ``image`` ``(B, C, D, H, W)``."""
    low = image.amin((2, 3, 4), keepdim=True)
    uptake = (UPTAKE_SPREAD * (image - low)).sinh()
    sigma = uniform_per_channel(
        image,
        0.0,
        0.3,
        generator,
    )
    noise = sigma * normal_like(image, generator)
    noisy = (uptake + uptake.sqrt() * noise).clamp_min(0)
    return noisy.asinh() / UPTAKE_SPREAD + low
