"""Settings of random augmentation that several tests use."""

import torch
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation
from hstf.imaging.regions import Box
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.augmentations.spatial import draw_geometry, region_size

STILL = AugmentationConfig(
    flip_axes=(),
    rotation_degrees=(0, 0, 0),
    scale_range=(1, 1),
    anisotropy=0,
    affine_probability=1,
    elastic_probability=0,
    intensity_probability=0,
)
"""Changes nothing."""
WILD = AugmentationConfig(affine_probability=1, elastic_probability=1, intensity_probability=1)
"""Changes every case."""
ALWAYS = STILL.model_copy(update={"intensity_probability": 1})
"""Changes the intensity of every case."""
ISOTROPIC = (1.0, 1.0, 1.0)
CARDIAC = (1.5, 1.5, 10.0)
SCALES = {
    "mr": Normalisation(scheme="zscore"),
    "ct": Normalisation(scheme="ct", lower=-100, upper=200, mean=50, std=50),
    "pet": Normalisation(scheme="uptake"),
    "us": Normalisation(scheme="fan"),
    "other": Normalisation(scheme="zscore"),
}


def with_keys(base: AugmentationConfig, **keys: object) -> AugmentationConfig:
    """Return ``base`` with other values of some keys."""
    return base.model_copy(update=keys)


def generator(seed: int = 0) -> torch.Generator:
    """Return a generator with a seed."""
    return torch.Generator().manual_seed(seed)


def region(patch: tuple[int, int, int], channels: int = 2, batch: int = 2) -> Tensor:
    """Return noise of the size that a patch is cut from."""
    return torch.randn(batch, channels, *region_size(patch), generator=generator(9))


def acquired(*modalities: str, spacing: tuple[float, float, float] = ISOTROPIC) -> Acquisition:
    """Return the acquisition of channels with ``modalities``."""
    return Acquisition(spacing, tuple((name, SCALES[name]) for name in modalities))


def change_geometry(
    volume: Tensor,
    patch: tuple[int, int, int],
    config: AugmentationConfig,
    numbers: torch.Generator,
    spacing: tuple[float, float, float] = ISOTROPIC,
) -> Tensor:
    """Return patches ``(B, C, *patch)`` of regions ``(B, C, ...)`` with a random geometry."""
    changes = draw_geometry(len(volume), patch, config, numbers, spacing)
    size = volume.shape[2:]
    found = []
    for change, channels in zip(changes, volume, strict=True):

        def part(box: Box, channels: Tensor = channels) -> Tensor:
            return channels[:, *box]

        found.append(change.apply(part, size, patch))
    return torch.stack(found)
