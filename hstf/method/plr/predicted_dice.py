"""Predicted Dice of a pseudo-label: what the teacher's own doubts say about it, calibrated on the out-of-fold cases.

Signs of quality are the mean calibrated confidence of the voxels of a class, or of a region, which is their expected
precision, and how well the views at other scales and the mirrored ones agree with their mean; and, where they were kept,
the networks of earlier steps (Yang et al., ST++: make self-training work better for semi-supervised semantic segmentation,
CVPR 2022). A handful of labelled cases
cannot tell the signs apart (regression on them left the order of the cases to chance), so they count alike, as one sum: the
labelled cases set the level of each class and, with a strong prior, one slope for all. Both kinds of sign rise from round to
round, as students learn to be sure and to agree, so that predicted Dice does too; selection needs its order alone, which is
better than that of confidence where cases differ.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from hstf.imaging.regions import Members, Structures, mask

Features = dict[str, float]
"""Signs of quality of a class (or region) in a case, none of which needs its label; higher is better for each, in 0..1."""

CONFIDENCE = "confidence"
PRIOR_SLOPE = 1.0
"""Dice per sum of the signs before any case is seen: expected precision, and what views miss of it, taken at their word."""
PRIOR_CASES, PRIOR_SPREAD = 4, 0.02
"""The prior slope counts as this many cases whose sum of signs differs by this much from the mean."""
SMALLEST_SLOPE = 0.25
"""Better signs always predict better Dice, whatever few cases say."""
SMALLEST_SD, UNKNOWN_SD = 0.02, 0.2
"""Standard deviation of predicted Dice: at least the first; the second where fewer than three cases tell."""


def case_features(
    agreement: Mapping[str, Any],
    label: np.ndarray,
    probabilities: np.ndarray,
    structures: Structures,
) -> dict[str, Features | None]:
    """Features of each structure, None where the prediction lacks it.

    Args:
        agreement: content of the teacher's ``agreement.json``. Its ``members`` are left out: the out-of-fold
            predictions, which the model is learned on, have one member.
        label: ``(X, Y, Z)`` class index of the prediction.
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the calibrated probability of each class.
        structures: whose features are told.
    """
    confidences = {name: mean_confidence(label, probabilities, m) for name, m in structures.items()}
    return {
        name: None if confidence is None else _structure_features(agreement, name, confidence)
        for name, confidence in confidences.items()
    }


def mean_confidence(label: np.ndarray, probabilities: np.ndarray, members: Members) -> float | None:
    """Mean probability (0..1) that the voxels of a structure are in it: its expected precision; None without voxels."""
    inside = mask(label, members)
    voxels = np.count_nonzero(inside)
    total = sum(int(probabilities[index][inside].sum(dtype=np.int64)) for index in members)
    return min(1.0, total / voxels / 255) if voxels else None


def _structure_features(agreement: Mapping[str, Any], name: str, confidence: float) -> Features:
    values = {CONFIDENCE: confidence}
    for group, fewest in (
        ("scales", 2),
        ("flips", 2),
        ("snapshots", 1),
    ):  # one view alone agrees with itself
        dice = [view[name] for view in agreement.get(group, {}).values()]
        if len(dice) >= fewest:
            values[group] = float(np.mean(dice))
    return values


@dataclass(frozen=True)
class DiceModel:
    """Predicted Dice of one class: ``mean`` plus ``slope`` times by how much the signs are better than ``usual``."""

    mean: float
    slope: float
    usual: Features
    """Mean of each sign over the labelled cases."""
    absent: float
    """Predicted Dice where the prediction lacks the class."""

    def predict(self, features: Features | None) -> float:
        """Predicted Dice (0..1)."""
        if features is None:
            return self.absent
        return float(np.clip(self.mean + self.slope * surplus(features, self.usual), 0, 1))


def surplus(features: Features, usual: Features) -> float:
    """By how much the signs of a case are better than ``usual``, summed over those that both have."""
    return sum(features[name] - value for name, value in usual.items() if name in features)


def usual_features(present: Sequence[Features]) -> Features:
    """Mean of each sign that all cases have."""
    names = sorted(set.intersection(*(set(case) for case in present))) if present else []
    return {name: float(np.mean([case[name] for case in present])) for name in names}


def fit_slope(classes: Iterable[tuple[Sequence[Features | None], Sequence[float]]]) -> float:
    """Dice per sum of the signs within the classes: least squares with :data:`PRIOR_CASES` on a line of
    :data:`PRIOR_SLOPE`.

    Args:
        classes: features and true Dice of the out-of-fold cases, by class.
    """
    weight = PRIOR_CASES * PRIOR_SPREAD**2
    product, square = weight * PRIOR_SLOPE, weight
    for features, dice in classes:
        present = [(x, y) for x, y in zip(features, dice, strict=True) if x is not None]
        usual = usual_features([x for x, _ in present])
        signs = np.array([surplus(x, usual) for x, _ in present])
        product, square = (
            product + signs @ np.array([y for _, y in present]),
            square + signs @ signs,
        )
    return max(SMALLEST_SLOPE, float(product / square))


def fit_dice_model(
    features: Sequence[Features | None], dice: Sequence[float], slope: float, may_be_absent: bool
) -> DiceModel:
    """Learn one class's predicted Dice from the out-of-fold cases, of which there may be as few as two.

    Args:
        features: of each case, None where the prediction lacks the class.
        dice: the true Dice of each case.
        slope: of all classes, from :func:`fit_slope`.
        may_be_absent: whether labelled cases lack the class; if none does, a prediction without it has Dice 0.
    """
    present = [(x, y) for x, y in zip(features, dice, strict=True) if x is not None]
    missed = [y for x, y in zip(features, dice, strict=True) if x is None]
    mean = float(np.mean([y for _, y in present] or dice))
    absent = float(np.mean([*missed, mean])) if may_be_absent else 0.0
    return DiceModel(mean, slope, usual_features([x for x, _ in present]), absent)


def fit_models(
    features: Sequence[Mapping[str, Features | None]],
    table: np.ndarray,
    may_be_absent: Mapping[str, bool],
) -> dict[str, DiceModel]:
    """The predicted Dice of each structure, learned from the cases of which its Dice is known; none where it never is.

    Args:
        features: of each case, by structure.
        table: ``(cases, S)`` true Dice (0..1); NaN is unknown.
        may_be_absent: by structure, in the order of the columns of ``table``.
    """
    told = ~np.isnan(table)
    seen = {
        name: ([case[name] for case, known in zip(features, told[:, k], strict=True) if known], table[told[:, k], k])
        for k, name in enumerate(may_be_absent)
        if told[:, k].any()
    }  # fmt: skip
    slope = fit_slope((of_cases, dice.tolist()) for of_cases, dice in seen.values())
    return {
        name: fit_dice_model(of_cases, dice.tolist(), slope, may_be_absent[name])
        for name, (of_cases, dice) in seen.items()
    }


def leave_one_out(
    features: Sequence[Mapping[str, Features | None]], table: np.ndarray, may_be_absent: Mapping[str, bool],
    patients: Sequence[str],
) -> np.ndarray:  # fmt: skip
    """Error ``(cases, S)`` of each predicted Dice by what the cases of other patients teach; NaN where they teach nothing,
    or the truth is not known. The arguments are those of :func:`fit_models`, and whose each case is."""
    errors = np.full(table.shape, np.nan)
    for left, case in enumerate(features):
        others = [i for i, patient in enumerate(patients) if patient != patients[left]]
        models = fit_models([features[i] for i in others], table[others], may_be_absent)
        for k, name in enumerate(may_be_absent):
            if name in models:
                errors[left, k] = table[left, k] - models[name].predict(case[name])
    return errors


def residual_sd(residuals: np.ndarray) -> float:
    """Root mean square of leave-one-out ``residuals``, never too good to be true."""
    if len(residuals) < 3:
        return UNKNOWN_SD
    return max(SMALLEST_SD, float(np.sqrt(np.mean(np.square(residuals)))))


def interval(predicted: float, sd: float, patients: int) -> tuple[float, float]:
    """The 90 % interval of a predicted Dice, within 0..1: by Student's t, for ``sd`` is that of so few ``patients``."""
    reach = sd * float(stdtrit(max(1, patients - 1), 0.95))
    return max(0.0, predicted - reach), min(1.0, predicted + reach)
