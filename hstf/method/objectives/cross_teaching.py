"""Cross-teaching: on unlabelled images each of two networks learns the prediction of the other.

Luo et al., "Semi-supervised medical image segmentation via cross teaching between CNN and
transformer", MIDL 2022. Networks of different kinds make different errors. With the hard labels
``y_1``, ``y_2`` that the networks predict, the loss of a step is

    L = L_seg(p_1) + L_seg(p_2) + r(t) * lambda * (Dice(p_1, y_2) + Dice(p_2, y_1))

with the segmentation loss on labelled patches and the sigmoid ramp ``r`` over the training. S4CVnet
(Wang et al., 2022) is built on the same idea.
"""

from collections.abc import Mapping

from torch import Tensor

from hstf.config.experiment import Config
from hstf.method.objectives.ema_labels import one_hot_label
from hstf.method.objectives.mean_teacher import consistency_weight
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch, patches
from hstf.training.distributed import chosen_on_any_rank
from hstf.training.loop import Objective
from hstf.training.losses import soft_dice
from hstf.training.state import TrainingState


def cross_teaching(config: Config) -> Objective:
    """Return the objective of cross-teaching. The network must be a pair.

    Example:
        >>> objective = cross_teaching(Config())
        >>> callable(objective)
        True
    """
    student = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        strong = batch.strong()
        first_network, second_network = state.network.parts
        first = first_network.pyramid(strong).logits
        second = second_network.pyramid(strong).logits
        terms = {
            "supervised_first": loss(first, batch.target, batch.weight),
            "supervised_second": loss(second, batch.target, batch.weight),
        }
        chosen = chosen_on_any_rank(batch.unlabelled, strong.device)
        if not any(chosen):
            return terms
        weight = consistency_weight(student, state.step)
        inside = patches(batch.inside * batch.pseudo, chosen)
        p_first = patches(first[0], chosen).float().softmax(1)
        p_second = patches(second[0], chosen).float().softmax(1)
        terms["first_taught"] = weight * soft_dice(
            p_first,
            one_hot_label(p_second),
            inside,
        )
        terms["second_taught"] = weight * soft_dice(
            p_second,
            one_hot_label(p_first),
            inside,
        )
        return terms

    return objective
