"""Refinement of one case on the planned grid: from the teacher's views to label, weights and predicted Dice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.files import read_json
from hstf.refine.calibration import Calibration
from hstf.refine.score import Features, case_features, interval
from hstf.refine.structure import StructureRule, fill_holes, keep_components
from hstf.refine.weights import below_threshold, cap_weight, most_likely, scale_weight, sharpen, voxel_weights
from hstf.store import read_array


@dataclass(frozen=True)
class TeacherOutput:
    """What the teacher wrote about a case."""

    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, not calibrated."""
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8."""
    agreement: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read a case's folder below ``teacher/`` or ``out_of_fold/``."""
        return cls(
            read_array(folder / "probabilities.b2nd"),
            read_array(folder / "uncertainty.b2nd"),
            read_json(folder / "agreement.json"),
        )


@dataclass(frozen=True)
class CleanLabel:
    """A label map on the grid, and what made it."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index after the structural clean-up."""
    confidence: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the calibrated probability of the most likely class."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, calibrated."""
    components: np.ndarray
    """``(X, Y, Z)`` bool: voxels of components that were removed."""
    holes: np.ndarray
    """``(X, Y, Z)`` bool: voxels of holes that were filled."""
    features: dict[str, Features | None]


@dataclass(frozen=True)
class Refined:
    """A pseudo-label on the grid."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index."""
    weight: np.ndarray
    """``(X, Y, Z)`` uint8, 255 times the voxel weight."""
    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, calibrated, and one-hot where the clean-up changed the label."""
    changed: dict[str, int]
    """Voxels that each step lowered in weight or changed."""
    features: dict[str, Features | None]


@dataclass(frozen=True)
class Verdict:
    """How good a pseudo-label is thought to be, and whether it is used."""

    predicted: dict[str, float]
    mean: float
    low: float
    high: float
    accepted: bool
    reason: str


def clean_label(
    probabilities: np.ndarray, agreement: Mapping[str, Any], temperature: float,
    rules: Mapping[int, StructureRule], classes: Sequence[str], voxel_mm3: float, config: RefineConfig,
) -> CleanLabel:  # fmt: skip
    """Calibrate a teacher's mean ``probabilities`` and bring its label map to the structure of the labelled cases."""
    calibrated = sharpen(probabilities, temperature)
    first, confidence = most_likely(calibrated)
    features = case_features(agreement, first, confidence, classes)
    kept = keep_components(first, calibrated, rules, voxel_mm3) if config.keep_components else first
    filled = fill_holes(kept, rules) if config.fill_holes else kept
    return CleanLabel(filled, confidence, calibrated, kept != first, filled != kept, features)


def refine_case(
    output: TeacherOutput,
    calibration: Calibration,
    classes: Sequence[str],
    voxel_mm3: float,
    config: RefineConfig,
) -> Refined:
    """The pseudo-label of a case: calibrated, cleaned, weighted."""
    clean = clean_label(
        output.probabilities,
        output.agreement,
        calibration.temperature,
        calibration.rules(),
        classes,
        voxel_mm3,
        config,
    )
    weight = voxel_weights(output.uncertainty, config)
    doubtful = below_threshold(
        clean.label, clean.confidence, [calibration.thresholds[name] for name in classes]
    )
    scale_weight(weight, doubtful, config.below_threshold_weight)
    changed = clean.components | clean.holes
    cap_weight(weight, changed, config.changed_weight)
    clean.probabilities[:, changed] = 255 * (clean.label[changed] == np.arange(len(classes))[:, None])
    counts = {"low_confidence": doubtful, "components": clean.components, "holes": clean.holes}
    return Refined(
        clean.label, weight, clean.probabilities,
        {name: int(np.count_nonzero(mask)) for name, mask in counts.items()}, clean.features,
    )  # fmt: skip


def judge(
    features: Mapping[str, Features | None],
    present: Mapping[str, bool],
    calibration: Calibration,
    minimum: float | None,
) -> Verdict:
    """Predicted Dice of a case, and whether its pseudo-label is accepted.

    Args:
        features: by class, before the clean-up.
        present: whether the pseudo-label has the class after it.
        minimum: lowest predicted mean Dice; None takes the calibration's.
    """
    predicted = calibration.predicted_dice(
        {name: values if present[name] else None for name, values in features.items()}
    )
    mean = float(np.mean(list(predicted.values())))
    low, high = interval(mean, calibration.mean_sd)
    bound = calibration.minimum_predicted_dice if minimum is None else minimum
    lacking = [n for n, there in present.items() if not there and not calibration.structure[n].may_be_absent]
    faults = [f"{name} is absent, but every labelled case has it" for name in lacking]
    if mean < bound:
        faults.append(f"predicted Dice {mean:.3f} is below {bound:.3f}")
    reason = "; ".join(faults) or f"predicted Dice {mean:.3f} reaches {bound:.3f}"
    return Verdict(predicted, mean, low, high, not faults, reason)
