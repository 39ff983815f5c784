"""Augmentation against numpy: what does nothing changes nothing, flips and right angles are exact, the rest is sound."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hstf.training.augmentation import Acquisition, intensity, region_size, spatial
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation
from hstf.imaging.intensity import normalise
from hstf.training import augmentation as augment

STILL = AugmentationConfig(
    flip_axes=(), rotation_degrees=(0, 0, 0), scale_range=(1, 1), anisotropy=0, affine_probability=1,
    elastic_probability=0, intensity_probability=0,
)  # fmt: skip
WILD = AugmentationConfig(affine_probability=1, elastic_probability=1, intensity_probability=1)
ISOTROPIC, CARDIAC = (1.0, 1.0, 1.0), (1.5, 1.5, 10.0)
SCALES = {
    "mr": Normalisation(scheme="zscore"),
    "ct": Normalisation(scheme="ct", lower=-100, upper=200, mean=50, std=50),
    "pet": Normalisation(scheme="uptake"),
    "us": Normalisation(scheme="fan"),
}
ALWAYS = STILL.model_copy(update={"intensity_probability": 1})
CHANGES = [
    "_contrast",
    "_brightness",
    "_gamma",
    "_bias_field",
    "_blur",
    "_low_resolution",
    "_noise",
]


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
def test_the_region_is_a_quarter_larger_and_its_centre_is_the_patch(
    patch: tuple[int, int, int],
) -> None:
    size = region_size(patch)
    assert all(n * 1.25 <= s <= n * 1.25 + 2 for n, s in zip(patch, size, strict=True))
    volume = region(patch)
    assert torch.allclose(
        spatial(volume, patch, STILL, generator()), centre(volume, patch), atol=2e-5
    )


def test_flips_are_exact_and_each_axis_has_its_own_coin() -> None:
    patch, volume = (8, 6, 4), region((8, 6, 4), batch=1)
    plain, seen = centre(volume, patch), set()
    for seed in range(24):
        found = spatial(volume, patch, with_keys(STILL, flip_axes=(0, 2)), generator(seed))
        matches = [
            axes
            for axes in [(), (2,), (4,), (2, 4)]
            if torch.allclose(found, plain.flip(axes), atol=2e-5)
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
    monkeypatch.setattr(
        torch, "rand", lambda size, **_: torch.ones(size) * 0.99999999
    )  # the largest angle
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
    matrices = augment._random_matrices(200, config, ISOTROPIC, generator(), torch.device("cpu"))
    stretch = 1 / torch.diagonal(matrices, dim1=1, dim2=2)
    assert 0.9 <= stretch.min() < 0.92
    assert 1.08 < stretch.max() <= 1.1


def test_rotations_keep_lengths() -> None:
    config = with_keys(STILL, rotation_degrees=(30, 20, 10))
    matrices = augment._random_matrices(20, config, ISOTROPIC, generator(), torch.device("cpu"))
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


def acquired(*modalities: str, spacing: tuple[float, float, float] = ISOTROPIC) -> Acquisition:
    return Acquisition(spacing, tuple((name, SCALES[name]) for name in modalities))


@pytest.mark.parametrize("mm", [0.625, 1.25, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_on_isotropic_voxels_their_size_changes_not_a_bit(mm: float, seed: int) -> None:
    patch = (16, 12, 20)
    one, two = generator(seed), generator(seed)
    plain = intensity(spatial(region(patch), patch, WILD, one), WILD, one)
    found = spatial(region(patch), patch, WILD, two, (mm, mm, mm))
    assert torch.equal(
        intensity(found, WILD, two, acquired("mr", "mr", spacing=(mm, mm, mm))), plain
    )


def test_isotropic_mr_is_what_it_was() -> None:
    """Values of the augmentation in voxels that came before the one in millimetres."""
    patch, g = (16, 12, 20), generator(3)
    found = intensity(spatial(region(patch), patch, WILD, g), WILD, g)
    assert found[:, :, 8, 6, 10].flatten().tolist() == pytest.approx(
        [-0.796913, 0.409347, 0.255325, 1.121862], abs=1e-4
    )


def ball_mm(
    patch: tuple[int, int, int], spacing: tuple[float, float, float], radius: float
) -> Tensor:
    """A soft ball of ``radius`` mm, 20 mm off the centre along the first axis."""
    axes = [
        (torch.arange(n) - (n - 1) / 2) * mm
        for n, mm in zip(region_size(patch), spacing, strict=True)
    ]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    distance = ((x - 20) ** 2 + y**2 + z**2).sqrt()
    return ((radius - distance) / 4 + 0.5).clamp(0, 1)[None, None]


def moments(ball: Tensor, spacing: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Mass centre and covariance (mm)."""
    axes = [
        (torch.arange(n) - (n - 1) / 2) * mm for n, mm in zip(ball.shape[2:], spacing, strict=True)
    ]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    mass = ball.flatten() / ball.sum()
    centre = mass @ places
    return centre, (places - centre).T @ ((places - centre) * mass[:, None])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.5), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("seed", range(3))
def test_a_turned_ball_stays_a_ball_whatever_the_voxels(
    spacing: tuple[float, float, float], seed: int
) -> None:
    patch = tuple(int(80 / mm) for mm in spacing)
    ball = ball_mm(patch, spacing, 15)
    config = with_keys(STILL, rotation_degrees=(40, 40, 40))
    place, covariance = moments(spatial(ball, patch, config, generator(seed), spacing), spacing)
    assert place.norm().item() == pytest.approx(20, abs=0.2)
    _, before = moments(centre(ball, patch), spacing)
    radii = [torch.linalg.eigvalsh(c).tolist() for c in (covariance, before)]
    assert radii[0] == pytest.approx(radii[1], rel=0.05)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.5), (2.0, 0.7, 1.5)])
def test_turns_are_turns_in_millimetres(spacing: tuple[float, float, float]) -> None:
    config = with_keys(STILL, rotation_degrees=(30, 20, 10))
    matrices = augment._random_matrices(20, config, spacing, generator(), torch.device("cpu"))
    mm = torch.tensor(spacing)
    turns = matrices * mm[:, None] / mm
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert not torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(20, 3, 3), atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_nothing_moves_across_thick_slices(axis: int) -> None:
    spacing = [1.5, 1.5, 1.5]
    spacing[axis] = 10.0
    patch = tuple(6 if a == axis else 24 for a in range(3))
    volume = region(patch, channels=1)
    slices = torch.arange(volume.shape[2 + axis]).float()
    shape = [1] * 5
    shape[2 + axis] = -1
    volume[:] = slices.reshape(shape)
    found = spatial(volume, patch, with_keys(WILD, flip_axes=()), generator(2), tuple(spacing))
    middle = [slice(10, 14)] * 3
    middle[axis] = slice(None)
    kept = centre(volume, patch)[(..., *middle)]
    assert torch.allclose(found[(..., *middle)], kept, atol=1e-4)
    noise = region(patch, channels=1)
    moved = spatial(noise, patch, WILD, generator(2), tuple(spacing))
    assert (moved - centre(noise, patch)).abs().mean() > 0.1, "within the slices all moves"


def test_two_thick_axes_turn_into_each_other_alone() -> None:
    matrices = augment._random_matrices(20, WILD, (1.0, 8.0, 8.0), generator(), torch.device("cpu"))
    assert not matrices[:, 0, 1:].any()
    assert not matrices[:, 1:, 0].any()
    assert matrices[:, 1, 2].abs().max() > 0.1


def test_blur_and_low_resolution_leave_thick_slices_apart() -> None:
    image = torch.randn(1, 1, 16, 16, 6, generator=generator())
    image[..., 3] = 0
    for change in (augment._blur, augment._low_resolution):
        found = change(image, generator(1), spacing=CARDIAC)
        assert not found[..., 3].any()
        assert found[..., 2].std() < image[..., 2].std()
    coarse = augment._low_resolution(image, generator(2), spacing=(1.0, 1.0, 2.0))
    assert not coarse[..., 3].any(), "an axis that is twice as coarse has that resolution already"


def test_channels_of_different_modalities_change_as_their_own_would() -> None:
    image = torch.rand(2, 3, 12, 12, 12, generator=generator())
    found = intensity(image, ALWAYS, generator(1), acquired("mr", "pet", "mr"))
    assert torch.equal(found[:, [0, 2]], intensity(image[:, [0, 2]], ALWAYS, generator(1)))
    assert not torch.equal(found[:, 1], image[:, 1])


@pytest.mark.parametrize("modality", ["mr", "ct", "pet", "us"])
def test_every_modality_changes_soundly(modality: str) -> None:
    image = torch.randn(2, 2, 12, 10, 6, generator=generator()).clamp(-2, 3)
    found = intensity(image, ALWAYS, generator(1), acquired(modality, modality, spacing=CARDIAC))
    assert found.isfinite().all()
    assert not torch.equal(found, image)
    assert (
        intensity(torch.zeros_like(image), ALWAYS, generator(1), acquired(modality, modality))
        .isfinite()
        .all()
    )


@pytest.mark.parametrize(
    ("modality", "shaded"), [("mr", True), ("ct", False), ("pet", False), ("us", False)]
)
def test_only_mr_has_a_bias_field(modality: str, shaded: bool) -> None:
    names = {
        getattr(c, "func", c).__name__
        for c in augment._changes(modality, SCALES[modality], ISOTROPIC)
    }
    assert ("_bias_field" in names) is shaded
    assert ("_noise" in names) is shaded, "the others have noise of their own"


def test_ct_noise_has_a_size_in_hounsfield_units_and_a_grain() -> None:
    image = torch.zeros(40, 1, 16, 16, 16)
    noise = 50 * augment._ct_noise(image, generator(), sigma=30 / 50, spacing=ISOTROPIC)
    sizes = noise.std((1, 2, 3, 4))
    assert 0 < sizes.min() < sizes.max() < 31
    assert 10 < sizes.mean() < 20
    near = (noise[..., 1:] * noise[..., :-1]).mean() / (noise**2).mean()
    assert near > 0.3, "neighbours have much in common"


def test_what_the_window_of_ct_cut_off_stays_cut_off() -> None:
    image = torch.randn(4, 1, 12, 12, 12, generator=generator()).clamp(-3, 3)
    found = intensity(image, ALWAYS, generator(1), acquired("ct"))
    assert found.min() >= -3
    assert found.max() <= 3


@pytest.mark.parametrize("level", [0.5, 2.0, 50.0])
def test_noise_of_pet_grows_with_the_root_of_uptake(level: float) -> None:
    uptake = torch.full((30, 1, 12, 12, 12), level)
    uptake[:, :, 0, 0, 0] = 0
    spread = augment.UPTAKE_SPREAD
    noisy = spread * (augment._count_noise(uptake.asinh() / spread - 1.0, generator()) + 1.0)
    noise = (noisy.sinh() - uptake)[:, :, 1:].std((1, 2, 3, 4)) / level**0.5
    assert 0.1 < noise.mean() < 0.2
    assert noisy.min() >= -1e-4, "no uptake is below none"


def test_hot_voxels_of_a_normalised_pet_scan_have_more_noise() -> None:
    """In units of uptake, the root law holds about as well as the spread of a body is known."""
    rng = np.random.default_rng(0)
    scan = np.exp(rng.normal(0, 0.5, (24, 24, 24))).astype(np.float32)  # a body, its median 1
    scan[:4], scan[10:14, 10:14, 10:14] = 0.01, 30.0
    raw = np.arcsinh(scan / np.median(scan[4:]))
    image = scan.copy()
    normalise(image, np.ones(scan.shape, bool), Normalisation(scheme="uptake"))
    batch = torch.from_numpy(image).expand(60, 1, 24, 24, 24)
    noisy = augment._count_noise(batch, generator()).numpy()
    spread = float((raw[12, 12, 12] - raw[0, 0, 0]) / (image[12, 12, 12] - image[0, 0, 0]))
    hot = np.sinh(spread * (noisy[:, 0][:, scan == 30] - image.min()) + raw.min()).std()
    warm = np.sinh(
        spread * (noisy[:, 0][:, (scan > 0.9) & (scan < 1.1)] - image.min()) + raw.min()
    ).std()
    assert 0.5 * 30**0.5 < hot / warm < 2 * 30**0.5


def test_corners_beside_the_fan_stay_black_and_change_nothing() -> None:
    image = torch.randn(2, 1, 16, 16, 16, generator=generator()).clamp(-1.9, 3)
    fan = torch.arange(16)[:, None, None] < torch.arange(16)
    image = torch.where(fan, image, -2.0)
    wide = F.pad(image, (0, 0, 0, 0, 16, 0), value=-2.0)
    found = intensity(image, ALWAYS, generator(1), acquired("us"))
    assert (found[:, 0, ~fan.expand(16, 16, 16)] == -2).all()
    assert (
        found[:, 0, fan.expand(16, 16, 16)] != image[:, 0, fan.expand(16, 16, 16)]
    ).float().mean() > 0.99
    small, large = augment._gain(image, generator(1)), augment._gain(wide, generator(1))
    assert torch.equal(large[:, :, 16:], small), "however large the corners are"


def test_speckle_is_a_factor() -> None:
    image = torch.tensor([0.0, 1.0, 4.0]).reshape(1, 1, 1, 1, 3).repeat(30, 1, 16, 16, 8)
    noise = (augment._speckle(image, generator(), ISOTROPIC) - image).reshape(-1, 3).std(0)
    assert noise[0] == 0
    assert noise[2] / noise[1] == pytest.approx(4, rel=0.1)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.5, 8.0)])
def test_blur_makes_no_rim(spacing: tuple[float, float, float]) -> None:
    """What lies beyond a patch is most likely as its last voxels are; none would be the mean of the scan."""
    air = torch.full((1, 2, 8, 8, 8), -3.0)
    torch.testing.assert_close(augment._smoothed(air, 1.0, spacing), air)
