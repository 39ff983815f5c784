"""Segmentation losses with soft targets and a weight for each voxel. All are computed in float32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.training.distributed import pooled

EPSILON = 1e-5


def dice_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean of soft Dice loss and cross-entropy.

    Args:
        logits: ``(B, K, D, H, W)``.
        target: ``(B, K, D, H, W)``, class probabilities (one-hot for a hard label).
        weight: ``(B, 1, D, H, W)``, in 0..1; 0 leaves a voxel out.
    """
    logits = logits.float()
    return 0.5 * (cross_entropy(logits, target, weight) + soft_dice(logits.softmax(1), target, weight))


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy against class probabilities; 0 where all weights are 0."""
    return weighted_mean(-(target * logits.log_softmax(1)).sum(1, keepdim=True), weight)


def soft_dice(probabilities: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - Dice, pooled over the batch, mean of the foreground classes that the batch's target holds.

    The overlap is (|p| + |t| - |p - t|) / 2, which equals p t for hard targets and, for soft ones, is largest at p = t
    (Dice semimetric loss, Wang et al. 2023).
    """
    p, t = probabilities[:, 1:], target[:, 1:]
    axes = (0, 2, 3, 4)
    sums = (((p + t) * weight).sum(axes), ((p - t).abs() * weight).sum(axes), (t * weight).sum(axes))
    size, difference, truth = pooled(*sums)
    present = truth > EPSILON
    dice = (size - difference + EPSILON) / (size + EPSILON)
    return (1 - torch.where(present, dice, 1.0)).sum() / present.sum().clamp_min(1)


def pyramid_loss(logits: Sequence[Tensor], target: Tensor, weight: Tensor) -> Tensor:
    """Deep supervision: :func:`dice_cross_entropy` at every level, each coarser one with half the weight.

    Coarse targets are the weighted means of the fine ones, so that partial volume is kept.
    """
    factors = [0.5**level for level in range(len(logits))]
    total = torch.zeros((), device=target.device)
    for factor, level in zip(factors, logits, strict=True):
        coarse_weight = averaged(weight, level)
        coarse = averaged(target * weight, level) / coarse_weight.clamp_min(EPSILON)
        total = total + factor * dice_cross_entropy(level, coarse, coarse_weight)
    return total / sum(factors)


def averaged(x: Tensor, like: Tensor) -> Tensor:
    """``x`` ``(B, C, D, H, W)`` averaged to the grid of ``like`` ``(B, K, d, h, w)`` over the same field of view."""
    return F.adaptive_avg_pool3d(x, (like.shape[2], like.shape[3], like.shape[4]))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values``; 0 where all weights are 0."""
    total, weights = pooled((values * weight).sum(), weight.sum())
    return total / weights.clamp_min(EPSILON)
