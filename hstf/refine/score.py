"""Predicted Dice of a pseudo-label: what the teacher's own doubts say about it, learned on the out-of-fold cases."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

Features = dict[str, float]
"""Signs of quality of a class in a case, none of which needs its label; higher means better for each."""

PRIOR_CASES = 4
"""The regression is shrunk to the mean Dice as if this many further cases lay there."""
SMALLEST_SCALE = 0.02
"""A feature that hardly varies between the labelled cases is not blown up to explain them."""
SMALLEST_SD, UNKNOWN_SD = 0.02, 0.2
"""Standard deviation of predicted Dice: at least the first; the second where fewer than three cases tell."""
NORMAL_95 = 1.645
"""A normal value lies within this many standard deviations nine times in ten."""


def case_features(
    agreement: Mapping[str, Any], label: np.ndarray, confidence: np.ndarray, classes: Sequence[str]
) -> dict[str, Features | None]:
    """Features of each foreground class, None where the prediction lacks the class.

    Args:
        agreement: content of the teacher's ``agreement.json``. Its ``members`` are left out: the out-of-fold
            predictions, which the regression is learned on, have one member.
        label: ``(X, Y, Z)`` class index of the prediction.
        confidence: ``(X, Y, Z)`` uint8, 255 times the calibrated probability of that class.
        classes: names, background first.
    """
    features: dict[str, Features | None] = {}
    for index, name in enumerate(classes[1:], start=1):
        mask = label == index
        features[name] = (
            _class_features(agreement, name, float(confidence[mask].mean()) / 255) if mask.any() else None
        )
    return features


def _class_features(agreement: Mapping[str, Any], name: str, confidence: float) -> Features:
    values = {"confidence": confidence, "certainty": 1 - agreement["foreground_entropy"][name]}
    for group in ("scales", "flips"):
        dice = [view[name] for view in agreement.get(group, {}).values()]
        if dice:
            values[group] = float(np.mean(dice))
    return values


@dataclass(frozen=True)
class DiceModel:
    """Predicted Dice of one class: ``mean`` plus non-negative weights times standardised features, within 0..1."""

    mean: float
    centre: dict[str, float]
    scale: dict[str, float]
    weights: dict[str, float]
    absent: float
    """Predicted Dice where the prediction lacks the class."""

    def predict(self, features: Features | None) -> float:
        """Predicted Dice (0..1). A feature that is not known counts as average."""
        if features is None:
            return self.absent
        shift = sum(
            weight * (features[name] - self.centre[name]) / self.scale[name]
            for name, weight in self.weights.items()
            if name in features
        )
        return float(np.clip(self.mean + shift, 0, 1))


def fit_dice_model(
    features: Sequence[Features | None], dice: Sequence[float], may_be_absent: bool
) -> DiceModel:
    """Learn one class's predicted Dice from the out-of-fold cases, of which there may be as few as two.

    Ridge regression with weights that are not negative: a case that agrees better with itself is never predicted worse.

    Args:
        features: of each case, None where the prediction lacks the class.
        dice: the true Dice of each case.
        may_be_absent: whether labelled cases lack the class; if none does, a prediction without it has Dice 0.
    """
    present = [(x, y) for x, y in zip(features, dice, strict=True) if x is not None]
    missed = [y for x, y in zip(features, dice, strict=True) if x is None]
    mean = float(np.mean([y for _, y in present])) if present else float(np.mean(dice))
    absent = float(np.mean([*missed, mean])) if may_be_absent else 0.0
    names = sorted(set.intersection(*(set(x) for x, _ in present))) if present else []
    if not names:
        return DiceModel(mean, {}, {}, {}, absent)
    table = np.array([[x[name] for name in names] for x, _ in present])
    centre, scale = table.mean(axis=0), table.std(axis=0).clip(SMALLEST_SCALE)
    weights = _ridge((table - centre) / scale, np.array([y for _, y in present]) - mean)
    centres, scales, by_name = (
        dict(zip(names, map(float, values), strict=True)) for values in (centre, scale, weights)
    )
    return DiceModel(mean, centres, scales, by_name, absent)


def _ridge(table: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Non-negative ridge weights: least squares with :data:`PRIOR_CASES` pulling each weight to zero."""
    prior = np.sqrt(PRIOR_CASES) * np.eye(table.shape[1])
    return nnls(np.vstack([table, prior]), np.concatenate([target, np.zeros(table.shape[1])]))[0]


def leave_one_out(
    features: Sequence[Features | None], dice: Sequence[float], may_be_absent: bool
) -> np.ndarray:
    """Error ``(cases,)`` of each case's predicted Dice by the model of the other cases; needs two cases."""
    residuals = []
    for left in range(len(dice)):
        others = [i for i in range(len(dice)) if i != left]
        model = fit_dice_model([features[i] for i in others], [dice[i] for i in others], may_be_absent)
        residuals.append(dice[left] - model.predict(features[left]))
    return np.array(residuals)


def residual_sd(residuals: np.ndarray) -> float:
    """Root mean square of leave-one-out ``residuals``, never too good to be true."""
    if len(residuals) < 3:
        return UNKNOWN_SD
    return max(SMALLEST_SD, float(np.sqrt(np.mean(np.square(residuals)))))


def interval(predicted: float, sd: float) -> tuple[float, float]:
    """The 90 % interval of a predicted Dice, within 0..1."""
    return max(0.0, predicted - NORMAL_95 * sd), min(1.0, predicted + NORMAL_95 * sd)
