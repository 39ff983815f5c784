"""Mean teacher: on unlabelled images the student agrees with the moving average of itself.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017. The student sees the strong view, the EMA
network the weak one; the weight of their distance grows by a sigmoid ramp.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import StudentConfig
from hstf.method.csc import sigmoid_ramp
from hstf.method.objectives.supervision import segmentation_loss
from hstf.training.batch import Batch
from hstf.training.distributed import chosen_on_any_rank
from hstf.training.loop import Objective
from hstf.training.losses import weighted_mean
from hstf.training.state import TrainingState

Certainty = Callable[[TrainingState, Tensor, torch.Generator], Tensor]
"""Weights ``(B, 1, D, H, W)``, in 0..1, of what the EMA network says of the images ``(B, C, D, H, W)``."""


def mean_teacher(config: Config, certainty: Certainty | None = None) -> Objective:
    """The objective; without ``certainty`` the EMA network is believed everywhere inside the scan."""
    training = config.student
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        logits = state.network.pyramid(batch.strong()).logits
        terms = {"supervised": loss(logits, batch.target, batch.weight)}
        chosen = chosen_on_any_rank(batch.unlabelled)
        if chosen.any():
            weak, weight = batch.weak[chosen], batch.inside[chosen] * batch.pseudo[chosen]
            with torch.no_grad():
                teacher = state.ema(weak).float().log_softmax(1)
                if certainty is not None:
                    weight = weight * certainty(state, weak, batch.generator)
            apart = distance(
                logits[0][chosen].float().log_softmax(1), teacher, training.consistency.distance
            )
            terms["consistency"] = consistency_weight(training, state.step) * weighted_mean(
                apart, weight
            )
        return terms

    return objective


def distance(log_p: Tensor, log_t: Tensor, kind: str) -> Tensor:
    """``(B, 1, D, H, W)``: KL(t || p) (``kl``) or the mean squared difference of probabilities (``mse``)."""
    if kind == "kl":
        return F.kl_div(log_p, log_t, reduction="none", log_target=True).sum(1, keepdim=True)
    return (log_p.exp() - log_t.exp()).square().mean(1, keepdim=True)


def consistency_weight(training: StudentConfig, step: int) -> float:
    """The weight of what unlabelled images teach at ``step``."""
    section = training.consistency
    return section.weight * sigmoid_ramp(step / (section.ramp * training.steps))
