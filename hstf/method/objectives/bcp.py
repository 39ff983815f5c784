"""Bidirectional copy-paste: labelled and unlabelled patches exchange boxes; the EMA network labels the unlabelled ones.

Bai et al., "Bidirectional copy-paste for semi-supervised medical image segmentation", CVPR 2023. The paper keeps the largest
component of each label, of patches that hold nearly the whole organ; here the border of a patch may cut an organ into
parts that are all true, and there may be several classes, so that all of them are kept.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.method.objectives.cross_teaching import hard
from hstf.method.objectives.mean_teacher import consistency_weight
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.mixing import mix
from hstf.training.state import TrainingState


def bcp(config: Config) -> Objective:
    """The objective: the loss on labelled voxels, and on those that the EMA network labelled, each a mean of its own."""
    training = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        batch = mix(labelled_by_ema(state, batch), training.mixing)
        logits = state.network.pyramid(batch.strong()).logits
        weight = consistency_weight(training, state.step)
        return {
            "labelled": loss(logits, batch.target, batch.weight * ~batch.pseudo),
            "unlabelled": weight * loss(logits, batch.target, batch.weight * batch.pseudo),
        }

    return objective


@torch.no_grad()
def labelled_by_ema(state: TrainingState, batch: Batch) -> Batch:
    """``batch`` with the EMA network's label of the unlabelled patches as their target, of weight 1 inside the scan."""
    chosen = batch.unlabelled
    if not chosen.any():
        return batch
    inside = batch.inside[chosen]
    target, weight = batch.target.clone(), batch.weight.clone()
    target[chosen] = hard(state.ema(batch.weak[chosen]).float()) * inside
    weight[chosen] = inside
    return replace(batch, target=target, weight=weight)
