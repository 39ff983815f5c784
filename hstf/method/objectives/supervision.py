"""Learning from targets: Dice and cross-entropy, of classes or of regions, at every decoder level."""

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

LevelsLoss = Callable[[Sequence[Tensor], Tensor, Tensor], Tensor]
"""Of the logits of the decoder levels, finest first, and of target and weight of the finest."""


def supervised(config: Config) -> Objective:
    """The objective of the warm-up."""
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        batch = mix(batch, config.warmup.mixing)
        return {
            "supervised": segmentation(
                state.network, batch.strong(), batch.target, batch.weight, loss
            )
        }

    return objective


def segmentation_loss(config: Config) -> LevelsLoss:
    """The loss that an experiment trains with: of its regions where there are any, of the finest level alone without
    ``network.deep_supervision``."""
    levels = None if config.network.deep_supervision else 1
    of_level: Loss = (
        partial(region_loss, regions=config.heads) if config.heads else dice_cross_entropy
    )

    def loss(logits: Sequence[Tensor], target: Tensor, weight: Tensor) -> Tensor:
        return pyramid_loss(logits[:levels], target, weight, of_level)

    return loss


def segmentation(
    network: SegmentationNetwork, image: Tensor, target: Tensor, weight: Tensor, loss: LevelsLoss
) -> Tensor:
    """The sum of ``loss`` over the parts of ``network``: the two of a pair learn each on its own."""
    losses = [loss(part.pyramid(image).logits, target, weight) for part in network.parts]
    return torch.stack(losses).sum()
