"""Cross-scale consistency (CSC): what the network says must not depend on the resolution of its input.

The EMA teacher sees a patch as it is; the student sees the same field of view at another scale. Its probabilities,
brought back to the teacher's grid, and its deep features at matched positions must agree with the teacher's. The loss
needs no label. Voxels on which the two differ most count least (the rectifier exp(-KL) of URPC, Luo et al. 2021).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.losses import EPSILON, soft_dice
from hstf.models.hybrid import HybridNet, Pyramid


def consistency(
    student: HybridNet, teacher: Pyramid, image: Tensor, zoom: float, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """Prediction and feature consistency of ``student`` at scale ``zoom`` with ``teacher`` at scale 1.

    Args:
        teacher: the EMA network's answer (no gradient) to the unzoomed patch.
        image: ``(B, C, D, H, W)``, the student's strong view of the same field.
        zoom: scale of the student's view; the nearest that the network's divisor allows is taken on each axis.
        valid: ``(B, 1, D, H, W)``, in 0..1, where the patch lies inside the scan.
    """
    size = zoomed_size(image.shape[2:], zoom, student.divisor)
    zoomed = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    true_zoom = (math.prod(size) / math.prod(image.shape[2:])) ** (1 / 3)
    answer = student.pyramid(zoomed, true_zoom)
    logits = F.interpolate(
        answer.logits[0].float(), size=image.shape[2:], mode="trilinear", align_corners=False
    )
    return (
        prediction_consistency(logits, teacher.logits[0].float(), valid),
        feature_consistency(answer.features, teacher.features),
    )


def zoomed_size(shape: torch.Size, zoom: float, divisor: tuple[int, int, int]) -> tuple[int, int, int]:
    """``shape`` times ``zoom``, to the nearest multiple of ``divisor``.

    An axis with two voxels or more at the deepest level keeps two, for instance norm cannot norm a single voxel.
    """
    least = [min(2, n // d) for n, d in zip(shape, divisor, strict=True)]
    return tuple(d * max(m, round(n * zoom / d)) for n, d, m in zip(shape, divisor, least, strict=True))  # type: ignore[return-value]


def prediction_consistency(logits: Tensor, teacher_logits: Tensor, valid: Tensor) -> Tensor:
    """Rectified KL(teacher || student) plus Dice loss, both weighted by exp(-KL). Logits ``(B, K, D, H, W)``."""
    log_p, log_t = logits.log_softmax(1), teacher_logits.log_softmax(1)
    divergence = (log_t.exp() * (log_t - log_p)).sum(1, keepdim=True)
    trust = torch.exp(-divergence).detach() * valid
    kl = (divergence * trust).sum() / trust.sum().clamp_min(EPSILON)
    return kl + soft_dice(log_p.exp(), log_t.exp(), trust)


def feature_consistency(features: Tensor, teacher_features: Tensor) -> Tensor:
    """Mean 1 - cosine of the features ``(B, C, d, h, w)`` at the same places of the field of view."""
    matched = F.interpolate(
        features.float(), size=teacher_features.shape[2:], mode="trilinear", align_corners=False
    )
    return (1 - F.cosine_similarity(matched, teacher_features.float(), dim=1)).mean()


def sigmoid_ramp(progress: float) -> float:
    """exp(-5 (1 - t)^2) for t in 0..1, then 1 (Laine and Aila 2017)."""
    return math.exp(-5 * (1 - min(1.0, progress)) ** 2)
