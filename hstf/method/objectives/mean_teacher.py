"""Mean teacher: on unlabelled images the student agrees with the moving average of its weights.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017. The student sees a
strongly augmented patch and the EMA network the weakly augmented one. The loss of a step is

    L = L_seg + r(t) * lambda * mean of w d(student, teacher)

with the segmentation loss on labelled patches, the sigmoid ramp ``r`` over the training, and the
distance ``d`` of the probabilities (mean squared difference or KL divergence) at each voxel. The
voxel weight ``w`` is 1 inside the scan; :mod:`hstf.method.objectives.uamt` uses another one.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import StudentConfig
from hstf.method.csc import sigmoid_ramp
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch, patches
from hstf.training.distributed import chosen_on_any_rank
from hstf.training.loop import Objective
from hstf.training.losses import weighted_mean
from hstf.training.state import TrainingState

CertaintyWeights = Callable[[TrainingState, Tensor, torch.Generator], Tensor]
"""Returns voxel weights ``(B, 1, D, H, W)``, 0 to 1, for the prediction of the EMA network on
images ``(B, C, D, H, W)``."""


def mean_teacher(config: Config, certainty: CertaintyWeights | None = None) -> Objective:
    """Return the objective of mean teacher.

    Args:
        config: configuration of the experiment.
        certainty: weights of the voxels; None for weight 1 everywhere inside the scan.

    Example:
        >>> objective = mean_teacher(Config())
        >>> callable(objective)
        True
    """
    student = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        strong = batch.strong()
        logits = state.network.pyramid(strong).logits
        terms = {"supervised": loss(logits, batch.target, batch.weight)}
        chosen = chosen_on_any_rank(batch.unlabelled, strong.device)
        if not any(chosen):
            return terms
        weak = patches(batch.weak, chosen)
        weight = patches(batch.inside * batch.pseudo, chosen)
        with torch.no_grad():
            log_t = state.ema(weak).float().log_softmax(1)
            if certainty is not None:
                weight = weight * certainty(state, weak, batch.generator)
        log_p = patches(logits[0], chosen).float().log_softmax(1)
        distance = prediction_distance(
            log_p,
            log_t,
            student.consistency.distance,
        )
        ramp = consistency_weight(student, state.step)
        terms["consistency"] = ramp * weighted_mean(distance, weight)
        return terms

    return objective


def prediction_distance(
    log_p: Tensor,
    log_t: Tensor,
    kind: str,
) -> Tensor:
    """Compute the distance of two predictions at each voxel.

    Args:
        log_p: ``(B, K, D, H, W)``, log-probabilities of the student.
        log_t: ``(B, K, D, H, W)``, log-probabilities of the teacher.
        kind: ``kl`` for KL(t || p), ``mse`` for the mean squared difference of the probabilities.

    Returns:
        ``(B, 1, D, H, W)``.
    """
    if kind == "kl":
        return F.kl_div(
            log_p,
            log_t,
            reduction="none",
            log_target=True,
        ).sum(1, keepdim=True)
    return (log_p.exp() - log_t.exp()).square().mean(1, keepdim=True)


def consistency_weight(student: StudentConfig, step: int) -> float:
    """Return the weight of the loss on unlabelled images at ``step``, with its sigmoid ramp."""
    section = student.consistency
    return section.weight * sigmoid_ramp(step / (section.ramp * student.steps))
