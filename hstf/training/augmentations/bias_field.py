"""Bias field: a smooth factor over the patch.

The sensitivity of MR receiver coils decreases with distance. CT has no coils, and the
reconstruction of PET corrects scatter and attenuation, so that only MR has a bias field.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.runtime.devices import to_device
from hstf.training.augmentations.acquisition import ChannelKind

POINTS = 3
"""Control points along each axis."""
SIGMA = 0.2
"""Standard deviation of the logarithm of the factor at the control points."""


def bias_field(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Multiply ``image`` ``(B, C, D, H, W)`` by a smooth field, the same for all channels."""
    shape = (image.shape[0], 1, POINTS, POINTS, POINTS)
    coarse = to_device(torch.randn(shape, generator=generator) * SIGMA, image.device)
    field = F.interpolate(
        coarse,
        size=image.shape[2:],
        mode="trilinear",
        align_corners=True,
    )
    return image * field.exp()
