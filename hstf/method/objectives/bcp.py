"""Bidirectional copy-paste (BCP): labelled and unlabelled patches exchange boxes.

Bai et al., "Bidirectional copy-paste for semi-supervised medical image segmentation", CVPR 2023.
The EMA network labels the unlabelled patches. Then each patch gets a box of a patch of the other
kind (:mod:`hstf.training.mixing`). The loss of a step is

    L = L_seg(labelled voxels) + r(t) * lambda * L_seg(voxels with a label of the EMA network)

with the sigmoid ramp ``r`` over the training.

The paper keeps only the largest component of each predicted label, because its patches contain
nearly the whole organ. Here all components are kept: a patch may cut an organ into several parts,
and there may be several classes.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.method.objectives.ema_labels import label_of_ema
from hstf.method.objectives.mean_teacher import consistency_weight
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.mixing import mix
from hstf.training.state import TrainingState


def bcp(config: Config) -> Objective:
    """Return the objective of bidirectional copy-paste.

    Example:
        >>> objective = bcp(Config())
        >>> callable(objective)
        True
    """
    student = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        mixed = mix(label_with_ema(state, batch), student.mixing)
        logits = state.network.pyramid(mixed.strong()).logits
        weight = consistency_weight(student, state.step)
        labelled = loss(
            logits,
            mixed.target,
            mixed.weight * ~mixed.pseudo,
        )
        unlabelled = loss(
            logits,
            mixed.target,
            mixed.weight * mixed.pseudo,
        )
        return {"labelled": labelled, "unlabelled": weight * unlabelled}

    return objective


@torch.no_grad()
def label_with_ema(state: TrainingState, batch: Batch) -> Batch:
    """Replace the targets of the unlabelled patches by the hard label of the EMA network.

    Their weight becomes 1 inside the scan.
    """
    chosen = [index for index, flag in enumerate(batch.renewable) if flag]
    if not chosen:
        return batch
    labels = label_of_ema(state, batch)
    target = batch.target.clone()
    weight = batch.weight.clone()
    for label, index in zip(labels, chosen, strict=True):
        weight[index] = batch.inside[index]
        target[index] = label * weight[index]
    return replace(batch, target=target, weight=weight)
