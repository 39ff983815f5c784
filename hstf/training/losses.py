"""Segmentation losses with soft targets and voxel weights, computed in float32."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.training.distributed import sum_over_ranks

EPSILON = 1e-5
PRESENT = 0.1
"""A soft target contains a class if a voxel has a probability above this value. The low
probabilities at the border of other classes do not count."""
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A loss of logits ``(B, K, ...)``, class probabilities ``(B, K, ...)`` and voxel weights
``(B, 1, ...)``."""


def dice_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compute the mean of soft Dice loss and cross-entropy.

    Args:
        logits: ``(B, K, D, H, W)``.
        target: ``(B, K, D, H, W)``, class probabilities (one-hot for a hard label).
        weight: ``(B, 1, D, H, W)``, 0 to 1; 0 leaves a voxel out.
    """
    logits = logits.float()
    entropy = cross_entropy(logits, target, weight)
    return 0.5 * (entropy + soft_dice(logits.softmax(1), target, weight))


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compute the weighted mean cross-entropy; 0 if all weights are 0.

    The arguments are those of :func:`dice_cross_entropy`.
    """
    entropy = -(target * logits.log_softmax(1)).sum(1, keepdim=True)
    return weighted_mean(entropy, weight)


def soft_dice(
    probabilities: Tensor,
    target: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compute the soft Dice loss of the foreground classes, pooled over the batch.

    The loss is the mean over the classes that the target of the batch contains (:data:`PRESENT`).
    The overlap of p and t is (sum p + sum t - sum abs(p - t)) / 2. It equals p t for hard targets,
    and for soft targets it is maximal at p = t (Dice semimetric loss, Wang et al. 2023).

    Args:
        probabilities: ``(B, K, D, H, W)``, background first.
        target: ``(B, K, D, H, W)``, class probabilities.
        weight: ``(B, 1, D, H, W)``, 0 to 1.
    """
    return dice_loss(probabilities[:, 1:], target[:, 1:], weight)


def dice_loss(
    p: Tensor,
    t: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compute :func:`soft_dice` over all channels."""
    axes = (0, 2, 3, 4)
    sizes = ((p + t) * weight).sum(axes)
    differences = ((p - t).abs() * weight).sum(axes)
    counted = ((t > PRESENT) & (weight > 0)).sum(axes).to(p.dtype)
    size, difference, count = sum_over_ranks(sizes, differences, counted)
    present = count > 0
    dice = (size - difference + EPSILON) / (size + EPSILON)
    return (1 - torch.where(present, dice, 1.0)).sum() / present.sum().clamp_min(1)


def region_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    regions: Sequence[Sequence[int]],
) -> Tensor:
    """Compute the mean of soft Dice loss and binary cross-entropy of overlapping regions.

    The target of a region is the sum over its classes. The first three arguments are those of
    :func:`dice_cross_entropy`.

    Args:
        logits: logits of the classes.
        target: class probabilities.
        weight: voxel weights.
        regions: indices of the classes of each region.
    """
    odds = region_log_odds(logits.float(), regions)
    inside = region_sums(target, regions)
    # 1 - inside would be wrong for voxels that are partly outside the scan.
    outside = target.sum(1, keepdim=True) - inside
    entropy = -(inside * F.logsigmoid(odds) + outside * F.logsigmoid(-odds)).mean(1, keepdim=True)
    return 0.5 * (weighted_mean(entropy, weight) + dice_loss(odds.sigmoid(), inside, weight))


def region_log_odds(logits: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Compute the log-odds ``(B, R, ...)`` of each region from class logits ``(B, K, ...)``.

    They are the log-odds of the classes of the region against all other classes.
    """
    odds = []
    for classes in regions:
        others = [index for index in range(logits.shape[1]) if index not in classes]
        inside = _channels(logits, classes).logsumexp(0)
        odds.append(inside - _channels(logits, others).logsumexp(0))
    return torch.stack(odds, dim=1)


def region_sums(values: Tensor, regions: Sequence[Sequence[int]]) -> Tensor:
    """Sum ``values`` ``(B, K, ...)`` over the classes of each region, to ``(B, R, ...)``."""
    return torch.stack([_channels(values, classes).sum(0) for classes in regions], dim=1)


def _channels(values: Tensor, indices: Sequence[int]) -> Tensor:
    """Return channels ``(n, B, ...)`` of ``values`` ``(B, K, ...)``.

    An index tensor would make the CPU wait for the GPU.
    """
    return torch.stack([values[:, k] for k in indices])


def pyramid_loss(
    logits: Sequence[Tensor],
    target: Tensor,
    weight: Tensor,
    loss: Loss = dice_cross_entropy,
) -> Tensor:
    """Compute the weighted mean loss over the levels of a decoder (deep supervision).

    Each coarser level has half the weight of the level before. Coarse targets are weighted means of
    the fine ones, so that partial volume is kept.

    Args:
        logits: ``(B, K, D/s, H/s, W/s)`` of each level, finest first.
        target: ``(B, K, D, H, W)``, class probabilities.
        weight: ``(B, 1, D, H, W)``, 0 to 1.
        loss: the loss of a level.
    """
    factors = [0.5**level for level in range(len(logits))]
    total = torch.zeros((), device=target.device)
    for factor, level in zip(factors, logits, strict=True):
        coarse_weight = averaged(weight, level)
        coarse = averaged(target * weight, level) / coarse_weight.clamp_min(EPSILON)
        total = total + factor * loss(level, coarse, coarse_weight)
    return total / sum(factors)


def averaged(x: Tensor, like: Tensor) -> Tensor:
    """Average ``x`` ``(B, C, D, H, W)`` to the grid of ``like`` ``(B, K, d, h, w)``.

    Both grids cover the same field of view.
    """
    return F.adaptive_avg_pool3d(x, (like.shape[2], like.shape[3], like.shape[4]))


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Compute the weighted mean of ``values`` over all ranks; 0 if all weights are 0."""
    total, weights = sum_over_ranks((values * weight).sum(), weight.sum())
    return total / weights.clamp_min(EPSILON)
