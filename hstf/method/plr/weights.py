"""Voxel weights: how far a pseudo-label can be trusted."""

from collections.abc import Sequence

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.geometry import IGNORED
from hstf.imaging.probabilities import LEVELS, slabs


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


def below_threshold(
    label: np.ndarray, confidence: np.ndarray, thresholds: Sequence[float]
) -> np.ndarray:
    """Boolean mask of voxels whose ``confidence`` (uint8, of 255) is below the threshold (0..1) of their class."""
    levels = np.ceil(255 * np.asarray(thresholds) - 1e-6).clip(0, 255).astype(np.uint8)
    return confidence < levels[label]


def scale_weight(weight: np.ndarray, mask: np.ndarray, factor: float) -> None:
    """Multiply the uint8 ``weight`` by ``factor`` (0..1) where ``mask``, in place."""
    weight[mask] = np.rint(weight[mask] * factor)


def cap_weight(weight: np.ndarray, mask: np.ndarray, cap: float) -> None:
    """Lower the uint8 ``weight`` to 255 times ``cap`` where ``mask`` and above it, in place."""
    weight[mask] = np.minimum(weight[mask], round(255 * cap))


def mean_weight(label: np.ndarray, weight: np.ndarray) -> float:
    """Mean voxel weight (0..1) of the foreground, whose background is mostly certain; of all voxels where it is empty."""
    foreground = (label > 0) & (label != IGNORED)
    return float((weight[foreground] if foreground.any() else weight).mean()) / 255
