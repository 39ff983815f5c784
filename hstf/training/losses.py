"""Segmentation losses with soft targets and a weight for each voxel. All are computed in float32."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.training.distributed import pooled

EPSILON = 1e-5
PRESENT = (
    0.1  # probability of a class in a voxel of a soft target from which on the target holds it
)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of logits ``(B, K, ...)``, class probabilities ``(B, K, ...)`` and voxel weights ``(B, 1, ...)``."""


def dice_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean of soft Dice loss and cross-entropy.

    Args:
        logits: ``(B, K, D, H, W)``.
        target: ``(B, K, D, H, W)``, class probabilities (one-hot for a hard label).
        weight: ``(B, 1, D, H, W)``, in 0..1; 0 leaves a voxel out.
    """
    logits = logits.float()
    return 0.5 * (
        cross_entropy(logits, target, weight) + soft_dice(logits.softmax(1), target, weight)
    )


def cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean cross-entropy against class probabilities; 0 where all weights are 0."""
    return weighted_mean(-(target * logits.log_softmax(1)).sum(1, keepdim=True), weight)


def soft_dice(probabilities: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """1 - Dice, pooled over the batch, mean of the foreground classes that the batch's target holds: those of which some
    voxel that counts has more than :data:`PRESENT`. The tails of a soft target make no class.

    The overlap is (|p| + |t| - |p - t|) / 2, which equals p t for hard targets and, for soft ones, is largest at p = t
    (Dice semimetric loss, Wang et al. 2023).
    """
    return dice_loss(probabilities[:, 1:], target[:, 1:], weight)


def dice_loss(p: Tensor, t: Tensor, weight: Tensor) -> Tensor:
    """:func:`soft_dice` of all channels."""
    axes = (0, 2, 3, 4)
    sizes, differences = ((p + t) * weight).sum(axes), ((p - t).abs() * weight).sum(axes)
    size, difference, holding = pooled(
        sizes, differences, ((t > PRESENT) & (weight > 0)).sum(axes).to(p.dtype)
    )
    present = holding > 0
    dice = (size - difference + EPSILON) / (size + EPSILON)
    return (1 - torch.where(present, dice, 1.0)).sum() / present.sum().clamp_min(1)


def region_loss(
    logits: Tensor, target: Tensor, weight: Tensor, regions: Sequence[Sequence[int]]
) -> Tensor:
    """Mean of soft Dice loss and binary cross-entropy of ``regions``, given by the indices of their classes.

    The arguments are those of :func:`dice_cross_entropy`. A region's target is the sum over its classes.
    """
    odds, inside = region_log_odds(logits.float(), regions), region_sums(target, regions)
    outside = (
        target.sum(1, keepdim=True) - inside
    )  # not 1 - inside: a voxel may lie partly outside of the scan
    entropy = -(inside * F.logsigmoid(odds) + outside * F.logsigmoid(-odds)).mean(1, keepdim=True)
    return 0.5 * (weighted_mean(entropy, weight) + dice_loss(odds.sigmoid(), inside, weight))


def region_log_odds(logits: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Log-odds ``(B, R, ...)`` that a voxel is in each region: of its classes against all others, from ``(B, K, ...)``."""
    every = range(logits.shape[1])
    others = [[k for k in every if k not in members] for members in regions]
    odds = [
        _channels(logits, members).logsumexp(0) - _channels(logits, rest).logsumexp(0)
        for members, rest in zip(regions, others, strict=True)
    ]
    return torch.stack(odds, dim=1)


def region_sums(values: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Sums ``(B, R, ...)`` over the classes of each region, of ``values`` ``(B, K, ...)``."""
    return torch.stack([_channels(values, members).sum(0) for members in regions], dim=1)


def _channels(values: Tensor, indices: Sequence[int]) -> Tensor:
    """Channels ``(n, B, ...)`` of ``values`` ``(B, K, ...)``, picked without an index tensor that a GPU would wait for."""
    return torch.stack([values[:, k] for k in indices])


def pyramid_loss(
    logits: Sequence[Tensor], target: Tensor, weight: Tensor, loss: Loss = dice_cross_entropy
) -> Tensor:
    """Deep supervision: ``loss`` at every level, each coarser one with half the weight.

    Coarse targets are the weighted means of the fine ones, so that partial volume is kept.
    """
    factors = [0.5**level for level in range(len(logits))]
    total = torch.zeros((), device=target.device)
    for factor, level in zip(factors, logits, strict=True):
        coarse_weight = averaged(weight, level)
        coarse = averaged(target * weight, level) / coarse_weight.clamp_min(EPSILON)
        total = total + factor * loss(level, coarse, coarse_weight)
    return total / sum(factors)


def averaged(x: Tensor, like: Tensor) -> Tensor:
    """``x`` ``(B, C, D, H, W)`` averaged to the grid of ``like`` ``(B, K, d, h, w)`` over the same field of view."""
    return F.adaptive_avg_pool3d(x, (like.shape[2], like.shape[3], like.shape[4]))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean of ``values``; 0 where all weights are 0."""
    total, weights = pooled((values * weight).sum(), weight.sum())
    return total / weights.clamp_min(EPSILON)
