"""Learning from targets: Dice and cross-entropy at every decoder level."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hstf.config import Config
from hstf.losses import pyramid_loss
from hstf.mixing import mix
from hstf.models.base import SegmentationNetwork
from hstf.training.loop import Objective, Views
from hstf.training.state import TrainingState


def supervised(config: Config) -> Objective:
    """The objective of the warm-up."""
    levels = None if config.network.deep_supervision else 1

    def objective(state: TrainingState, views: Views) -> Mapping[str, Tensor]:
        views = mix(views, config.warmup.mixing)
        return {"supervised": segmentation(state.network, views.strong(), views.target, views.weight, levels)}

    return objective


def segmentation(
    network: SegmentationNetwork, image: Tensor, target: Tensor, weight: Tensor, levels: int | None
) -> Tensor:
    """The sum of :func:`pyramid_loss` over the parts of ``network``: the two of a pair learn each on its own.

    Args:
        levels: how many decoder levels count, finest first; none: all.
    """
    losses = [pyramid_loss(part.pyramid(image).logits[:levels], target, weight) for part in network.parts]
    return torch.stack(losses).sum()
