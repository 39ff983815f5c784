"""Self-training: the segmentation loss on labels and pseudo-labels, and cross-scale consistency (CSC) on all cases.

Labelled and pseudo-labelled patches may exchange boxes, and the pseudo-labels may be blended with what the EMA network
says as it gets better.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from hstf.config import Config
from hstf.csc import consistency, draw_zoom, sigmoid_ramp, zoomed_pyramid
from hstf.losses import pyramid_loss
from hstf.mixing import mix
from hstf.training.loop import Objective, Views
from hstf.training.state import TrainingState

BLEND_FROM, BLEND_TO = 0.3, 0.7  # shares of the steps between which the EMA network gains its say


def self_training(config: Config) -> Objective:
    """The objective; pseudo-labelled voxels count by their own weight times ``pseudo_weight``."""
    training, csc = config.student, config.student.csc
    levels = None if config.network.deep_supervision else 1

    def objective(state: TrainingState, views: Views) -> Mapping[str, Tensor]:
        views = mix(views, training.mixing)
        zoomed = csc.zoomed and state.step % csc.every == 0
        share = blend_share(state.step / training.steps, training.ema_blend)
        if share > 0 or (zoomed and csc.consistent):
            with torch.no_grad():
                teacher = state.ema.pyramid(views.weak)  # one pass for both uses
        if share > 0:
            views = blend(views, teacher.logits[0].float().softmax(1), share)
        weight = views.weight * torch.where(views.pseudo, training.pseudo_weight, 1.0)
        logits = state.network.pyramid(views.strong()).logits[:levels]
        terms = {"segmentation": pyramid_loss(logits, views.target, weight)}
        if zoomed:
            zoom = draw_zoom(csc.scale_range, views.generator)
            answer = zoomed_pyramid(state.network, views.strong(), zoom)
            if csc.segmentation_weight > 0:
                loss = pyramid_loss(answer.logits[:levels], views.target, weight)
                terms["zoomed_segmentation"] = csc.segmentation_weight * loss
            if csc.consistent:
                ramp = sigmoid_ramp(state.step / (csc.ramp * training.steps))
                parts = consistency(csc, answer, teacher, views.inside)
                terms |= {name: ramp * part for name, part in parts.items()}
        return terms

    return objective


def blend_share(progress: float, largest: float) -> float:
    """The EMA network's share in the target after ``progress`` of the steps: 0, then growing, then ``largest``."""
    return largest * min(1.0, max(0.0, (progress - BLEND_FROM) / (BLEND_TO - BLEND_FROM)))


def blend(views: Views, probabilities: Tensor, share: float) -> Views:
    """``views`` whose pseudo-labelled targets are blended with ``probabilities`` ``(B, K, D, H, W)``."""
    target = torch.lerp(views.target, views.inside * probabilities, share * views.pseudo)
    return replace(views, target=target)
