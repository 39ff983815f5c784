"""Cross-teaching: on unlabelled images each of two networks learns the other's label.

Luo et al., "Semi-supervised medical image segmentation via cross teaching between CNN and transformer", MIDL 2022; the same
idea is at the heart of S4CVnet (Wang et al. 2022). Networks that differ make different mistakes.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.experiment import Config
from hstf.method.objectives.mean_teacher import consistency_weight
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch
from hstf.training.distributed import chosen_on_any_rank
from hstf.training.loop import Objective
from hstf.training.losses import soft_dice
from hstf.training.state import TrainingState


def cross_teaching(config: Config) -> Objective:
    """The objective, for networks of two ``parts``."""
    training = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        strong = batch.strong()
        first, second = (part.pyramid(strong).logits for part in state.network.parts)
        terms = {
            "supervised_first": loss(first, batch.target, batch.weight),
            "supervised_second": loss(second, batch.target, batch.weight),
        }
        chosen = chosen_on_any_rank(batch.unlabelled)
        if chosen.any():
            weight, inside = (
                consistency_weight(training, state.step),
                batch.inside[chosen] * batch.pseudo[chosen],
            )
            one, other = (logits[0][chosen].float().softmax(1) for logits in (first, second))
            terms["first_taught"] = weight * soft_dice(one, hard(other), inside)
            terms["second_taught"] = weight * soft_dice(other, hard(one), inside)
        return terms

    return objective


@torch.no_grad()
def hard(probabilities: Tensor) -> Tensor:
    """The likeliest class of each voxel, as ``(B, K, D, H, W)`` zeros and ones."""
    return (
        F.one_hot(probabilities.argmax(1), probabilities.shape[1])
        .movedim(-1, 1)
        .to(probabilities.dtype)
    )
