"""Predict the Dice of a pseudo-label without a reference.

The quality features of a structure in a case are (all in the range 0 to 1, higher is better):

- ``confidence``: the mean calibrated probability of its voxels, which is the expected precision;
- ``scales`` and ``flips``: the mean Dice between the TTA views at each scale, or mirrored along
  each axis, and the mean of all views;
- ``snapshots``: the mean Dice between earlier states of the networks and the mean prediction
  (stability, as in ST++, Yang et al., CVPR 2022), if snapshots were kept;
- ``members``: the mean Dice of all pairs of ensemble members (Roy et al., Bayesian QuickNAT,
  NeuroImage 2019), if ``warmup.fold_members`` is 2: each labelled case is then predicted by two
  networks that have not seen it. The expected Dice of a pair does not depend on the number of
  members. It is used if it lowers the error for patients that the fit has not seen
  (:func:`useful_features`).

The predicted Dice is a line through the sum of the features, ``m + b (q - q_mean)``. The mean Dice
``m`` and the mean ``q_mean`` of the sum ``q`` are those of the structure in the out-of-fold
predictions. The slope ``b`` is one for all structures and has a strong prior at 1. A handful of
labelled cases cannot support one weight for each feature: with such a regression the ranking of the
cases was random.

Students are surer and agree better from round to round, and so the level of predicted Dice rises.
The selection of cases needs only the ranking, which is better than that by confidence.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hstf.imaging.regions import ClassIndices, Structures, structure_mask
from hstf.method.tta_summary import Agreement
from hstf.runtime.documents import Part

QualityFeatures = dict[str, float]
"""Quality features of a structure in a case: 0 to 1, higher is better. They need no label."""

CONFIDENCE = "confidence"
MEMBERS = "members"
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
TOLERANCE = 1e-9
"""Tolerance of comparisons of sums of weights."""
COVERAGE = 0.9
"""Fraction of new cases whose Dice is within the interval."""
CONFORMAL_PATIENTS = 9
"""With fewer patients a conformal interval of this coverage has no bounds."""


def quality_features(
    agreement: Agreement,
    label: np.ndarray,
    probabilities: np.ndarray,
    structures: Structures,
) -> dict[str, QualityFeatures | None]:
    """Compute the quality features of each structure; None if the prediction lacks it.

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
    if agreement.pairs is not None:
        features[MEMBERS] = agreement.pairs[name]
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


class DiceInterval(Part):
    """Interval of the predicted Dice of a case."""

    half_width: float
    """Half of its width (Dice)."""
    method: Literal["conformal", "guess"]
    """``conformal``: from the errors of at least :data:`CONFORMAL_PATIENTS` patients; ``guess``:
    Student's t with the errors of fewer patients, which nothing supports."""
    patients: int
    """Number of patients whose errors it is from."""

    def around(self, predicted: float) -> tuple[float, float]:
        """Return the interval of a predicted Dice, within 0 to 1.

        Example:
            >>> DiceInterval(half_width=0.125, method="conformal", patients=12).around(0.9375)
            (0.8125, 1.0)
        """
        return max(0.0, predicted - self.half_width), min(1.0, predicted + self.half_width)


def fit_interval(errors: np.ndarray, patients: Sequence[str], sd: float) -> DiceInterval:
    """Return the 90% interval of the predicted Dice of a case of a new patient.

    With enough patients it is a conformal interval from leave-one-patient-out errors, as in the
    jackknife (Barber et al., Predictive inference with the jackknife+, Annals of Statistics 2021).
    All cases of a patient together have the weight of one patient (hierarchical conformal
    prediction, Lee, Barber and Willett, Distribution-free inference with hierarchical data, 2023).
    The usual coverage is 90%; the bound that is proven for the jackknife+ is 80%. Both assume that
    the new patients come from the same population and that the model makes errors like those of
    the warm-up.

    Args:
        errors: ``(N,)`` leave-one-patient-out error of the mean predicted Dice of each case.
        patients: patient of each of these cases.
        sd: standard deviation of the errors, for a guess from too few patients.

    Example:
        >>> errors = np.array([0.01, -0.02, 0.03, -0.04, 0.05, 0.06, 0.07, -0.08, 0.09, 0.10])
        >>> interval = fit_interval(errors, list("abcdefghij"), sd=0.06)
        >>> interval.half_width, interval.method
        (0.1, 'conformal')
        >>> fit_interval(errors[:3], list("abc"), sd=0.06).method
        'guess'
    """
    count = len(set(patients))
    if count < CONFORMAL_PATIENTS:
        from scipy.special import stdtrit  # slow to import, and only the calibration fits

        half_width = sd * float(stdtrit(max(1, count - 1), (1 + COVERAGE) / 2))
        return DiceInterval(half_width=half_width, method="guess", patients=count)
    cases = Counter(patients)
    sizes = np.abs(errors)
    # The new patient has a weight, too: its error may be larger than all others.
    weights = np.array([1 / (cases[patient] * (count + 1)) for patient in patients])
    order = np.argsort(sizes, kind="stable")
    reached = np.cumsum(weights[order]) >= COVERAGE - TOLERANCE
    half_width = float(sizes[order][np.argmax(reached)])
    return DiceInterval(half_width=half_width, method="conformal", patients=count)


def useful_features(
    features: Sequence[Mapping[str, QualityFeatures | None]],
    table: np.ndarray,
    may_be_absent: Mapping[str, bool],
    patients: Sequence[str],
) -> tuple[list[dict[str, QualityFeatures | None]], dict[str, float]]:
    """Leave out the agreement of members if it does not help to predict the Dice of new patients.

    Args:
        features: quality features of each case, by structure.
        table: ``(cases, S)`` true Dice (0 to 1); NaN if it is unknown.
        may_be_absent: whether labelled cases lack the structure, in the order of the columns.
        patients: patient of each case.

    Returns:
        The features that are used, and the root mean square of the leave-one-patient-out errors
        ``with_members`` and ``without_members``; empty if no case has the feature.
    """
    plain = [dict(case) for case in features]
    without = [_without(case, MEMBERS) for case in features]
    if plain == without:
        return plain, {}
    errors = {}
    for name, candidate in (("with_members", plain), ("without_members", without)):
        residuals = leave_one_out_errors(candidate, table, may_be_absent, patients)
        known = residuals[~np.isnan(residuals)]
        errors[name] = float(np.sqrt(np.mean(known**2))) if len(known) else 0.0
    helps = errors["with_members"] <= errors["without_members"]
    return (plain if helps else without), errors


def _without(
    case: Mapping[str, QualityFeatures | None], feature: str
) -> dict[str, QualityFeatures | None]:
    """Return the features of a case without one of them."""
    kept: dict[str, QualityFeatures | None] = {}
    for structure, values in case.items():
        if values is None:
            kept[structure] = None
        else:
            kept[structure] = {name: value for name, value in values.items() if name != feature}
    return kept
