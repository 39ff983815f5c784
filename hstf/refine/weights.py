"""Calibrated probabilities and voxel weights, slab by slab: a slab is a range of the first spatial axis."""

from collections.abc import Iterator, Sequence

import numpy as np

from hstf.config.refine import RefineConfig

SLAB_VOXELS = 1 << 22
LEVELS = np.arange(256, dtype=np.float32) / 255


def slabs(shape: Sequence[int]) -> Iterator[slice]:
    """Ranges of the first axis of ``shape`` that hold about :data:`SLAB_VOXELS` voxels, so that memory stays bounded."""
    step = max(1, SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def sharpen(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities raised to the power 1/T and normalised again: temperature scaling without logits.

    Guo et al., On Calibration of Modern Neural Networks, 2017: softmax(z/T) is p^(1/T) over its sum.

    Args:
        probabilities: ``(K, ...)`` uint8, 255 times the mean probability.
        temperature: below 1 sharpens, above 1 flattens.

    Returns:
        ``(K, ...)`` uint8.
    """
    powers = LEVELS ** np.float32(1 / temperature)
    calibrated = np.empty_like(probabilities)
    for slab in slabs(probabilities.shape[1:]):
        raised = powers[probabilities[:, slab]]
        raised *= 255 / np.maximum(raised.sum(axis=0), np.finfo(np.float32).tiny)
        calibrated[:, slab] = np.rint(raised)
    return calibrated


def most_likely(probabilities: np.ndarray) -> np.ndarray:
    """Class index ``(...)`` uint8 of ``probabilities`` ``(K, ...)``."""
    label = np.empty(probabilities.shape[1:], np.uint8)
    for slab in slabs(label.shape):
        label[slab] = probabilities[:, slab].argmax(axis=0)
    return label


def make_certain(probabilities: np.ndarray, label: np.ndarray, where: np.ndarray, full: float) -> None:
    """Give ``full``, all there is, to the class of ``label`` in ``probabilities`` ``(K, ...)``, in place, ``where`` (bool).

    Class by class: an index of the voxels would take more memory than the probabilities of a large scan do.
    """
    for index, of_class in enumerate(probabilities):
        np.copyto(of_class, (label == index) * of_class.dtype.type(full), where=where)


def voxel_weights(uncertainty: np.ndarray, config: RefineConfig) -> np.ndarray:
    """Weight (1-H)^a exp(-b V) (1-D)^c of each voxel: how far its pseudo-label can be trusted.

    Args:
        uncertainty: ``(3, X, Y, Z)`` uint8, 255 times the normalised entropy H, the variance across scales V and the
            disagreement D of members and views.
        config: the exponents a, b and c.

    Returns:
        ``(X, Y, Z)`` uint8, 255 times the weight.
    """
    entropy = (1 - LEVELS) ** np.float32(config.entropy_weight)
    scale_variance = np.exp(-np.float32(config.scale_variance_weight) * LEVELS)
    disagreement = (1 - LEVELS) ** np.float32(config.disagreement_weight)
    weight = np.empty(uncertainty.shape[1:], np.uint8)
    for slab in slabs(weight.shape):
        h, v, d = uncertainty[:, slab]
        weight[slab] = np.rint(255 * entropy[h] * scale_variance[v] * disagreement[d])
    return weight


def below_threshold(label: np.ndarray, confidence: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """Boolean mask of voxels whose ``confidence`` (uint8, of 255) is below the threshold (0..1) of their class."""
    levels = np.ceil(255 * np.asarray(thresholds) - 1e-6).clip(0, 255).astype(np.uint8)
    return confidence < levels[label]


def scale_weight(weight: np.ndarray, mask: np.ndarray, factor: float) -> None:
    """Multiply the uint8 ``weight`` by ``factor`` (0..1) where ``mask``, in place."""
    weight[mask] = np.rint(weight[mask] * factor)


def cap_weight(weight: np.ndarray, mask: np.ndarray, cap: float) -> None:
    """Lower the uint8 ``weight`` to 255 times ``cap`` where ``mask`` and above it, in place."""
    weight[mask] = np.minimum(weight[mask], round(255 * cap))
