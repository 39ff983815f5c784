"""Gain of an ultrasound device: intensities are scaled about black.

A scaling about the mean (:mod:`~hstf.training.augmentations.contrast`) would depend on how many
empty voxels a patch has outside the field of view of the probe.
"""

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_per_channel


def gain(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Multiply the difference of ``image`` ``(B, C, D, H, W)`` to its minimum by 0.7 to 1.4."""
    low = image.amin((2, 3, 4), keepdim=True)
    return (image - low) * uniform_per_channel(
        image,
        0.7,
        1.4,
        generator,
    ) + low
