"""Augmentation against numpy: what does nothing changes nothing, flips and right angles are exact, the rest is sound."""

import numpy as np
import pytest
import torch
from torch import Tensor

from hstf import augment
from hstf.augment import intensity, region_size, spatial
from hstf.config.training import AugmentationConfig

STILL = AugmentationConfig(
    flip_axes=(), rotation_degrees=(0, 0, 0), scale_range=(1, 1), anisotropy=0, affine_probability=1,
    elastic_probability=0, intensity_probability=0,
)  # fmt: skip
WILD = AugmentationConfig(affine_probability=1, elastic_probability=1, intensity_probability=1)
CHANGES = ["_contrast", "_brightness", "_gamma", "_bias_field", "_blur", "_low_resolution", "_noise"]


def with_keys(base: AugmentationConfig, **keys: object) -> AugmentationConfig:
    return base.model_copy(update=keys)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def region(patch: tuple[int, int, int], channels: int = 2, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, *region_size(patch), generator=generator(9))


def centre(volume: Tensor, patch: tuple[int, int, int]) -> Tensor:
    starts = [(n - p) // 2 for n, p in zip(volume.shape[2:], patch, strict=True)]
    return volume[(..., *(slice(s, s + p) for s, p in zip(starts, patch, strict=True)))]


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 12, 20), (7, 4, 1), (10, 28, 36), (2, 5, 64)])
def test_the_region_is_a_quarter_larger_and_its_centre_is_the_patch(patch: tuple[int, int, int]) -> None:
    size = region_size(patch)
    assert all(n * 1.25 <= s <= n * 1.25 + 2 for n, s in zip(patch, size, strict=True))
    volume = region(patch)
    assert torch.allclose(spatial(volume, patch, STILL, generator()), centre(volume, patch), atol=2e-5)


def test_flips_are_exact_and_each_axis_has_its_own_coin() -> None:
    patch, volume = (8, 6, 4), region((8, 6, 4), batch=1)
    plain, seen = centre(volume, patch), set()
    for seed in range(24):
        found = spatial(volume, patch, with_keys(STILL, flip_axes=(0, 2)), generator(seed))
        matches = [
            axes for axes in [(), (2,), (4,), (2, 4)] if torch.allclose(found, plain.flip(axes), atol=2e-5)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_right_angle_turns_as_numpy_does(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, volume = (8, 8, 8), region((8, 8, 8))
    plane = tuple(a for a in range(3) if a != axis)
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90.0
    config = with_keys(STILL, rotation_degrees=tuple(degrees))
    monkeypatch.setattr(torch, "rand", lambda size, **_: torch.ones(size) * 0.99999999)  # the largest angle
    config = with_keys(config, affine_probability=1.1)
    found = spatial(volume, patch, config, generator()).numpy()
    plain = centre(volume, patch).numpy()
    turned = [np.rot90(plain, k, axes=[a + 2 for a in plane]) for k in (1, -1)]
    assert sum(np.allclose(found, t, atol=1e-4) for t in turned) == 1


def test_a_zoom_above_one_shows_the_anatomy_larger() -> None:
    """A ball's volume grows with the cube of the zoom."""
    patch = (32, 32, 32)
    axes = [torch.arange(n) - (n - 1) / 2 for n in region_size(patch)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    ball = ((x**2 + y**2 + z**2) < 8**2).float()[None, None]
    for zoom in (0.8, 1.25):
        found = spatial(ball, patch, with_keys(STILL, scale_range=(zoom, zoom)), generator())
        assert found.sum().item() == pytest.approx(ball.sum().item() * zoom**3, rel=0.03)


def test_anisotropy_stays_within_its_share() -> None:
    config = with_keys(STILL, anisotropy=0.1)
    matrices = augment._random_matrices(200, config, generator(), torch.device("cpu"))
    stretch = 1 / torch.diagonal(matrices, dim1=1, dim2=2)
    assert 0.9 <= stretch.min() < 0.92
    assert 1.08 < stretch.max() <= 1.1


def test_rotations_keep_lengths() -> None:
    config = with_keys(STILL, rotation_degrees=(30, 20, 10))
    matrices = augment._random_matrices(20, config, generator(), torch.device("cpu"))
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert torch.allclose(torch.det(matrices), torch.ones(20), atol=1e-5)


def test_changes_happen_as_often_as_they_should() -> None:
    volume, patch = region((8, 8, 8), channels=1, batch=60), (8, 8, 8)
    config = with_keys(STILL, affine_probability=0.3, scale_range=(0.5, 0.5))
    found = spatial(volume, patch, config, generator())
    changed = (found - centre(volume, patch)).abs().amax((1, 2, 3, 4)) > 1e-3
    assert 0.15 < changed.float().mean() < 0.45


def labelled_region(patch: tuple[int, int, int]) -> Tensor:
    """Image, three class probabilities and weight; half of the region lies outside the scan, where all is 0."""
    size = region_size(patch)
    image = torch.randn(3, 1, *size, generator=generator(1))
    target = (2 * torch.randn(3, 3, *size, generator=generator(2))).softmax(1)
    volume = torch.cat([image, target, torch.ones(3, 1, *size)], dim=1)
    volume[:, :, : size[0] // 2] = 0
    return volume


@pytest.mark.parametrize("seed", range(4))
def test_targets_stay_probabilities_and_the_outside_weighs_nothing(seed: int) -> None:
    patch = (12, 12, 12)
    found = spatial(labelled_region(patch), patch, WILD, generator(seed))
    target, weight = found[:, 1:4], found[:, 4:]
    assert found.isfinite().all()
    assert target.min() >= 0
    assert target.sum(1).max() <= 1 + 1e-5
    assert weight.min() >= 0
    assert weight.max() <= 1 + 1e-5
    assert torch.allclose(target.sum(1, keepdim=True), weight, atol=1e-5)
    assert (weight == 0).any(), "half of the region is outside"
    assert (weight > 0.99).any()


def test_beyond_the_region_the_weight_is_zero() -> None:
    patch = (8, 8, 8)
    config = with_keys(STILL, scale_range=(0.25, 0.25))  # four times the field of view
    found = spatial(torch.ones(1, 1, *region_size(patch)), patch, config, generator())
    assert found[0, 0, 4, 4, 4] == pytest.approx(1)
    assert not found[0, 0, 0].any()


def test_the_generator_decides_everything() -> None:
    patch, volume = (8, 8, 8), region((8, 8, 8))

    def draw(seed: int) -> Tensor:
        torch.manual_seed(torch.initial_seed() + 1)  # the global state must not matter
        g = generator(seed)
        return intensity(spatial(volume, patch, WILD, g), WILD, g)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_intensity_change_is_finite_and_changes_something(name: str, channels: int) -> None:
    image = torch.randn(2, channels, 12, 10, 8, generator=generator())
    found = getattr(augment, name)(image, generator(1))
    assert found.shape == image.shape
    assert found.isfinite().all()
    assert not torch.equal(found, image)
    flat = getattr(augment, name)(torch.zeros_like(image), generator(1))
    assert flat.isfinite().all(), "an empty patch"


@pytest.mark.parametrize("name", ["_contrast", "_brightness", "_gamma", "_noise"])
def test_each_case_and_channel_is_changed_by_a_different_amount(name: str) -> None:
    one = torch.randn(1, 1, 8, 8, 8, generator=generator())
    change = getattr(augment, name)(one.expand(2, 2, -1, -1, -1), generator(1)) - one
    sizes = change.abs().mean((2, 3, 4)).flatten()
    assert len(sizes.unique()) == 4


def test_known_intensity_changes() -> None:
    image = torch.randn(2, 2, 8, 8, 8, generator=generator())
    mean = (2, 3, 4)
    contrast = augment._contrast(image, generator(1))
    assert torch.allclose(contrast.mean(mean), image.mean(mean), atol=1e-5)
    ratio = contrast.std(mean) / image.std(mean)
    assert ((ratio >= 0.7) & (ratio <= 1.4)).all()
    shift = augment._brightness(image, generator(1)) - image
    assert torch.allclose(shift, shift[:, :, :1, :1, :1].expand_as(shift), atol=1e-5)
    gamma = augment._gamma(image, generator(1))
    assert torch.allclose(gamma.amin(mean), image.amin(mean), atol=1e-4)
    assert torch.allclose(gamma.amax(mean), image.amax(mean), atol=1e-4)
    order = image[0, 0].flatten().argsort()
    assert (gamma[0, 0].flatten()[order].diff() >= -1e-5).all(), "gamma keeps the order of values"
    blurred = augment._blur(torch.ones(1, 1, 9, 9, 9), generator(1))
    assert blurred[0, 0, 4, 4, 4] == pytest.approx(1, abs=1e-5)
    assert augment._blur(image, generator(1)).std() < image.std()
    assert augment._low_resolution(image, generator(2)).std() < image.std()
    assert (augment._bias_field(image, generator(1)).sign() == image.sign()).all()


def test_intensity_changes_some_cases_and_never_with_probability_zero() -> None:
    image = torch.randn(60, 1, 4, 4, 4, generator=generator())
    assert torch.equal(intensity(image, STILL, generator()), image)
    found = intensity(image, with_keys(STILL, intensity_probability=0.1), generator())
    changed = (found != image).flatten(1).any(1).float().mean()
    assert 0.3 < changed < 0.7  # 1 - 0.9^7 = 0.52
