"""Losses against values computed by hand and against numpy."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hstf.training.losses import cross_entropy, dice_cross_entropy, pyramid_loss, soft_dice

LOG3 = math.log(3)


def voxels(*rows: list[float]) -> Tensor:
    """Return ``(1, K, N, 1, 1)`` from one row per channel."""
    return torch.tensor(rows)[None, :, :, None, None]


def random_batch(
    seed: int, classes: int = 4, shape: tuple[int, ...] = (4, 6, 2)
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, soft targets and weights of two cases."""
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, *shape, generator=g)
    target = (3 * torch.randn(2, classes, *shape, generator=g)).softmax(1)
    return logits, target, torch.rand(2, 1, *shape, generator=g)


def reference_dice(p: np.ndarray, t: np.ndarray, w: np.ndarray) -> float:
    """Compute the mean of 1 - Dice over the foreground classes."""
    values = []
    for k in range(1, p.shape[1]):
        a, b = p[:, k], t[:, k]
        overlap = (np.minimum(a, b) * w[:, 0]).sum()  # (a + b - |a - b|) / 2
        values.append(1 - 2 * overlap / ((a + b) * w[:, 0]).sum())
    return float(np.mean(values))


def test_cross_entropy_equals_a_value_by_hand() -> None:
    logits = voxels([0.0, 0.0], [LOG3, LOG3])  # probabilities 1/4 and 3/4
    target, weight = voxels([0.0, 1.0], [1.0, 0.0]), voxels([1.0, 0.5])
    expected = -(math.log(0.75) + 0.5 * math.log(0.25)) / 1.5
    assert cross_entropy(logits, target, weight).item() == pytest.approx(expected, rel=1e-6)


def test_soft_dice_equals_a_value_by_hand() -> None:
    probabilities, target = voxels([0.25, 0.75], [0.75, 0.25]), voxels([0.0, 1.0], [1.0, 0.0])
    # sizes 1.75 + 0.5 * 0.25, differences 0.25 + 0.5 * 0.25: Dice 1.5 / 1.875
    assert soft_dice(probabilities, target, voxels([1.0, 0.5])).item() == pytest.approx(
        0.2, abs=1e-5
    )


@pytest.mark.parametrize("seed", range(3))
def test_dice_cross_entropy_agrees_with_numpy(seed: int) -> None:
    logits, target, weight = random_batch(seed)
    p, t, w = logits.softmax(1).numpy(), target.numpy(), weight.numpy()
    dice, entropy = reference_dice(p, t, w), float(-(t * np.log(p) * w).sum() / w.sum())
    assert soft_dice(logits.softmax(1), target, weight).item() == pytest.approx(dice, abs=1e-5)
    assert cross_entropy(logits, target, weight).item() == pytest.approx(entropy, rel=1e-5)
    assert dice_cross_entropy(logits, target, weight).item() == pytest.approx(
        (dice + entropy) / 2, abs=1e-5
    )


def test_soft_dice_is_zero_for_a_perfect_and_one_for_a_wrong_prediction() -> None:
    target = voxels([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    ones = voxels([1.0, 1.0, 1.0])
    assert soft_dice(target, target, ones).item() == pytest.approx(0, abs=1e-6)
    assert soft_dice(target[:, [1, 2, 0]], target, ones).item() == pytest.approx(1, abs=1e-4)


def test_pyramid_loss_ignores_voxels_of_weight_zero() -> None:
    logits, target, weight = random_batch(5)
    weight[:, :, :2] = 0
    logits.requires_grad_()
    loss = pyramid_loss([logits, logits[:, :, ::2, ::2, ::2]], target, weight)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, 1:2].any()  # row 0 is part of a coarse voxel whose weight is 0
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].abs().sum() > 0
    changed = torch.where(weight > 0, target, target.flip(1))
    assert pyramid_loss([logits], changed, weight).item() == pytest.approx(
        pyramid_loss([logits], target, weight).item(), rel=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 1))
def test_soft_dice_is_minimal_at_a_soft_target(seed: int, step: float) -> None:
    """The usual Dice of products is minimal at a hard prediction, this one at p = t."""
    logits, target, weight = random_batch(seed, classes=3, shape=(2, 2, 2))
    moved = (1 - step) * target + step * logits.softmax(1)
    assert soft_dice(target, target, weight).item() == pytest.approx(0, abs=1e-5)
    assert soft_dice(moved, target, weight) > soft_dice(target, target, weight)
    assert (
        cross_entropy(moved.log(), target, weight)
        >= cross_entropy(target.log(), target, weight) - 1e-6
    )


def test_soft_dice_leaves_out_absent_classes() -> None:
    p = voxels([0.25, 0.75], [0.5, 0.25], [0.25, 0.0])
    target = voxels([0.0, 1.0], [1.0, 0.0], [0.0, 0.0])  # no voxel of class 2
    of_class_1 = 1 - 2 * 0.5 / (0.5 + 0.25 + 1)
    assert soft_dice(p, target, voxels([1.0, 1.0])).item() == pytest.approx(of_class_1, abs=1e-5)


def test_soft_dice_leaves_out_classes_with_low_probability_or_weight() -> None:
    p = voxels([0.2, 0.7], [0.5, 0.2], [0.3, 0.1])
    tails = voxels([0.02, 0.97], [0.95, 0.0], [0.03, 0.03])
    of_class_1 = 1 - ((0.5 + 0.95 + 0.2) - (0.45 + 0.2)) / (0.5 + 0.95 + 0.2)
    assert soft_dice(p, tails, voxels([1.0, 1.0])).item() == pytest.approx(of_class_1, abs=1e-5)
    hidden = voxels([0.0, 0.0], [0.0, 1.0], [1.0, 0.0])  # class 2 where the weight is 0
    of_the_rest = 1 - ((0.2 + 1.0) - 0.8) / (0.2 + 1.0)
    assert soft_dice(p, hidden, voxels([0.0, 1.0])).item() == pytest.approx(of_the_rest, abs=1e-5)


def test_dice_cross_entropy_of_pure_background_is_cross_entropy() -> None:
    logits = voxels([0.0, 0.0], [LOG3, 0.0]).requires_grad_()
    target, ones = voxels([1.0, 1.0], [0.0, 0.0]), voxels([1.0, 1.0])
    loss = dice_cross_entropy(logits, target, ones)
    assert loss.item() == pytest.approx(-0.25 * (math.log(0.25) + math.log(0.5)), rel=1e-5)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1, 0] > 0, "the false positive gets less likely"


def test_pyramid_loss_without_any_weight_is_zero() -> None:
    logits, target, weight = random_batch(1)
    logits.requires_grad_()
    loss = pyramid_loss([logits], target, torch.zeros_like(weight))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.abs().max() < 1e-6


def test_pyramid_loss_halves_the_weight_of_each_coarser_level() -> None:
    logits, target, weight = random_batch(2)
    coarse_logits = torch.randn(2, 4, 2, 3, 1, generator=torch.Generator().manual_seed(0))
    blocks = (slice(None), slice(None), 2, 2, 3, 2, 1, 2)
    w = weight.numpy().reshape(2, 1, *blocks[2:])
    t = target.numpy().reshape(2, 4, *blocks[2:])
    coarse_w = w.mean((3, 5, 7))
    coarse_t = (t * w).sum((3, 5, 7)) / w.sum((3, 5, 7))
    fine = dice_cross_entropy(logits, target, weight)
    coarse = dice_cross_entropy(
        coarse_logits, torch.from_numpy(coarse_t), torch.from_numpy(coarse_w)
    )
    expected = (fine + 0.5 * coarse) / 1.5
    assert pyramid_loss([logits, coarse_logits], target, weight).item() == pytest.approx(
        expected.item(), rel=1e-5
    )
    assert pyramid_loss([logits], target, weight).item() == pytest.approx(fine.item(), rel=1e-5)


def test_dice_cross_entropy_is_computed_in_float32() -> None:
    logits, target, weight = random_batch(3)
    loss = dice_cross_entropy(logits.bfloat16(), target, weight)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(
        dice_cross_entropy(logits.bfloat16().float(), target, weight).item(), rel=1e-6
    )
