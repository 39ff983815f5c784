"""Quarter turns of patches: exact, reproducible, and the same for image and label."""

import pytest
import torch
from support.augmentation_settings import STILL, generator, with_keys
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.imaging.regions import Box
from hstf.training.augmentations.quarter_turns import QuarterTurn, random_quarter_turns
from hstf.training.augmentations.spatial import GeometryChange, draw_geometry, region_size

CARDIAC = (1.5, 1.5, 10.0)
PATCH = (8, 12, 4)


def volume(channels: int = 1) -> Tensor:
    size = region_size(PATCH, quarter_turns=(2,))
    return torch.randn(channels, *size, generator=generator(1))


def cut(channels: Tensor, change: GeometryChange) -> Tensor:
    def part(box: Box) -> Tensor:
        return channels[:, *box]

    return change.apply(part, channels.shape[1:], PATCH)


def turned(quarters: int, spacing: tuple[float, float, float] = CARDIAC) -> GeometryChange:
    turns = (QuarterTurn(2, quarters),) if quarters else ()
    return GeometryChange((), None, None, turns, spacing)


def test_region_of_a_turned_patch_holds_the_patch_in_all_positions() -> None:
    assert region_size((8, 12, 4)) == (10, 16, 6)
    assert region_size((8, 12, 4), quarter_turns=(2,)) == (16, 16, 6)
    assert region_size((8, 12, 4), quarter_turns=(2, 0)) == (16, 16, 16)


@pytest.mark.parametrize(
    ("patch", "axes", "spacing"),
    [
        ((16, 8, 8), (0, 1), (1.0, 1.0, 1.0)),
        ((8, 8, 4), (2,), (1.0, 2.0, 8.0)),
        ((12, 8, 4), (0, 2), (1.0, 1.5, 4.0)),
    ],
)
def test_region_holds_a_patch_after_all_turns(
    patch: tuple[int, int, int],
    axes: tuple[int, ...],
    spacing: tuple[float, float, float],
) -> None:
    """Turns about two axes exchange all edges, and voxels may have different edges."""
    config = AugmentationConfig(quarter_turns=axes, affine_probability=0, elastic_probability=0)
    channels = torch.ones(1, *region_size(patch, axes, spacing))
    for change in draw_geometry(30, patch, config, generator(7), spacing):
        found = change.apply(lambda box: channels[:, *box], channels.shape[1:], patch)
        assert found.shape == (1, *patch)
        assert torch.allclose(found, torch.ones(1), atol=1e-4)


def test_two_turns_are_the_same_with_and_without_interpolation() -> None:
    patch = (8, 12, 10)
    channels = torch.randn(2, *region_size(patch, (0, 1)), generator=generator(3))
    turns = (QuarterTurn(0, 1), QuarterTurn(1, 3))
    found = []
    for matrix in (None, torch.eye(3)):
        change = GeometryChange((), matrix, None, turns)
        found.append(change.apply(lambda box: channels[:, *box], channels.shape[1:], patch))
    assert torch.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_patch_is_turned_without_interpolation(quarters: int) -> None:
    channels = volume()
    found = cut(channels, turned(quarters))
    whole = torch.rot90(channels, quarters, (1, 2))  # square in the plane
    starts = [(n - p) // 2 for n, p in zip(whole.shape[1:], PATCH, strict=True)]
    box = tuple(slice(s, s + p) for s, p in zip(starts, PATCH, strict=True))
    assert found.shape == (1, *PATCH)
    assert torch.equal(found, whole[:, *box])


@pytest.mark.parametrize("quarters", [1, 3])
def test_four_quarter_turns_are_the_identity(quarters: int) -> None:
    turn = QuarterTurn(2, quarters)
    channels = volume()
    found = channels
    for _ in range(4):
        found = turn.apply(found)
    assert torch.equal(found, channels)
    matrix = torch.linalg.matrix_power(turn.matrix((1.0, 2.0, 5.0)), 4)
    assert torch.allclose(matrix, torch.eye(3))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [(), (0,), (1, 2)])
def test_interpolated_turn_is_the_exact_one(
    axis: int, quarters: int, mirrored: tuple[int, ...]
) -> None:
    """With a rotation by 0 degrees the patch is interpolated: at the same positions."""
    patch = (8, 8, 8)
    channels = torch.randn(2, *region_size(patch), generator=generator(3))
    found = []
    for matrix in (None, torch.eye(3)):
        change = GeometryChange(mirrored, matrix, None, (QuarterTurn(axis, quarters),))
        found.append(change.apply(lambda box: channels[:, *box], channels.shape[1:], patch))
    exact, interpolated = found
    assert torch.allclose(exact, interpolated, atol=1e-5)


def test_turn_in_a_plane_with_other_edges_is_in_millimetres() -> None:
    """Voxels of 1 x 2 mm: an object of 8 x 4 mm becomes one of 4 x 8 mm."""
    patch = (16, 16, 1)
    channels = torch.zeros(1, *region_size(patch, (2,)))
    x, y = (n // 2 for n in channels.shape[1:3])
    channels[:, x - 4 : x + 4, y - 1 : y + 1] = 1  # 8 voxels of 1 mm, 2 voxels of 2 mm
    change = GeometryChange((), None, None, (QuarterTurn(2, 1),), (1.0, 2.0, 10.0))
    assert not change.keeps_voxels
    found = change.apply(lambda box: channels[:, *box], channels.shape[1:], patch)[0, :, :, 0]
    inside = (found > 0.5).nonzero()
    assert (inside.amax(0) - inside.amin(0) + 1).tolist() == [4, 4]


def test_image_and_label_stay_together() -> None:
    """Four channels with the same content remain equal, whatever is drawn."""
    config = AugmentationConfig(quarter_turns=(2,), affine_probability=0.5, elastic_probability=0.3)
    channels = volume().repeat(4, 1, 1, 1)
    changes = draw_geometry(20, PATCH, config, generator(5), CARDIAC)
    assert len({change.turns for change in changes}) == 4, "no turn, 90, 180 and 270 degrees"
    for change in changes:
        found = cut(channels, change)
        assert all(torch.equal(found[0], other) for other in found[1:])


def test_turns_are_drawn_last_and_only_if_asked_for() -> None:
    """Trainings without quarter turns have the same random numbers as before."""
    plain = draw_geometry(6, PATCH, STILL, generator(7), CARDIAC)
    turning = draw_geometry(6, PATCH, with_keys(STILL, quarter_turns=(2,)), generator(7), CARDIAC)
    for before, after in zip(plain, turning, strict=True):
        assert before.mirrored == after.mirrored
        assert before.matrix is not None and after.matrix is not None
        assert torch.equal(before.matrix, after.matrix)
        assert before.turns == ()
    again = draw_geometry(6, PATCH, with_keys(STILL, quarter_turns=(2,)), generator(7), CARDIAC)
    assert [change.turns for change in turning] == [change.turns for change in again]


def test_all_positions_are_equally_likely() -> None:
    turns = random_quarter_turns(4000, (2,), generator())
    for quarters in range(1, 4):
        count = sum(found == (QuarterTurn(2, quarters),) for found in turns)
        assert 900 < count < 1100
    assert 900 < turns.count(()) < 1100


def test_planned_axes_fill_only_keys_that_are_null() -> None:
    free = AugmentationConfig().planned((0, 1), (2,))
    assert (free.flip_axes, free.quarter_turns) == ((0, 1), (2,))
    chosen = AugmentationConfig(flip_axes=(), quarter_turns=()).planned((0, 1), (2,))
    assert (chosen.flip_axes, chosen.quarter_turns) == ((), ())
    assert AugmentationConfig().mirrored_axes == (0,)
