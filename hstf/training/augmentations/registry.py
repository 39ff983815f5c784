"""The list of all intensity changes.

To add a change, write one new file with a function such as
:func:`~hstf.training.augmentations.contrast.contrast` and add one line here.
"""

from typing import Protocol

import torch
from torch import Tensor

from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.bias_field import bias_field
from hstf.training.augmentations.blur import blur
from hstf.training.augmentations.brightness import brightness
from hstf.training.augmentations.contrast import contrast
from hstf.training.augmentations.count_noise import count_noise
from hstf.training.augmentations.ct_noise import ct_noise
from hstf.training.augmentations.gain import gain
from hstf.training.augmentations.gamma import gamma
from hstf.training.augmentations.low_resolution import low_resolution
from hstf.training.augmentations.noise import noise
from hstf.training.augmentations.speckle import speckle


class IntensityChange(Protocol):
    """A random change of intensities."""

    def __call__(
        self,
        image: Tensor,
        generator: torch.Generator,
        kind: ChannelKind,
    ) -> Tensor:
        """Return a changed copy of ``image`` ``(B, C, D, H, W)``, all channels of one kind.

        Args:
            image: normalised intensities, about zero mean and unit variance.
            generator: source of all random numbers.
            kind: modality, normalisation and voxel size of the channels.
        """
        ...


INTENSITY_CHANGES: tuple[tuple[IntensityChange, tuple[str, ...]], ...] = (
    (gain, ("us",)),
    (contrast, ("mr", "ct", "pet", "other")),
    (brightness, ("mr", "ct", "other")),
    (gamma, ("mr", "ct", "pet", "us", "other")),
    (bias_field, ("mr", "other")),
    (blur, ("mr", "ct", "pet", "us", "other")),
    (low_resolution, ("mr", "ct", "pet", "us", "other")),
    (noise, ("mr", "other")),
    (ct_noise, ("ct",)),
    (count_noise, ("pet",)),
    (speckle, ("us",)),
)
"""Each change and the modalities that it is realistic for, in the order of application.

Nothing is known about ``other``, so it changes as MR. The order is the order of random draws: a new
line changes the augmented patches of its modalities.
"""


def changes_of(modality: str) -> list[IntensityChange]:
    """Return the changes of ``modality``, in the order of application."""
    return [change for change, modalities in INTENSITY_CHANGES if modality in modalities]
