"""Supervised learning: Dice loss and cross-entropy at every level of the decoder.

The loss of a level is the mean of the soft Dice loss and the cross-entropy; for overlapping regions
the binary cross-entropy of each region. Each coarser level of the decoder has half the weight of
the level before (deep supervision; see :mod:`hstf.training.losses`). The warm-up learns from this
loss only, and all other objectives use it for labelled voxels.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.models.base import SegmentationNetwork
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.losses import Loss, dice_cross_entropy, pyramid_loss, region_loss
from hstf.training.mixing import mix
from hstf.training.state import TrainingState

DecoderLoss = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]
"""A loss of the logits ``(B, K, D/s, H/s, W/s)`` of the decoder levels, finest first, the target
``(B, K, D, H, W)`` and the voxel weights ``(B, 1, D, H, W)``."""


def supervised(config: Config) -> Objective:
    """Return the objective of the warm-up.

    Example:
        >>> objective = supervised(Config())
        >>> callable(objective)
        True
    """
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        mixed = mix(batch, config.warmup.mixing)
        term = segmentation_term(
            state.network,
            mixed.strong(),
            mixed.target,
            mixed.weight,
            loss,
        )
        return {"supervised": term}

    return objective


def segmentation_loss(config: Config) -> DecoderLoss:
    """Return the segmentation loss of an experiment.

    It is computed on the regions, if there are any, and only on the finest level of the decoder if
    ``network.deep_supervision`` is off.
    """
    levels = None if config.network.deep_supervision else 1
    level_loss: Loss = dice_cross_entropy
    if config.heads:
        level_loss = partial(region_loss, regions=config.heads)

    def loss(
        logits: Sequence[Tensor],
        target: Tensor,
        weight: Tensor,
    ) -> Tensor:
        return pyramid_loss(
            logits[:levels],
            target,
            weight,
            level_loss,
        )

    return loss


def segmentation_term(
    network: SegmentationNetwork,
    image: Tensor,
    target: Tensor,
    weight: Tensor,
    loss: DecoderLoss,
) -> Tensor:
    """Compute the segmentation loss, summed over the networks of a pair.

    Args:
        network: a network or a pair of networks, which learn independently.
        image: ``(B, C, D, H, W)``.
        target: ``(B, K, D, H, W)``, class probabilities.
        weight: ``(B, 1, D, H, W)``, 0 to 1.
        loss: the segmentation loss.
    """
    losses = [loss(part.pyramid(image).logits, target, weight) for part in network.parts]
    return torch.stack(losses).sum()
