"""Predict the Dice of a pseudo-label without a reference.

The quality features of a structure in a case are (all in the range 0 to 1, higher is better):

- ``confidence``: the mean calibrated probability of its voxels, which is the expected precision;
- ``scales`` and ``flips``: the mean Dice between the TTA views at each scale, or mirrored along
  each axis, and the mean of all views;
- ``snapshots``: the mean Dice between earlier states of the networks and the mean prediction
  (stability, as in ST++, Yang et al., CVPR 2022), if snapshots were kept.

The predicted Dice is a line through the sum of the features, ``m + b (q - q_mean)``. The mean Dice
``m`` and the mean ``q_mean`` of the sum ``q`` are those of the structure in the out-of-fold
predictions. The slope ``b`` is one for all structures and has a strong prior at 1. A handful of
labelled cases cannot support one weight for each feature: with such a regression the ranking of the
cases was random.

Students are surer and agree better from round to round, and so the level of predicted Dice rises.
The selection of cases needs only the ranking, which is better than that by confidence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from hstf.imaging.regions import ClassIndices, Structures, structure_mask
from hstf.method.tta_summary import Agreement
from hstf.runtime.documents import Part

QualityFeatures = dict[str, float]
"""Quality features of a structure in a case: 0 to 1, higher is better. They need no label."""

CONFIDENCE = "confidence"
PRIOR_SLOPE = 1.0
"""Dice per sum of the features before any case is seen: the features are taken literally."""
PRIOR_CASES = 4
"""Number of cases that the prior of the slope counts as."""
PRIOR_SPREAD = 0.02
"""Difference from the mean sum of the features of each of these cases."""
MINIMUM_SLOPE = 0.25
"""Better features always predict a better Dice, whatever a few cases show."""
MINIMUM_SD = 0.02
"""Lower bound for the standard deviation of the error of predicted Dice."""
UNKNOWN_SD = 0.2
"""Standard deviation of the error of predicted Dice with fewer than three cases."""


def quality_features(
    agreement: Agreement,
    label: np.ndarray,
    probabilities: np.ndarray,
    structures: Structures,
) -> dict[str, QualityFeatures | None]:
    """Compute the quality features of each structure; None if the prediction lacks it.

    The agreement of members is not used: out-of-fold predictions, to which the model is fitted,
    have a single member.

    Args:
        agreement: agreement of the TTA views of the case.
        label: ``(X, Y, Z)`` class index of the prediction.
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the calibrated probability of each class.
        structures: classes of each structure.
    """
    features: dict[str, QualityFeatures | None] = {}
    for name, classes in structures.items():
        confidence = mean_confidence(label, probabilities, classes)
        if confidence is None:
            features[name] = None
        else:
            features[name] = {CONFIDENCE: confidence, **_agreement_features(agreement, name)}
    return features


def mean_confidence(
    label: np.ndarray,
    probabilities: np.ndarray,
    classes: ClassIndices,
) -> float | None:
    """Return the mean probability that the voxels of a structure are in it; None without voxels.

    Args:
        label: ``(X, Y, Z)`` class index.
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the calibrated probability of each class.
        classes: classes of the structure.
    """
    inside = structure_mask(label, classes)
    voxels = np.count_nonzero(inside)
    if not voxels:
        return None
    total = 0
    for index in classes:
        total += int(probabilities[index][inside].sum(dtype=np.int64))
    return min(1.0, total / voxels / 255)


def _agreement_features(agreement: Agreement, name: str) -> QualityFeatures:
    """Return the mean Dice of each kind of group; a single view always agrees with itself."""
    kinds = [
        ("scales", agreement.scales, 2),
        ("flips", agreement.flips, 2),
        ("snapshots", agreement.snapshots or {}, 1),
    ]
    features = {}
    for kind, groups, minimum_groups in kinds:
        if len(groups) >= minimum_groups:
            features[kind] = float(np.mean([dice[name] for dice in groups.values()]))
    return features


class DiceModel(Part):
    """Model of the predicted Dice of one structure."""

    mean: float
    """Mean Dice of the out-of-fold cases."""
    slope: float
    """Dice per sum of the quality features."""
    usual: QualityFeatures
    """Mean of each quality feature over the out-of-fold cases."""
    absent: float
    """Predicted Dice if the prediction lacks the structure."""

    def predict(self, features: QualityFeatures | None) -> float:
        """Return the predicted Dice (0 to 1).

        Args:
            features: quality features of the structure; None if the prediction lacks it.

        Example:
            >>> usual = {"confidence": 0.9, "scales": 0.8}
            >>> model = DiceModel(mean=0.85, slope=1.0, usual=usual, absent=0.0)
            >>> round(model.predict({"confidence": 0.85, "scales": 0.75}), 3)
            0.75
        """
        if features is None:
            return self.absent
        return float(
            np.clip(
                self.mean + self.slope * surplus(features, self.usual),
                0,
                1,
            )
        )


def surplus(features: QualityFeatures, usual: QualityFeatures) -> float:
    """Return the sum of ``features`` minus the sum of ``usual``, over the features of both."""
    return sum(features[name] - value for name, value in usual.items() if name in features)


def mean_features(present: Sequence[QualityFeatures]) -> QualityFeatures:
    """Return the mean of each feature that all cases have."""
    if not present:
        return {}
    names = set.intersection(*(set(case) for case in present))
    means = {}
    for name in sorted(names):
        means[name] = float(np.mean([case[name] for case in present]))
    return means


@dataclass(frozen=True)
class KnownCases:
    """The out-of-fold cases in which the Dice of one structure is known."""

    features: Sequence[QualityFeatures | None]
    """Quality features of each case; None if the prediction lacks the structure."""
    dice: Sequence[float]
    """True Dice of each case."""

    @property
    def predicted(self) -> tuple[list[QualityFeatures], list[float]]:
        """Features and Dice of the cases whose prediction has the structure."""
        features = []
        dice = []
        for case, value in zip(self.features, self.dice, strict=True):
            if case is not None:
                features.append(case)
                dice.append(value)
        return features, dice

    @property
    def missed(self) -> list[float]:
        """Dice of the cases whose prediction lacks the structure."""
        pairs = zip(self.features, self.dice, strict=True)
        return [value for case, value in pairs if case is None]


def fit_slope(structures: Iterable[KnownCases]) -> float:
    """Fit the common slope of all structures by least squares.

    The prior counts as :data:`PRIOR_CASES` cases on a line with :data:`PRIOR_SLOPE`.

    Args:
        structures: the out-of-fold cases of each structure.
    """
    square = PRIOR_CASES * PRIOR_SPREAD**2
    product = square * PRIOR_SLOPE
    for cases in structures:
        features, dice = cases.predicted
        usual = mean_features(features)
        x = np.array([surplus(case, usual) for case in features])
        product = product + x @ np.array(dice)
        square = square + x @ x
    return max(MINIMUM_SLOPE, float(product / square))


def fit_dice_model(
    cases: KnownCases,
    slope: float,
    may_be_absent: bool,
) -> DiceModel:
    """Fit the model of one structure to the out-of-fold cases; two cases are enough.

    Args:
        cases: the out-of-fold cases.
        slope: common slope of all structures, from :func:`fit_slope`.
        may_be_absent: whether labelled cases lack the structure. If none does, a prediction without
            it has Dice 0.
    """
    features, dice = cases.predicted
    mean = float(np.mean(dice or cases.dice))
    absent = float(np.mean([*cases.missed, mean])) if may_be_absent else 0.0
    return DiceModel(
        mean=mean,
        slope=slope,
        usual=mean_features(features),
        absent=absent,
    )


def fit_models(
    features: Sequence[Mapping[str, QualityFeatures | None]],
    table: np.ndarray,
    may_be_absent: Mapping[str, bool],
) -> dict[str, DiceModel]:
    """Fit the model of each structure; a structure whose Dice is never known has no model.

    Args:
        features: quality features of each case, by structure.
        table: ``(cases, S)`` true Dice (0 to 1); NaN if it is unknown.
        may_be_absent: whether labelled cases lack the structure, in the order of the columns.
    """
    known_cases = {}
    for name, column in zip(may_be_absent, table.T, strict=True):
        known = np.flatnonzero(~np.isnan(column)).tolist()
        if known:
            known_features = [features[index][name] for index in known]
            known_cases[name] = KnownCases(known_features, column[known].tolist())
    slope = fit_slope(known_cases.values())
    models = {}
    for name, cases in known_cases.items():
        models[name] = fit_dice_model(cases, slope, may_be_absent[name])
    return models


def leave_one_out_errors(
    features: Sequence[Mapping[str, QualityFeatures | None]],
    table: np.ndarray,
    may_be_absent: Mapping[str, bool],
    patients: Sequence[str],
) -> np.ndarray:
    """Return the errors of predicted Dice by models that are fitted to other patients.

    Args:
        features: quality features of each case, by structure.
        table: ``(cases, S)`` true Dice (0 to 1); NaN if it is unknown.
        may_be_absent: whether labelled cases lack the structure, in the order of the columns.
        patients: patient of each case.

    Returns:
        ``(cases, S)`` true minus predicted Dice; NaN if the truth is unknown or no other patient
        has the structure.
    """
    errors = np.full(table.shape, np.nan)
    for left_out, case in enumerate(features):
        others = [index for index, patient in enumerate(patients) if patient != patients[left_out]]
        other_features = [features[index] for index in others]
        models = fit_models(
            other_features,
            table[others],
            may_be_absent,
        )
        for column, name in enumerate(may_be_absent):
            if name in models:
                predicted = models[name].predict(case[name])
                errors[left_out, column] = table[left_out, column] - predicted
    return errors


def residual_sd(residuals: np.ndarray) -> float:
    """Return the root mean square of leave-one-out errors, at least :data:`MINIMUM_SD`."""
    if len(residuals) < 3:
        return UNKNOWN_SD
    return max(MINIMUM_SD, float(np.sqrt(np.mean(np.square(residuals)))))


def prediction_interval(
    predicted: float,
    sd: float,
    patients: int,
) -> tuple[float, float]:
    """Return the 90% interval of a predicted Dice, within 0 to 1.

    It uses Student's t distribution because ``sd`` comes from few patients.

    Args:
        predicted: predicted Dice.
        sd: standard deviation of the error.
        patients: number of patients that ``sd`` was computed from.
    """
    half_width = sd * float(stdtrit(max(1, patients - 1), 0.95))
    return max(0.0, predicted - half_width), min(1.0, predicted + half_width)
