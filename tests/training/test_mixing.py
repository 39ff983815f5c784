"""Bidirectional copy-paste: partners, boxes, and what is pasted."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.config.training import AugmentationConfig, MixingConfig
from hstf.training.batch import Batch
from hstf.training.mixing import choose_partners, mix, paste, random_box

ALWAYS = MixingConfig(probability=1.0)


def some_batch(
    pseudo: list[bool], shape: tuple[int, int, int] = (6, 9, 12), classes: int = 3
) -> Batch:
    """Return a batch in which every value encodes its patch and position."""
    count = len(pseudo)
    code = torch.arange(float(torch.tensor([count, *shape]).prod())).reshape(count, 1, *shape)
    target = torch.cat([code + k / 10 for k in range(classes)], dim=1)
    unlabelled = torch.tensor(pseudo)[:, None, None, None, None].expand_as(code)
    return Batch(
        code,
        target,
        code + 0.5,
        unlabelled,
        tuple(pseudo),
        AugmentationConfig(),
        torch.Generator().manual_seed(0),
    )


@pytest.mark.parametrize(
    "pseudo", [[False, True], [False, False, True], [False, True, True, True], [False, False]]
)
@pytest.mark.parametrize("classes", [2, 6])
def test_mix_moves_image_target_and_weight_together(pseudo: list[bool], classes: int) -> None:
    batch = some_batch(pseudo, classes=classes)
    mixed = mix(batch, ALWAYS)
    assert not torch.equal(mixed.weak, batch.weak)
    assert torch.equal(mixed.weight, mixed.weak + 0.5)
    assert torch.equal(
        mixed.target, torch.cat([mixed.weak + k / 10 for k in range(classes)], dim=1)
    )
    size = batch.weak[0].numel()
    patch, place = mixed.weak.div(size, rounding_mode="floor").long(), mixed.weak % size
    assert torch.equal(place, batch.weak % size), "a voxel keeps its position"
    assert torch.equal(mixed.pseudo, torch.tensor(pseudo)[patch])
    pasted = (patch != torch.arange(len(pseudo)).reshape(-1, 1, 1, 1, 1)).flatten(1)
    assert pasted.sum(1).tolist() == [4 * 6 * 8] * len(pseudo)
    assert (pasted == pasted[0]).all(), "one box for all"


def test_mix_swaps_the_same_box_of_both_halves() -> None:
    batch = some_batch([False, True])
    mixed = mix(batch, ALWAYS)
    box = batch.weak[0] != mixed.weak[0]
    for name in ("weak", "target", "weight", "pseudo"):
        before, after = getattr(batch, name), getattr(mixed, name)
        assert torch.equal(after[0], torch.where(box, before[1], before[0]))
        assert torch.equal(after[1], torch.where(box, before[0], before[1]))


def test_mix_does_not_change_its_argument() -> None:
    batch, again = some_batch([False, True]), some_batch([False, True])
    mix(batch, ALWAYS)
    assert torch.equal(batch.weak, again.weak)
    assert torch.equal(batch.target, again.target)


def test_mix_mixes_with_its_probability() -> None:
    batch = some_batch([False, True])
    found = [mix(batch, MixingConfig(probability=0.25)) is not batch for _ in range(400)]
    assert sum(found) / 400 == pytest.approx(0.25, abs=0.07)


def test_mix_draws_nothing_if_it_is_off() -> None:
    batch = some_batch([False, True])
    before = batch.generator.get_state()
    assert mix(batch, MixingConfig()) is batch
    assert torch.equal(batch.generator.get_state(), before)
    single = some_batch([True])
    assert mix(single, ALWAYS) is single


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=8))
def test_choose_partners_prefers_the_other_kind(unlabelled: list[bool]) -> None:
    found = choose_partners(unlabelled)
    assert len(found) == len(unlabelled)
    if len(set(unlabelled)) == 2:
        assert all(unlabelled[i] != unlabelled[j] for i, j in enumerate(found))
    else:
        assert sorted(i % len(unlabelled) for i in found) == list(range(len(unlabelled)))
        assert all(i != j % len(unlabelled) for i, j in enumerate(found))


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(1, 20)] * 3), st.floats(0.05, 0.95), st.integers(0, 100))
def test_random_box_is_inside_the_patch_and_has_its_fraction(
    shape: tuple[int, int, int], fraction: float, seed: int
) -> None:
    box = random_box(shape, fraction, torch.Generator().manual_seed(seed))
    for side, n in zip(box, shape, strict=True):
        assert 0 <= side.start < side.stop <= n
        assert side.stop - side.start == max(1, round(fraction * n))


def test_random_box_has_a_random_position() -> None:
    g = torch.Generator().manual_seed(0)
    starts = [[side.start for side in random_box((6, 6, 6), 2 / 3, g)] for _ in range(100)]
    assert all({start[axis] for start in starts} == {0, 1, 2} for axis in range(3))


def test_paste_copies_the_box_of_the_partner() -> None:
    x = torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(3, 1, 2, 2, 2)
    found = paste(x, [2, 0, 1], (slice(0, 1), slice(0, 2), slice(1, 2)))
    assert found[:, 0, 0, :, 1].tolist() == [[2, 2], [0, 0], [1, 1]]
    assert found[:, 0, 0, :, 0].tolist() == [[0, 0], [1, 1], [2, 2]]
    assert found[:, 0, 1].flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2]
