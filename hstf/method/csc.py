"""Cross-scale consistency (CSC): what the network says must not depend on the resolution of its input.

The EMA teacher sees a patch as it is; the student sees the same field of view at another scale. Its probabilities,
brought back to the teacher's grid, its deep features at matched positions and its coarser decoder levels must agree with
the teacher's. The loss needs no label. Voxels on which the two differ most count least (the rectifier exp(-KL) of URPC,
Luo et al. 2021, which also is where the agreement of the decoder's levels comes from).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import CscConfig
from hstf.imaging.spacing import axis_zooms
from hstf.models.base import Pyramid, SegmentationNetwork
from hstf.training.distributed import from_first_rank
from hstf.training.losses import EPSILON, averaged, soft_dice, weighted_mean


def zoomed_pyramid(student: SegmentationNetwork, image: Tensor, zoom: float) -> Pyramid:
    """What ``student`` says of ``image`` ``(B, C, D, H, W)`` at scale ``zoom``, the finest logits on the grid of ``image``.

    Each axis takes the nearest scale that the network's divisor allows, and the network is told which that is.
    """
    shape, size = (
        image.shape[2:],
        zoomed_size(image.shape[2:], axis_zooms(zoom, student.spec.spacing), student.divisor),
    )
    zoomed = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    answer = student.pyramid(
        zoomed, tuple(after / before for after, before in zip(size, shape, strict=True))
    )
    finest = F.interpolate(
        answer.logits[0].float(), size=shape, mode="trilinear", align_corners=False
    )
    return Pyramid([finest, *answer.logits[1:]], answer.features)


def zoomed_size(
    shape: Sequence[int], zoom: Sequence[float], divisor: Sequence[int]
) -> tuple[int, int, int]:
    """``shape`` times ``zoom``, to the nearest multiple of ``divisor``.

    An axis with two voxels or more at the deepest level keeps two, for instance norm cannot norm a single voxel.
    """
    return tuple(
        d * max(min(2, n // d), round(n * z / d))
        for n, z, d in zip(shape, zoom, divisor, strict=True)
    )  # type: ignore[return-value]


def consistency(
    config: CscConfig, answer: Pyramid, teacher: Pyramid, valid: Tensor
) -> dict[str, Tensor]:
    """The parts of the loss that count, each times its weight.

    Args:
        answer: of the student, by :func:`zoomed_pyramid`.
        teacher: the EMA network's answer (no gradient) to the unzoomed patch.
        valid: ``(B, 1, D, H, W)``, in 0..1, where the patch lies inside the scan.
    """
    log_p, log_t = answer.logits[0].float().log_softmax(1), teacher.logits[0].float().log_softmax(1)
    terms = {}
    if config.prediction_weight > 0:
        predictions = prediction_consistency(log_p, log_t, valid)
        terms["csc_predictions"] = config.prediction_weight * predictions
    if config.feature_weight > 0:
        trust = rectified_divergence(log_p.detach(), log_t, valid)[1]
        features = feature_consistency(answer.features, teacher.features, trust)
        terms["csc_features"] = config.feature_weight * features
    if config.pyramid_weight > 0 and len(answer.logits) > 1:
        levels = pyramid_consistency(answer.logits[1:], log_t.exp(), valid)
        terms["csc_pyramid"] = config.pyramid_weight * levels
    return terms


def rectified_divergence(log_p: Tensor, log_t: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """KL(t || p) of each voxel of log-probabilities ``(B, K, D, H, W)``, and its weight exp(-KL) times ``valid``."""
    divergence = (log_t.exp() * (log_t - log_p)).sum(1, keepdim=True)
    return divergence, torch.exp(-divergence).detach() * valid


def prediction_consistency(log_p: Tensor, log_t: Tensor, valid: Tensor) -> Tensor:
    """Rectified KL(t || p) plus Dice loss with the same weights, of log-probabilities ``(B, K, D, H, W)``."""
    divergence, trust = rectified_divergence(log_p, log_t, valid)
    return weighted_mean(divergence, trust) + soft_dice(log_p.exp(), log_t.exp(), trust)


def feature_consistency(features: Tensor, teacher_features: Tensor, trust: Tensor) -> Tensor:
    """Mean 1 - cosine of the features ``(B, C, d, h, w)`` at the same places of the field of view.

    Args:
        trust: weight of each place, on any grid ``(B, 1, D, H, W)`` over the same field.
    """
    size = teacher_features.shape[2:]
    matched = F.interpolate(features.float(), size=size, mode="trilinear", align_corners=False)
    distance = 1 - F.cosine_similarity(matched, teacher_features.float(), dim=1)
    return weighted_mean(distance[:, None], averaged(trust, teacher_features))


def pyramid_consistency(levels: Sequence[Tensor], teacher: Tensor, valid: Tensor) -> Tensor:
    """Mean over the coarser decoder levels of their rectified KL from the teacher's probabilities.

    Args:
        levels: logits ``(B, K, d, h, w)``, each on a grid of its own over the same field.
        teacher: probabilities ``(B, K, D, H, W)`` of the finest level, averaged to each of these grids, so that partial
            volume is kept.
    """
    terms = []
    for level in levels:
        weight = averaged(valid, level)
        target = averaged(teacher * valid, level) / weight.clamp_min(EPSILON)
        log_t = target.clamp_min(EPSILON).log()
        terms.append(
            weighted_mean(*rectified_divergence(level.float().log_softmax(1), log_t, weight))
        )
    return torch.stack(terms).mean()


def draw_zoom(scale_range: tuple[float, float], generator: torch.Generator) -> float:
    """A scale drawn log-uniformly: one for all ranks, which would else wait for the one with the largest."""
    low, high = (math.log(s) for s in scale_range)
    zoom = math.exp(
        low + (high - low) * float(torch.rand(1, generator=generator, device=generator.device))
    )
    return from_first_rank(zoom)


def sigmoid_ramp(progress: float) -> float:
    """exp(-5 (1 - t)^2) for t in 0..1, then 1 (Laine and Aila 2017)."""
    return math.exp(-5 * (1 - min(1.0, progress)) ** 2)
