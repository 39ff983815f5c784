"""Random changes of the intensities of a batch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.training.augmentations.acquisition import ISOTROPIC_MR, Acquisition, ChannelKind
from hstf.training.augmentations.draws import chosen
from hstf.training.augmentations.registry import changes_of

BLACK = 1e-3
"""Intensities this close to the minimum of an ultrasound patch are outside the field of view."""


def change_intensity(
    image: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    acquisition: Acquisition = ISOTROPIC_MR,
) -> Tensor:
    """Apply each intensity change of a modality to random cases of a batch.

    Channels of the same modality and normalisation change together.

    Args:
        image: ``(B, C, D, H, W)``, about zero mean and unit variance.
        config: the probability of each change.
        generator: source of all random numbers, on the host.
        acquisition: modality of each channel and voxel size.
    """
    kinds = acquisition.kinds(image.shape[1])
    different_kinds = list(dict.fromkeys(kinds))
    if len(different_kinds) == 1:
        return _change(
            image,
            kinds[0],
            config,
            generator,
        )
    result = torch.empty_like(image)
    for kind in different_kinds:
        channels = [index for index, other in enumerate(kinds) if other == kind]
        changed = _change(
            _channels(image, channels),
            kind,
            config,
            generator,
        )
        for position, channel in enumerate(channels):
            result[:, channel] = changed[:, position]
    return result


def _channels(image: Tensor, channels: Sequence[int]) -> Tensor:
    """Return the given channels of ``image`` ``(B, C, D, H, W)``.

    ``image[:, channels]`` would make the CPU wait for the GPU, which gets the indices.
    """
    return torch.stack([image[:, channel] for channel in channels], dim=1)


def _change(
    image: Tensor,
    kind: ChannelKind,
    config: AugmentationConfig,
    generator: torch.Generator,
) -> Tensor:
    """Change the channels ``(B, C, D, H, W)`` of one kind."""
    if kind.is_mask:
        return image
    original = image
    for change in changes_of(kind.modality):
        flags = chosen(len(image), config.intensity_probability, generator)
        if any(flags):
            changed = change(image, generator, kind)
            image = _rows_of(flags, changed, image)
    if kind.modality == "ct":
        return _clip_to_window(image, kind)
    if kind.modality == "us":
        return torch.where(_is_black(original), original, image)
    return image


def _rows_of(flags: Sequence[bool], changed: Tensor, image: Tensor) -> Tensor:
    """Return the patches of ``changed`` where a flag is set, and those of ``image`` elsewhere."""
    changed = changed.to(image.dtype)
    if all(flags):
        return changed
    return torch.stack([changed[i] if flag else image[i] for i, flag in enumerate(flags)])


def _clip_to_window(image: Tensor, kind: ChannelKind) -> Tensor:
    """Clip normalised CT values to the window that normalisation clipped them to."""
    window = kind.normalisation
    low = (window.lower - window.mean) / window.std
    high = (window.upper - window.mean) / window.std
    return image.clamp(low, high)


def _is_black(image: Tensor) -> Tensor:
    """Return whether each voxel is as dark as the minimum of its patch and channel."""
    return image <= image.amin((2, 3, 4), keepdim=True) + BLACK
