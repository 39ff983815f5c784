"""Intensities of augmented patches: each change is realistic for its modality."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.augmentation_settings import (
    ALWAYS,
    CARDIAC,
    ISOTROPIC,
    SCALES,
    STILL,
    acquired,
    generator,
    with_keys,
)

from hstf.experiment.plan import Normalisation
from hstf.imaging.intensity import normalise
from hstf.training.augmentations.acquisition import Acquisition, ChannelKind
from hstf.training.augmentations.bias_field import bias_field
from hstf.training.augmentations.blur import blur
from hstf.training.augmentations.brightness import brightness
from hstf.training.augmentations.contrast import contrast
from hstf.training.augmentations.count_noise import UPTAKE_SPREAD, count_noise
from hstf.training.augmentations.ct_noise import ct_noise
from hstf.training.augmentations.gain import gain
from hstf.training.augmentations.gamma import gamma
from hstf.training.augmentations.intensity import change_intensity
from hstf.training.augmentations.low_resolution import low_resolution
from hstf.training.augmentations.noise import noise
from hstf.training.augmentations.registry import IntensityChange, changes_of
from hstf.training.augmentations.smoothing import smooth
from hstf.training.augmentations.speckle import speckle


def kind(modality: str, spacing: tuple[float, float, float] = ISOTROPIC) -> ChannelKind:
    return ChannelKind(modality, SCALES[modality], spacing)


MR = kind("mr")


@pytest.mark.parametrize("change", changes_of("mr"))
@pytest.mark.parametrize("channels", [1, 3])
def test_intensity_change_is_finite_and_changes_the_image(
    change: IntensityChange, channels: int
) -> None:
    image = torch.randn(2, channels, 12, 10, 8, generator=generator())
    found = change(image, generator(1), MR)
    assert found.shape == image.shape
    assert found.isfinite().all()
    assert not torch.equal(found, image)
    flat = change(torch.zeros_like(image), generator(1), MR)
    assert flat.isfinite().all(), "an empty patch"


@pytest.mark.parametrize("change", [contrast, brightness, gamma, noise])
def test_intensity_change_differs_between_cases_and_channels(change: IntensityChange) -> None:
    one = torch.randn(1, 1, 8, 8, 8, generator=generator())
    difference = change(one.expand(2, 2, -1, -1, -1), generator(1), MR) - one
    sizes = difference.abs().mean((2, 3, 4)).flatten()
    assert len(sizes.unique()) == 4


def test_intensity_changes_have_known_properties() -> None:
    image = torch.randn(2, 2, 8, 8, 8, generator=generator())
    mean = (2, 3, 4)
    higher = contrast(image, generator(1), MR)
    assert torch.allclose(higher.mean(mean), image.mean(mean), atol=1e-5)
    ratio = higher.std(mean) / image.std(mean)
    assert ((ratio >= 0.7) & (ratio <= 1.4)).all()
    shift = brightness(image, generator(1), MR) - image
    assert torch.allclose(shift, shift[:, :, :1, :1, :1].expand_as(shift), atol=1e-5)
    curved = gamma(image, generator(1), MR)
    assert torch.allclose(curved.amin(mean), image.amin(mean), atol=1e-4)
    assert torch.allclose(curved.amax(mean), image.amax(mean), atol=1e-4)
    order = image[0, 0].flatten().argsort()
    assert (curved[0, 0].flatten()[order].diff() >= -1e-5).all(), "gamma keeps the order of values"
    blurred = blur(torch.ones(1, 1, 9, 9, 9), generator(1), MR)
    assert blurred[0, 0, 4, 4, 4] == pytest.approx(1, abs=1e-5)
    assert blur(image, generator(1), MR).std() < image.std()
    assert low_resolution(image, generator(2), MR).std() < image.std()
    assert (bias_field(image, generator(1), MR).sign() == image.sign()).all()


def test_change_intensity_changes_cases_with_its_probability() -> None:
    image = torch.randn(60, 1, 4, 4, 4, generator=generator())
    assert torch.equal(change_intensity(image, STILL, generator()), image)
    found = change_intensity(image, with_keys(STILL, intensity_probability=0.1), generator())
    changed = (found != image).flatten(1).any(1).float().mean()
    assert 0.3 < changed < 0.7  # 1 - 0.9^7 = 0.52


def test_blur_and_low_resolution_do_not_mix_thick_slices() -> None:
    image = torch.randn(1, 1, 16, 16, 6, generator=generator())
    image[..., 3] = 0
    for change in (blur, low_resolution):
        found = change(image, generator(1), kind("mr", CARDIAC))
        assert not found[..., 3].any()
        assert found[..., 2].std() < image[..., 2].std()
    coarse = low_resolution(image, generator(2), kind("mr", (1.0, 1.0, 2.0)))
    assert not coarse[..., 3].any(), "an axis that is twice as coarse has that resolution already"


def test_change_intensity_changes_each_modality_separately() -> None:
    image = torch.rand(2, 3, 12, 12, 12, generator=generator())
    found = change_intensity(image, ALWAYS, generator(1), acquired("mr", "pet", "mr"))
    assert torch.equal(found[:, [0, 2]], change_intensity(image[:, [0, 2]], ALWAYS, generator(1)))
    assert not torch.equal(found[:, 1], image[:, 1])


@pytest.mark.parametrize("modality", ["mask", "other", "ct", "us"])
def test_change_intensity_never_changes_a_mask(modality: str) -> None:
    image = torch.rand(2, 2, 12, 12, 12, generator=generator())
    image[:, 1] = (image[:, 1] > 0.5).float()
    mask = (modality, Normalisation(scheme="mask"))
    acquisition = Acquisition(ISOTROPIC, (("mr", SCALES["mr"]), mask))
    found = change_intensity(image, ALWAYS, generator(1), acquisition)
    assert torch.equal(found[:, 1], image[:, 1])
    assert torch.equal(found[:, :1], change_intensity(image[:, :1], ALWAYS, generator(1)))


@pytest.mark.parametrize("modality", ["mr", "ct", "pet", "us"])
def test_change_intensity_is_finite_for_every_modality(modality: str) -> None:
    image = torch.randn(2, 2, 12, 10, 6, generator=generator()).clamp(-2, 3)
    found = change_intensity(
        image, ALWAYS, generator(1), acquired(modality, modality, spacing=CARDIAC)
    )
    assert found.isfinite().all()
    assert not torch.equal(found, image)
    assert (
        change_intensity(
            torch.zeros_like(image), ALWAYS, generator(1), acquired(modality, modality)
        )
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(
    ("modality", "shaded"), [("mr", True), ("ct", False), ("pet", False), ("us", False)]
)
def test_changes_of_mr_only_have_a_bias_field(modality: str, shaded: bool) -> None:
    changes = changes_of(modality)
    assert (bias_field in changes) is shaded
    assert (noise in changes) is shaded, "the other modalities have their own noise"


def test_ct_noise_has_hounsfield_units_and_a_grain() -> None:
    image = torch.zeros(40, 1, 16, 16, 16)
    added = 50 * ct_noise(image, generator(), kind("ct"))
    sizes = added.std((1, 2, 3, 4))
    assert 0 < sizes.min() < sizes.max() < 31
    assert 10 < sizes.mean() < 20
    near = (added[..., 1:] * added[..., :-1]).mean() / (added**2).mean()
    assert near > 0.3, "neighbouring voxels are correlated"


def test_change_intensity_keeps_ct_within_its_window() -> None:
    image = torch.randn(4, 1, 12, 12, 12, generator=generator()).clamp(-3, 3)
    found = change_intensity(image, ALWAYS, generator(1), acquired("ct"))
    assert found.min() >= -3
    assert found.max() <= 3


@pytest.mark.parametrize("level", [0.5, 2.0, 50.0])
def test_count_noise_grows_with_the_root_of_the_uptake(level: float) -> None:
    uptake = torch.full((30, 1, 12, 12, 12), level)
    uptake[:, :, 0, 0, 0] = 0
    spread = UPTAKE_SPREAD
    noisy = spread * (count_noise(uptake.asinh() / spread - 1.0, generator(), kind("pet")) + 1.0)
    added = (noisy.sinh() - uptake)[:, :, 1:].std((1, 2, 3, 4)) / level**0.5
    assert 0.1 < added.mean() < 0.2
    assert noisy.min() >= -1e-4, "no uptake is below none"


def test_count_noise_is_higher_in_hot_voxels_of_a_normalised_scan() -> None:
    """In units of uptake, the square root law holds as well as the spread of a body is known."""
    rng = np.random.default_rng(0)
    scan = np.exp(rng.normal(0, 0.5, (24, 24, 24))).astype(np.float32)  # a body, its median 1
    scan[:4], scan[10:14, 10:14, 10:14] = 0.01, 30.0
    raw = np.arcsinh(scan / np.median(scan[4:]))
    image = scan.copy()
    normalise(image, np.ones(scan.shape, bool), Normalisation(scheme="uptake"))
    batch = torch.from_numpy(image).expand(60, 1, 24, 24, 24)
    noisy = count_noise(batch, generator(), kind("pet")).numpy()
    spread = float((raw[12, 12, 12] - raw[0, 0, 0]) / (image[12, 12, 12] - image[0, 0, 0]))
    hot = np.sinh(spread * (noisy[:, 0][:, scan == 30] - image.min()) + raw.min()).std()
    warm = np.sinh(
        spread * (noisy[:, 0][:, (scan > 0.9) & (scan < 1.1)] - image.min()) + raw.min()
    ).std()
    assert 0.5 * 30**0.5 < hot / warm < 2 * 30**0.5


def test_change_intensity_keeps_voxels_outside_the_fan_black() -> None:
    image = torch.randn(2, 1, 16, 16, 16, generator=generator()).clamp(-1.9, 3)
    fan = torch.arange(16)[:, None, None] < torch.arange(16)
    image = torch.where(fan, image, -2.0)
    wide = F.pad(image, (0, 0, 0, 0, 16, 0), value=-2.0)
    found = change_intensity(image, ALWAYS, generator(1), acquired("us"))
    assert (found[:, 0, ~fan.expand(16, 16, 16)] == -2).all()
    assert (
        found[:, 0, fan.expand(16, 16, 16)] != image[:, 0, fan.expand(16, 16, 16)]
    ).float().mean() > 0.99
    small = gain(image, generator(1), kind("us"))
    large = gain(wide, generator(1), kind("us"))
    assert torch.equal(large[:, :, 16:], small), "for any size of the corners"


def test_speckle_is_multiplicative() -> None:
    image = torch.tensor([0.0, 1.0, 4.0]).reshape(1, 1, 1, 1, 3).repeat(30, 1, 16, 16, 8)
    added = (speckle(image, generator(), kind("us")) - image).reshape(-1, 3).std(0)
    assert added[0] == 0
    assert added[2] / added[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 8.0)])
def test_smooth_adds_no_rim(spacing: tuple[float, float, float]) -> None:
    """Voxels outside a patch are assumed to be like its last voxels."""
    air = torch.full((1, 2, 8, 8, 8), -3.0)
    torch.testing.assert_close(smooth(air, 1.0, spacing), air)
