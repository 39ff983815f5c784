"""Voxel weights of a pseudo-label: how much each voxel counts in the loss of the student.

The weight of a voxel falls with the three uncertainties of the ensemble, all in the range 0 to 1:
the normalised entropy ``H``, the variance across scales ``V`` and the disagreement of the members
``D`` (:mod:`hstf.method.uncertainty`),

    w = (1 - H)^a exp(-b V) (1 - D)^c

with exponents from the configuration. Further steps of refinement lower the weight of voxels with
low confidence or with a label that was changed (:class:`VoxelWeighting`). Weights are stored as
uint8, 255 times the weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import LEVELS
from hstf.imaging.regions import Structures, structure_mask, structure_probability
from hstf.imaging.slabs import slabs
from hstf.method.plr.calibration import Calibration
from hstf.method.plr.cleaning import CleanLabel


def voxel_weights(uncertainty: np.ndarray, config: RefineConfig) -> np.ndarray:
    """Compute the weight ``(1-H)^a exp(-b V) (1-D)^c`` of each voxel.

    Args:
        uncertainty: ``(3, X, Y, Z)`` uint8, 255 times entropy H, scale variance V, disagreement D.
        config: section ``refine`` of the configuration, with the exponents a, b and c.

    Returns:
        ``(X, Y, Z)`` uint8, 255 times the weight.

    Example:
        >>> uncertainty = np.zeros((3, 1, 1, 2), np.uint8)
        >>> uncertainty[0, 0, 0, 1] = 51  # entropy 0.2 in the second voxel
        >>> voxel_weights(uncertainty, RefineConfig(entropy_weight=1.0)).tolist()
        [[[255, 204]]]
    """
    # One table with 256 entries for each factor: the uncertainties are uint8.
    of_entropy = (1 - LEVELS) ** np.float32(config.entropy_weight)
    of_variance = np.exp(-np.float32(config.scale_variance_weight) * LEVELS)
    of_disagreement = (1 - LEVELS) ** np.float32(config.disagreement_weight)
    weight = np.empty(uncertainty.shape[1:], np.uint8)
    for slab in slabs(weight.shape):
        entropy, variance, disagreement = uncertainty[:, slab]
        product = 255 * of_entropy[entropy] * of_variance[variance] * of_disagreement[disagreement]
        weight[slab] = np.rint(product)
    return weight


def below_threshold(
    label: np.ndarray,
    confidence: np.ndarray,
    thresholds: Sequence[float],
) -> np.ndarray:
    """Return which voxels have a confidence below the threshold of their class.

    Args:
        label: ``(X, Y, Z)`` class index.
        confidence: ``(X, Y, Z)`` uint8, 255 times the confidence.
        thresholds: threshold (0 to 1) of each class, background first.

    Returns:
        ``(X, Y, Z)`` bool.
    """
    levels = np.ceil(255 * np.asarray(thresholds) - 1e-6).clip(0, 255).astype(np.uint8)
    return confidence < levels[label]


def scale_weight(
    weight: np.ndarray,
    mask: np.ndarray,
    factor: float,
) -> None:
    """Multiply the uint8 ``weight`` by ``factor`` (0 to 1) in ``mask``, in place."""
    weight[mask] = np.rint(weight[mask] * factor)


def cap_weight(
    weight: np.ndarray,
    mask: np.ndarray,
    maximum: float,
) -> None:
    """Lower the uint8 ``weight`` to at most 255 times ``maximum`` in ``mask``, in place."""
    weight[mask] = np.minimum(weight[mask], round(255 * maximum))


def mean_weight(label: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean weight (0 to 1) of the foreground; of all voxels without foreground.

    The background is left out because most of it is certain.

    Args:
        label: ``(X, Y, Z)`` class index.
        weight: ``(X, Y, Z)`` uint8, 255 times the weight.
    """
    foreground = (label > 0) & (label != IGNORED)
    values = weight[foreground] if foreground.any() else weight
    return float(values.mean()) / 255


@dataclass(frozen=True)
class VoxelWeighting:
    """Compute the voxel weights of a cleaned label, step by step.

    Each step changes ``weight`` ``(X, Y, Z)`` uint8 in place and returns the voxels it is about.
    """

    config: RefineConfig
    clean: CleanLabel
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8, as :class:`hstf.method.tta_summary.TtaSummary` has it."""
    calibration: Calibration
    structures: Structures

    def compute(self) -> tuple[np.ndarray, dict[str, int]]:
        """Return the weights and the number of voxels of each step."""
        steps = []
        if self.config.voxel_weights:
            steps.append(("uncertainty", self._uncertainty))
        if self.config.thresholds:
            steps.append(("low_confidence", self._low_confidence))
        if self.clean.changed:
            steps.append(("changed", self._changed))
        if self.clean.lesions:
            steps.append(("lesion_weight", self._kept_lesions))
        if self.config.judge_lesions and self.calibration.lesions:
            steps.append(("possible_lesions", self._possible_lesions))
        weight = np.full(self.clean.label.shape, 255, np.uint8)
        counts = {}
        for name, step in steps:
            counts[name] = int(np.count_nonzero(step(weight)))
        return weight, counts

    def _uncertainty(self, weight: np.ndarray) -> np.ndarray:
        """Set the weight by the uncertainty of the ensemble."""
        weight[:] = voxel_weights(self.uncertainty, self.config)
        return weight < 255

    def _low_confidence(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where confidence is below the threshold of the class."""
        thresholds = list(self.calibration.thresholds.values())
        doubtful = below_threshold(self.clean.label, self.clean.confidence, thresholds)
        scale_weight(weight, doubtful, self.config.below_threshold_weight)
        return doubtful

    def _changed(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where the clean-up changed the label."""
        changed = reduce(np.logical_or, self.clean.changed.values())
        cap_weight(weight, changed, self.config.changed_weight)
        return changed

    def _kept_lesions(self, weight: np.ndarray) -> np.ndarray:
        """Raise the weight of a kept lesion to at least its probability.

        A kept lesion is learned as a whole, also at its uncertain border. Regions of several
        classes keep the weights of their classes.
        """
        probability = self.clean.lesion_probability
        assert probability is not None
        raised = weight < probability
        np.maximum(weight, probability, out=weight)
        return raised

    def _possible_lesions(self, weight: np.ndarray) -> np.ndarray:
        """Lower the weight where a lesion is possible, but not in the label.

        With weight 0 the student learns there neither a lesion nor its absence.
        """
        possible = np.zeros(weight.shape, bool)
        for name, model in self.calibration.lesions.items():
            classes = self.structures[name]
            probability = structure_probability(self.clean.probabilities, classes)
            likely = probability >= 255 * model.possible
            possible |= likely & ~structure_mask(self.clean.label, classes)
        cap_weight(weight, possible, self.config.possible_lesion_weight)
        return possible
