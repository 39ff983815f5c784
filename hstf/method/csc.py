"""Cross-scale consistency (CSC): the prediction must not depend on the scale of the image.

The EMA teacher sees a patch at scale 1. The student sees the same field of view at another scale;
if the anatomy appears larger, a box of the patch, so that it never computes more voxels than a
patch has. Let ``p`` be the student's probabilities, resampled to the teacher's grid, and ``t`` the
teacher's. At each voxel

    D = KL(t || p) = sum_k t_k log(t_k / p_k)        w = exp(-D) m

where ``m`` is 1 inside the scan and 0 in padding. No gradient flows through ``w``. The loss is the
weighted sum of three terms, and none of them needs a label:

- predictions: weighted mean of ``D`` plus the soft Dice loss of ``p`` and ``t``, weighted by ``w``;
- features: weighted mean of ``1 - cosine`` of the deep features at matched positions;
- decoder levels: the first part of the predictions for each coarser level of the decoder, with the
  teacher's probabilities averaged to its grid.

Voxels on which the two networks disagree strongly count least. This rectifier and the consistency
of the decoder levels come from URPC (Luo et al., MICCAI 2021).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import CscConfig
from hstf.imaging.spacing import Triple, axis_zooms
from hstf.models.base import Pyramid, SegmentationNetwork
from hstf.models.field_of_view import crop_features
from hstf.training.augmentations.draws import uniform_number
from hstf.training.distributed import from_first_rank
from hstf.training.losses import EPSILON, averaged, soft_dice, weighted_mean


@dataclass(frozen=True)
class View:
    """The box of a patch that the student sees at another scale."""

    shape: Triple
    """Voxels of the patch."""
    start: Triple
    """First voxel of the box."""
    size: Triple
    """Voxels of the box."""

    @classmethod
    def draw(
        cls,
        shape: Sequence[int],
        zoom: Sequence[float],
        divisor: Sequence[int],
        generator: torch.Generator,
    ) -> "View":
        """Draw the position of a box that has at most ``shape`` voxels after it is zoomed.

        All ranks get the same box.

        Args:
            shape: voxels of the patch.
            zoom: scale along each axis.
            divisor: total stride of the network. Borders of the box are multiples of it.
            generator: source of the random numbers.
        """
        size = view_size(shape, zoom, divisor)
        start = []
        for voxels, part, step in zip(shape, size, divisor, strict=True):
            places = (voxels - part) // step + 1
            place = int(torch.randint(places, (1,), generator=generator).numpy()[0])
            start.append(step * place)
        return cls(as_triple(shape), from_first_rank(as_triple(start)), size)

    def crop(self, x: Tensor) -> Tensor:
        """Return the box of ``x`` ``(B, C, *shape)``."""
        i, j, k = (slice(a, a + n) for a, n in zip(self.start, self.size, strict=True))
        return x[:, :, i, j, k]

    def crop_teacher(self, teacher: Pyramid) -> Pyramid:
        """Return the box of the finest logits and of the features of a prediction."""
        starts = [a / n for a, n in zip(self.start, self.shape, strict=True)]
        stops = [
            (a + part) / n for a, part, n in zip(self.start, self.size, self.shape, strict=True)
        ]
        features = crop_features(teacher.features, starts, stops)
        return Pyramid([self.crop(teacher.logits[0])], features)


def view_size(
    shape: Sequence[int],
    zoom: Sequence[float],
    divisor: Sequence[int],
) -> Triple:
    """Return the size of the maximum box that has at most ``shape`` voxels after it is zoomed.

    A box keeps two voxels at the deepest level of the network, and an axis with fewer is not
    cropped. If that is too large for the zoom, :func:`zoomed_size` limits the zoom.
    """
    size = []
    for voxels, factor, step in zip(shape, zoom, divisor, strict=True):
        minimum = 2 * step
        fitting = [
            part
            for part in range(voxels, minimum - 1, -step)
            if step * round(part * factor / step) <= voxels
        ]
        size.append(fitting[0] if fitting else min(voxels, minimum))
    return as_triple(size)


def zoomed_pyramid(
    student: SegmentationNetwork,
    image: Tensor,
    zoom: float,
    limit: Sequence[int] | None = None,
) -> Pyramid:
    """Predict an image at another scale.

    Each axis takes the nearest size that the network allows. The network is given the resulting
    zoom of each axis for its positions in millimetres. Coarse axes are not zoomed.

    Args:
        student: the network.
        image: ``(B, C, D, H, W)``.
        zoom: scale of the image that the network sees, relative to ``image``.
        limit: maximum voxels of the image that the network sees; None for no maximum.

    Returns:
        The network's prediction. The finest logits are resampled to the grid of ``image``.
    """
    shape = image.shape[2:]
    size = zoomed_size(
        shape,
        axis_zooms(zoom, student.spec.spacing),
        student.divisor,
        limit,
    )
    zoomed = F.interpolate(
        image,
        size=size,
        mode="trilinear",
        align_corners=False,
    )
    actual_zoom = tuple(after / before for after, before in zip(size, shape, strict=True))
    pyramid = student.pyramid(zoomed, actual_zoom)
    finest = F.interpolate(
        pyramid.logits[0].float(),
        size=shape,
        mode="trilinear",
        align_corners=False,
    )
    return Pyramid([finest, *pyramid.logits[1:]], pyramid.features)


def zoomed_size(
    shape: Sequence[int],
    zoom: Sequence[float],
    divisor: Sequence[int],
    limit: Sequence[int] | None = None,
) -> tuple[int, int, int]:
    """Return ``shape`` times ``zoom``, rounded to a multiple of ``divisor``, at most ``limit``.

    An axis with at least two voxels at the deepest level of the network keeps at least two:
    instance norm cannot normalise a single voxel.
    """
    size = []
    for voxels, factor, step in zip(shape, zoom, divisor, strict=True):
        minimum = min(2, voxels // step)
        size.append(step * max(minimum, round(voxels * factor / step)))
    if limit is not None:
        size = [min(edge, most) for edge, most in zip(size, limit, strict=True)]
    return as_triple(size)


def as_triple(values: Sequence[int]) -> Triple:
    """Return three numbers as a tuple."""
    depth, height, width = values
    return depth, height, width


def consistency_terms(
    config: CscConfig,
    student: Pyramid,
    teacher: Pyramid,
    valid: Tensor,
) -> dict[str, Tensor]:
    """Compute the terms of the loss, each multiplied by its weight.

    Terms with weight 0 are not computed.

    Args:
        config: section ``student.csc`` of the configuration.
        student: prediction of the zoomed patch, from :func:`zoomed_pyramid`.
        teacher: prediction of the same field of view at scale 1 by the EMA network, without
            gradient.
        valid: ``(B, 1, D, H, W)``, 0 to 1, the fraction of each voxel that is inside the scan.

    Example:
        >>> logits = torch.randn(1, 3, 8, 8, 8)
        >>> prediction = Pyramid([logits], features=torch.randn(1, 16, 2, 2, 2))
        >>> valid = torch.ones(1, 1, 8, 8, 8)
        >>> terms = consistency_terms(CscConfig(), prediction, prediction, valid)
        >>> [name for name, term in terms.items() if abs(term) < 1e-5]  # the same prediction twice
        ['csc_predictions', 'csc_features']
    """
    log_p = student.logits[0].float().log_softmax(1)
    log_t = teacher.logits[0].float().log_softmax(1)
    terms = {}
    if config.prediction_weight > 0:
        predictions = prediction_consistency(log_p, log_t, valid)
        terms["csc_predictions"] = config.prediction_weight * predictions
    if config.feature_weight > 0:
        _, weight = rectified_divergence(
            log_p.detach(),
            log_t,
            valid,
        )
        features = feature_consistency(
            student.features,
            teacher.features,
            weight,
        )
        terms["csc_features"] = config.feature_weight * features
    if config.pyramid_weight > 0 and len(student.logits) > 1:
        levels = pyramid_consistency(
            student.logits[1:],
            log_t.exp(),
            valid,
        )
        terms["csc_pyramid"] = config.pyramid_weight * levels
    return terms


def rectified_divergence(
    log_p: Tensor,
    log_t: Tensor,
    valid: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the divergence ``KL(t || p)`` and the weight ``exp(-KL)`` of each voxel.

    Args:
        log_p: ``(B, K, D, H, W)``, log-probabilities of the student.
        log_t: ``(B, K, D, H, W)``, log-probabilities of the teacher.
        valid: ``(B, 1, D, H, W)``, 0 to 1; a factor of the weight.

    Returns:
        Divergence and weight, both ``(B, 1, D, H, W)``. The weight has no gradient.
    """
    divergence = (log_t.exp() * (log_t - log_p)).sum(1, keepdim=True)
    weight = torch.exp(-divergence).detach() * valid
    return divergence, weight


def prediction_consistency(
    log_p: Tensor,
    log_t: Tensor,
    valid: Tensor,
) -> Tensor:
    """Compute the rectified divergence plus the Dice loss with the same weights.

    The arguments are those of :func:`rectified_divergence`.
    """
    divergence, weight = rectified_divergence(log_p, log_t, valid)
    dice = soft_dice(log_p.exp(), log_t.exp(), weight)
    return weighted_mean(divergence, weight) + dice


def feature_consistency(
    features: Tensor,
    teacher_features: Tensor,
    weight: Tensor,
) -> Tensor:
    """Compute the mean of ``1 - cosine`` of the features at the same positions.

    Args:
        features: ``(B, C, d, h, w)``, deep features of the student.
        teacher_features: ``(B, C, d', h', w')``, deep features of the teacher.
        weight: ``(B, 1, D, H, W)``, weight of each position, averaged to the grid of the teacher's
            features. All grids cover the same field of view.
    """
    size = teacher_features.shape[2:]
    matched = F.interpolate(
        features.float(),
        size=size,
        mode="trilinear",
        align_corners=False,
    )
    distance = 1 - F.cosine_similarity(
        matched,
        teacher_features.float(),
        dim=1,
    )
    return weighted_mean(distance[:, None], averaged(weight, teacher_features))


def pyramid_consistency(
    levels: Sequence[Tensor],
    teacher: Tensor,
    valid: Tensor,
) -> Tensor:
    """Compute the mean rectified divergence of the coarser decoder levels.

    Args:
        levels: logits ``(B, K, d, h, w)`` of each level. All grids cover the same field of view.
        teacher: ``(B, K, D, H, W)``, probabilities of the teacher's finest level. They are averaged
            to the grid of each level, so that partial volume is kept.
        valid: ``(B, 1, D, H, W)``, 0 to 1, the fraction of each voxel that is inside the scan.
    """
    terms = []
    for level in levels:
        inside = averaged(valid, level)
        target = averaged(teacher * valid, level) / inside.clamp_min(EPSILON)
        log_t = target.clamp_min(EPSILON).log()
        log_p = level.float().log_softmax(1)
        divergence, weight = rectified_divergence(log_p, log_t, inside)
        terms.append(weighted_mean(divergence, weight))
    return torch.stack(terms).mean()


def draw_zoom(scale_range: tuple[float, float], generator: torch.Generator) -> float:
    """Draw a scale log-uniformly.

    All ranks get the same scale. Otherwise the ranks with small images would wait for the others.
    """
    lower = math.log(scale_range[0])
    upper = math.log(scale_range[1])
    chance = uniform_number(0, 1, generator)
    return from_first_rank(math.exp(lower + (upper - lower) * chance))


def sigmoid_ramp(progress: float) -> float:
    """Return ``exp(-5 (1 - t)^2)`` for a progress t from 0 to 1, and 1 after that.

    Source: Laine and Aila, Temporal ensembling for semi-supervised learning, ICLR 2017.
    """
    return math.exp(-5 * (1 - min(1.0, progress)) ** 2)
