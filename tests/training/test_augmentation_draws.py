"""Augmented patches stay the same: the order of random draws and the arithmetic must not change.

Measured results depend on them. ``augmented_patches.json`` has numbers of the version before
each change got its own file.
"""

import json
from pathlib import Path

import pytest
import torch
from support.augmentation_settings import change_geometry, generator
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.augmentations.intensity import change_intensity
from hstf.training.augmentations.spatial import region_size

EXPECTED = json.loads(Path(__file__).with_name("augmented_patches.json").read_text())
CONFIG = AugmentationConfig(
    flip_axes=(0, 1),
    affine_probability=0.6,
    elastic_probability=0.6,
    intensity_probability=0.6,
)
SPACINGS = {
    "isotropic": (1.0, 1.0, 1.0),
    "anisotropic": (0.8, 1.0, 1.6),
    "thick slices": (1.2, 1.0, 6.0),
}
ZSCORE = Normalisation(scheme="zscore")
WINDOW = Normalisation(scheme="ct", lower=-900.0, upper=800.0, mean=50.0, std=200.0)
CHANNELS = {
    "mr": (("mr", ZSCORE), ("mr", ZSCORE)),
    "ct": (("ct", WINDOW),),
    "pet": (("pet", ZSCORE),),
    "us": (("us", ZSCORE),),
    "other": (("other", ZSCORE),),
    "mixed": (("ct", WINDOW), ("pet", ZSCORE), ("mr", ZSCORE), ("ct", WINDOW)),
}


def summary(patches: Tensor, used: torch.Generator) -> list[float]:
    """Return mean, standard deviation, two voxels, and the next number of the generator."""
    values = patches.flatten()
    numbers = [values.mean(), values.std(), values[len(values) // 3], values[2 * len(values) // 3]]
    return [float(number) for number in numbers] + [float(torch.rand(1, generator=used))]


@pytest.mark.parametrize("spacing", SPACINGS)
def test_change_geometry_returns_the_same_patches(spacing: str) -> None:
    patch = (10, 9, 8)
    region = torch.randn(3, 4, *region_size(patch), generator=generator(99))
    for seed in range(3):
        used = generator(seed)
        found = change_geometry(region, patch, CONFIG, used, SPACINGS[spacing])
        assert summary(found, used) == pytest.approx(
            EXPECTED["geometry"][f"{spacing}, seed {seed}"], abs=1e-4
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("channels", CHANNELS)
def test_change_intensity_returns_the_same_patches(channels: str, spacing: str) -> None:
    kinds = CHANNELS[channels]
    image = torch.randn(4, len(kinds), 9, 8, 7, generator=generator(7))
    image[:, :, :2] = image.min()
    for seed in range(3):
        used = generator(seed)
        found = change_intensity(image, CONFIG, used, Acquisition(SPACINGS[spacing], kinds))
        assert summary(found, used) == pytest.approx(
            EXPECTED["intensity"][f"{channels}, {spacing}, seed {seed}"], abs=1e-4
        )
