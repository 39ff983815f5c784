"""Geometry of augmented patches: flips and right angles are exact, rotations are in mm."""

import numpy as np
import pytest
import torch
from support.augmentation_settings import (
    ISOTROPIC,
    STILL,
    WILD,
    acquired,
    change_geometry,
    generator,
    region,
    with_keys,
)
from torch import Tensor

from hstf.training.augmentations.affine import random_matrices
from hstf.training.augmentations.elastic import random_displacements
from hstf.training.augmentations.intensity import change_intensity
from hstf.training.augmentations.spatial import draw_geometry, region_size


def centre(volume: Tensor, patch: tuple[int, int, int]) -> Tensor:
    starts = [(n - p) // 2 for n, p in zip(volume.shape[2:], patch, strict=True)]
    return volume[(..., *(slice(s, s + p) for s, p in zip(starts, patch, strict=True)))]


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 12, 20), (7, 4, 1), (10, 28, 36), (2, 5, 64)])
def test_region_size_is_a_quarter_larger_than_the_patch(
    patch: tuple[int, int, int],
) -> None:
    size = region_size(patch)
    assert all(n * 1.25 <= s <= n * 1.25 + 2 for n, s in zip(patch, size, strict=True))
    volume = region(patch)
    assert torch.allclose(
        change_geometry(volume, patch, STILL, generator()), centre(volume, patch), atol=2e-5
    )


def test_change_geometry_flips_each_axis_independently() -> None:
    patch = (8, 6, 4)
    volume = region(patch, batch=1)
    plain = centre(volume, patch)
    seen = set()
    for seed in range(24):
        found = change_geometry(volume, patch, with_keys(STILL, flip_axes=(0, 2)), generator(seed))
        matches = [
            axes
            for axes in [(), (2,), (4,), (2, 4)]
            if torch.allclose(found, plain.flip(axes), atol=2e-5)
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_change_geometry_rotates_like_numpy(axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    patch, volume = (8, 8, 8), region((8, 8, 8))
    plane = tuple(a for a in range(3) if a != axis)
    degrees = [0.0, 0.0, 0.0]
    degrees[axis] = 90.0
    config = with_keys(STILL, rotation_degrees=tuple(degrees))
    monkeypatch.setattr(
        torch, "rand", lambda size, **_: torch.ones(size) * 0.99999999
    )  # the maximum angle
    config = with_keys(config, affine_probability=1.1)
    found = change_geometry(volume, patch, config, generator()).numpy()
    plain = centre(volume, patch).numpy()
    turned = [np.rot90(plain, k, axes=[a + 2 for a in plane]) for k in (1, -1)]
    assert sum(np.allclose(found, t, atol=1e-4) for t in turned) == 1


def test_change_geometry_zoom_above_one_enlarges_the_anatomy() -> None:
    """A ball's volume grows with the cube of the zoom."""
    patch = (32, 32, 32)
    axes = [torch.arange(n) - (n - 1) / 2 for n in region_size(patch)]
    x, y, z = torch.meshgrid(*axes, indexing="ij")
    ball = ((x**2 + y**2 + z**2) < 8**2).float()[None, None]
    for zoom in (0.8, 1.25):
        found = change_geometry(
            ball, patch, with_keys(STILL, scale_range=(zoom, zoom)), generator()
        )
        assert found.sum().item() == pytest.approx(ball.sum().item() * zoom**3, rel=0.03)


def test_random_matrices_stretch_within_the_anisotropy() -> None:
    config = with_keys(STILL, anisotropy=0.1)
    matrices = random_matrices(200, config, ISOTROPIC, generator())
    stretch = 1 / torch.diagonal(matrices, dim1=1, dim2=2)
    assert 0.9 <= stretch.min() < 0.92
    assert 1.08 < stretch.max() <= 1.1


def test_random_matrices_rotations_keep_lengths() -> None:
    config = with_keys(STILL, rotation_degrees=(30, 20, 10))
    matrices = random_matrices(20, config, ISOTROPIC, generator())
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert torch.allclose(torch.det(matrices), torch.ones(20), atol=1e-5)


def test_change_geometry_changes_cases_with_its_probability() -> None:
    volume, patch = region((8, 8, 8), channels=1, batch=60), (8, 8, 8)
    config = with_keys(STILL, affine_probability=0.3, scale_range=(0.5, 0.5))
    found = change_geometry(volume, patch, config, generator())
    changed = (found - centre(volume, patch)).abs().amax((1, 2, 3, 4)) > 1e-3
    assert 0.15 < changed.float().mean() < 0.45


def labelled_region(patch: tuple[int, int, int]) -> Tensor:
    """Return image, class probabilities and weight; half of the region is outside the scan."""
    size = region_size(patch)
    image = torch.randn(3, 1, *size, generator=generator(1))
    target = (2 * torch.randn(3, 3, *size, generator=generator(2))).softmax(1)
    volume = torch.cat([image, target, torch.ones(3, 1, *size)], dim=1)
    volume[:, :, : size[0] // 2] = 0
    return volume


@pytest.mark.parametrize("seed", range(4))
def test_change_geometry_keeps_probabilities_and_weights_the_outside_with_zero(seed: int) -> None:
    patch = (12, 12, 12)
    found = change_geometry(labelled_region(patch), patch, WILD, generator(seed))
    target, weight = found[:, 1:4], found[:, 4:]
    assert found.isfinite().all()
    assert target.min() >= 0
    assert target.sum(1).max() <= 1 + 1e-5
    assert weight.min() >= 0
    assert weight.max() <= 1 + 1e-5
    assert torch.allclose(target.sum(1, keepdim=True), weight, atol=1e-5)
    assert (weight == 0).any(), "half of the region is outside"
    assert (weight > 0.99).any()


def test_random_displacements_are_equal_in_millimetres() -> None:
    """Voxels of twice the size are displaced by half as many."""
    config = with_keys(STILL, elastic_probability=1, elastic_voxels=2.0)
    fields = random_displacements(300, (16, 16, 16), config, (1.0, 1.0, 2.0), generator())
    drawn = torch.stack([field for field in fields if field is not None])
    assert len(drawn) == 300
    torch.testing.assert_close(
        drawn.transpose(0, 1).flatten(1).std(1), torch.tensor([2.0, 2.0, 1.0]), rtol=0.1, atol=0
    )


def test_change_geometry_is_zero_outside_the_region() -> None:
    patch = (8, 8, 8)
    config = with_keys(STILL, scale_range=(0.25, 0.25))  # four times the field of view
    found = change_geometry(torch.ones(1, 1, *region_size(patch)), patch, config, generator())
    assert found[0, 0, 4, 4, 4] == pytest.approx(1)
    assert not found[0, 0, 0].any()


def test_augmentation_depends_on_the_generator_only() -> None:
    patch, volume = (8, 8, 8), region((8, 8, 8))

    def draw(seed: int) -> Tensor:
        torch.manual_seed(torch.initial_seed() + 1)  # the global state must not matter
        g = generator(seed)
        return change_intensity(change_geometry(volume, patch, WILD, g), WILD, g)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


@pytest.mark.parametrize("mm", [0.625, 1.25, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_augmentation_of_isotropic_voxels_does_not_depend_on_their_size(
    mm: float, seed: int
) -> None:
    patch = (16, 12, 20)
    one, two = generator(seed), generator(seed)
    plain = change_intensity(change_geometry(region(patch), patch, WILD, one), WILD, one)
    found = change_geometry(region(patch), patch, WILD, two, (mm, mm, mm))
    assert torch.equal(
        change_intensity(found, WILD, two, acquired("mr", "mr", spacing=(mm, mm, mm))), plain
    )


def test_augmentation_of_isotropic_mr_stays_the_same() -> None:
    """Compare with values of an earlier augmentation that worked in voxels."""
    patch, g = (16, 12, 20), generator(3)
    found = change_intensity(change_geometry(region(patch), patch, WILD, g), WILD, g)
    assert found[:, :, 8, 6, 10].flatten().tolist() == pytest.approx(
        [-0.796913, 0.409347, 0.255325, 1.121862], abs=1e-4
    )


def ball_mm(
    patch: tuple[int, int, int], spacing: tuple[float, float, float], radius: float
) -> Tensor:
    """Return a soft ball of ``radius`` mm, 20 mm off the centre along the first axis."""
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
def test_change_geometry_rotates_a_ball_to_a_ball_on_any_voxels(
    spacing: tuple[float, float, float], seed: int
) -> None:
    patch = tuple(int(80 / mm) for mm in spacing)
    ball = ball_mm(patch, spacing, 15)
    config = with_keys(STILL, rotation_degrees=(40, 40, 40))
    place, covariance = moments(
        change_geometry(ball, patch, config, generator(seed), spacing), spacing
    )
    assert place.norm().item() == pytest.approx(20, abs=0.2)
    _, before = moments(centre(ball, patch), spacing)
    radii = [torch.linalg.eigvalsh(c).tolist() for c in (covariance, before)]
    assert radii[0] == pytest.approx(radii[1], rel=0.05)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 2.5), (2.0, 0.7, 1.5)])
def test_random_matrices_rotate_in_millimetres(spacing: tuple[float, float, float]) -> None:
    config = with_keys(STILL, rotation_degrees=(30, 20, 10))
    matrices = random_matrices(20, config, spacing, generator())
    mm = torch.tensor(spacing)
    turns = matrices * mm[:, None] / mm
    assert torch.allclose(turns @ turns.mT, torch.eye(3).expand(20, 3, 3), atol=1e-5)
    assert not torch.allclose(matrices @ matrices.mT, torch.eye(3).expand(20, 3, 3), atol=0.1)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_change_geometry_moves_nothing_across_thick_slices(axis: int) -> None:
    spacing = [1.5, 1.5, 1.5]
    spacing[axis] = 10.0
    patch = tuple(6 if a == axis else 24 for a in range(3))
    volume = region(patch, channels=1)
    slices = torch.arange(volume.shape[2 + axis]).float()
    shape = [1] * 5
    shape[2 + axis] = -1
    volume[:] = slices.reshape(shape)
    found = change_geometry(
        volume, patch, with_keys(WILD, flip_axes=()), generator(2), tuple(spacing)
    )
    middle = [slice(10, 14)] * 3
    middle[axis] = slice(None)
    kept = centre(volume, patch)[(..., *middle)]
    assert torch.allclose(found[(..., *middle)], kept, atol=1e-4)
    noise = region(patch, channels=1)
    moved = change_geometry(noise, patch, WILD, generator(2), tuple(spacing))
    assert (moved - centre(noise, patch)).abs().mean() > 0.1, "within the slices, everything moves"


def test_random_matrices_rotate_two_thick_axes_into_each_other_only() -> None:
    matrices = random_matrices(20, WILD, (1.0, 8.0, 8.0), generator())
    assert not matrices[:, 0, 1:].any()
    assert not matrices[:, 1:, 0].any()
    assert matrices[:, 1, 2].abs().max() > 0.1


def test_patches_that_do_not_turn_have_the_voxels_of_the_region() -> None:
    patch, volume = (8, 6, 7), region((8, 6, 7), batch=12)
    config = with_keys(WILD, affine_probability=0.5, elastic_probability=0.3, flip_axes=(1,))
    changes = draw_geometry(12, patch, config, generator(1))
    found = change_geometry(volume, patch, config, generator(1))
    still = [change.matrix is None and change.displacements is None for change in changes]
    assert 2 <= sum(still) <= 10
    for index, change in enumerate(changes):
        plain = centre(volume, patch)[index].flip([axis + 1 for axis in change.mirrored])
        assert torch.equal(found[index], plain) == still[index]
