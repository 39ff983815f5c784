"""Self-training: segmentation loss on labels and pseudo-labels, and cross-scale consistency.

The loss of a step is

    L = L_seg + z L_zoom + r(t) (a L_pred + b L_feat + c L_pyr)

with the segmentation loss ``L_seg`` on labelled and pseudo-labelled voxels, the segmentation loss
``L_zoom`` of the patch at another scale, the three terms of cross-scale consistency
(:mod:`hstf.method.csc`) and the sigmoid ramp ``r`` over the training. The terms of another scale
are computed every few steps, because they cost another pass of the teacher and of the student.

Optionally, patches exchange boxes (:mod:`hstf.training.mixing`), and the label of the EMA network
takes the place of the pseudo-label. The pseudo-labels on disk are as good as the teacher that wrote
them; the EMA network becomes better during the training. As in bidirectional copy-paste
(:mod:`hstf.method.objectives.bcp`), it sees the patches before they exchange boxes. A label that a
reviewer has corrected or accepted is not replaced.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import StudentConfig
from hstf.imaging.spacing import axis_zooms
from hstf.method.csc import View, consistency_terms, draw_zoom, sigmoid_ramp, zoomed_pyramid
from hstf.method.objectives.ema_labels import label_of_ema
from hstf.method.objectives.supervision import DecoderLoss, segmentation_loss, segmentation_term
from hstf.models.base import Pyramid
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.mixing import mix
from hstf.training.state import TrainingState

BLEND_END = 0.5
"""Fraction of the steps after which the influence of the EMA network no longer grows."""


def self_training(config: Config) -> Objective:
    """Return the objective of self-training.

    Example:
        >>> objective = self_training(Config())
        >>> objective.config.csc.scale_range
        (0.7, 1.4)
    """
    return SelfTraining(config.student, segmentation_loss(config))


@dataclass(frozen=True)
class SelfTraining:
    """The objective of self-training; an instance is called with the state and the batch."""

    config: StudentConfig
    loss: DecoderLoss
    """The segmentation loss."""

    def __call__(self, state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        """Compute the terms of the loss of a step."""
        csc = self.config.csc
        zooms = csc.zoomed and state.step % csc.every == 0
        fraction = blend_fraction(state.step / self.config.steps, self.config.ema_blend)
        if fraction > 0 and any(batch.renewable):
            batch = blend_labels(batch, label_of_ema(state, batch), fraction)
        batch = mix(batch, self.config.mixing)
        teachers: list[Pyramid] = []
        if zooms and csc.consistent:
            with torch.no_grad():
                teachers = [part.pyramid(batch.weak) for part in state.ema.parts]
        # Voxels of a pseudo-label count by their own weight times `pseudo_weight`.
        weight = batch.weight * torch.where(
            batch.pseudo,
            self.config.pseudo_weight,
            1.0,
        )
        term = segmentation_term(
            state.network,
            batch.strong(),
            batch.target,
            weight,
            self.loss,
        )
        terms = {"segmentation": term}
        if zooms:
            terms.update(
                self._terms_at_another_scale(
                    state,
                    batch,
                    weight,
                    teachers,
                )
            )
        return terms

    def _terms_at_another_scale(
        self,
        state: TrainingState,
        batch: Batch,
        weight: Tensor,
        teachers: Sequence[Pyramid],
    ) -> dict[str, Tensor]:
        """Compute the segmentation loss and the consistency of the patch at a random scale."""
        csc = self.config.csc
        network = state.network
        zoom = draw_zoom(csc.scale_range, batch.generator)
        strong = batch.strong()
        view = View.draw(
            strong.shape[2:],
            axis_zooms(zoom, network.spec.spacing),
            network.divisor,
            batch.generator,
        )
        seen = view.crop(strong)
        limit = strong.shape[2:]
        students = [zoomed_pyramid(part, seen, zoom, limit) for part in network.parts]
        terms: dict[str, Tensor] = {}
        if csc.segmentation_weight > 0:
            target = view.crop(batch.target)
            weight = view.crop(weight)
            losses = [self.loss(student.logits, target, weight) for student in students]
            terms["zoomed_segmentation"] = csc.segmentation_weight * torch.stack(losses).sum()
        if csc.consistent:
            ramp = sigmoid_ramp(state.step / (csc.ramp * self.config.steps))
            # Each network of a pair is consistent with its own EMA network.
            for student, teacher in zip(students, teachers, strict=True):
                part_terms = consistency_terms(
                    csc,
                    student,
                    view.crop_teacher(teacher),
                    view.crop(batch.inside),
                )
                for name, term in part_terms.items():
                    terms[name] = terms.get(name, 0) + ramp * term
        return terms


def blend_fraction(progress: float, maximum: float) -> float:
    """Return the fraction of the EMA network in the targets.

    It grows linearly from 0, and is ``maximum`` from :data:`BLEND_END` on.

    Args:
        progress: fraction of the steps that are done, 0 to 1.
        maximum: fraction at the end of the training, 0 to 1.
    """
    return maximum * min(1.0, progress / BLEND_END)


def blend_labels(
    batch: Batch,
    labels: Tensor,
    fraction: float,
) -> Batch:
    """Blend the targets of pseudo-labelled voxels with other labels, which have weight 1.

    Voxels with weight 0 keep it: possible lesions and ignored voxels are not learned.

    Args:
        batch: the patches.
        labels: ``(U, K, D, H, W)``, one-hot labels of the patches that are marked in
            ``batch.renewable``.
        fraction: fraction of these labels in the new target, 0 to 1.
    """
    target = batch.target.clone()
    weight = batch.weight.clone()
    inside = batch.inside
    chosen = [index for index, flag in enumerate(batch.renewable) if flag]
    for label, index in zip(labels, chosen, strict=True):
        changed = fraction * batch.pseudo[index]
        used = inside[index] * (batch.weight[index] > 0)
        target[index] = torch.lerp(target[index], inside[index] * label.to(target.dtype), changed)
        weight[index] = torch.lerp(weight[index], used.to(weight.dtype), changed)
    return replace(batch, target=target, weight=weight)
