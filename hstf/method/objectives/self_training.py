"""Self-training: the segmentation loss on labels and pseudo-labels, and cross-scale consistency (CSC) on all cases.

Labelled and pseudo-labelled patches may exchange boxes, and the pseudo-labels may be blended with what the EMA network
says as it gets better. The two networks of a pair learn side by side, each consistent with its own EMA.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.method.csc import consistency, draw_zoom, sigmoid_ramp, zoomed_pyramid
from hstf.method.objectives.supervision import segmentation, segmentation_loss
from hstf.models.base import Pyramid
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.mixing import mix
from hstf.training.state import TrainingState

BLEND_FROM, BLEND_TO = 0.3, 0.7  # shares of the steps between which the EMA network gains its say


def self_training(config: Config) -> Objective:
    """The objective; pseudo-labelled voxels count by their own weight times ``pseudo_weight``."""
    training, csc = config.student, config.student.csc
    loss = segmentation_loss(config)

    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        batch = mix(batch, training.mixing)
        zoomed = csc.zoomed and state.step % csc.every == 0
        share = blend_share(state.step / training.steps, training.ema_blend)
        teachers = []
        if share > 0 or (zoomed and csc.consistent):
            with torch.no_grad():  # one pass for both uses
                teachers = [part.pyramid(batch.weak) for part in state.ema.parts]
        if share > 0:
            batch = blend(batch, mean_probabilities(teachers), share)
        weight = batch.weight * torch.where(batch.pseudo, training.pseudo_weight, 1.0)
        terms = {
            "segmentation": segmentation(state.network, batch.strong(), batch.target, weight, loss)
        }
        if zoomed:
            zoom, strong = draw_zoom(csc.scale_range, batch.generator), batch.strong()
            answers = [zoomed_pyramid(part, strong, zoom) for part in state.network.parts]
            if csc.segmentation_weight > 0:
                losses = [loss(answer.logits, batch.target, weight) for answer in answers]
                terms["zoomed_segmentation"] = csc.segmentation_weight * torch.stack(losses).sum()
            if csc.consistent:
                ramp = sigmoid_ramp(state.step / (csc.ramp * training.steps))
                for answer, teacher in zip(answers, teachers, strict=True):
                    for name, part in consistency(csc, answer, teacher, batch.inside).items():
                        terms[name] = terms.get(name, 0) + ramp * part
        return terms

    return objective


def mean_probabilities(answers: Sequence[Pyramid]) -> Tensor:
    """Mean over networks of their class probabilities ``(B, K, D, H, W)``."""
    return torch.stack([answer.logits[0].float().softmax(1) for answer in answers]).mean(0)


def blend_share(progress: float, largest: float) -> float:
    """The EMA network's share in the target after ``progress`` of the steps: 0, then growing, then ``largest``."""
    return largest * min(1.0, max(0.0, (progress - BLEND_FROM) / (BLEND_TO - BLEND_FROM)))


def blend(batch: Batch, probabilities: Tensor, share: float) -> Batch:
    """``batch`` whose pseudo-labelled targets are blended with ``probabilities`` ``(B, K, D, H, W)``."""
    target = torch.lerp(batch.target, batch.inside * probabilities, share * batch.pseudo)
    return replace(batch, target=target)
