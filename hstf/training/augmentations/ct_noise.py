"""CT noise: Gaussian noise in Hounsfield units, with the grain of a reconstruction.

The noise of a CT scan has a physical size. The maximum is that of thin slices at a low dose. The
reconstruction correlates neighbouring voxels.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel
from hstf.training.augmentations.smoothing import grain

MAXIMUM_HU = 30.0
"""Maximum standard deviation of the noise (HU)."""


def ct_noise(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Add noise of 0 to 30 HU to ``image`` ``(B, C, D, H, W)``."""
    sigma = uniform_per_channel(
        image,
        0.0,
        MAXIMUM_HU / kind.normalisation.std,
        generator,
    )
    return image + sigma * grain(image, generator, kind.spacing)
