"""Fit the predicted Dice of a pseudo-label to out-of-fold predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hstf.method.plr.predicted_dice import (
    PRIOR_SLOPE,
    DiceInterval,
    DiceModel,
    QualityFeatures,
    fit_interval,
    fit_models,
    leave_one_out_errors,
    residual_sd,
    useful_features,
)


@dataclass(frozen=True)
class Quality:
    """How the Dice of a pseudo-label is predicted, and the error of the prediction."""

    models: dict[str, DiceModel]
    """By structure."""
    class_sd: dict[str, float]
    """Standard deviation of the error by structure, for patients that the model has not seen."""
    mean_sd: float
    """The same for the mean over the structures."""
    interval: DiceInterval
    """Interval of this mean."""
    errors: dict[str, float]
    """Error with and without the agreement of members, see :func:`useful_features`."""
    predicted: np.ndarray
    """``(cases,)`` predicted Dice (0 to 1), mean over the structures."""


def learn_quality(
    features: Sequence[dict[str, QualityFeatures | None]],
    dice: np.ndarray,
    may_be_absent: Mapping[str, bool],
    patients: Sequence[str],
) -> Quality:
    """Fit the predicted Dice of each structure to the true Dice.

    Args:
        features: quality features of each case by structure.
        dice: ``(cases, S)`` true Dice (0 to 1); NaN where it is unknown.
        may_be_absent: by structure, in the order of the columns of ``dice``.
        patients: the patient of each case.
    """
    used, member_errors = useful_features(features, dice, may_be_absent, patients)
    models = models_of_all(used, dice, may_be_absent)
    errors = leave_one_out_errors(used, dice, may_be_absent, patients)
    predicted = []
    for case in used:
        dice_of_case = [models[name].predict(values) for name, values in case.items()]
        predicted.append(np.mean(dice_of_case))
    class_sd = {}
    for name, column in zip(models, errors.T, strict=True):
        class_sd[name] = residual_sd(column[~np.isnan(column)])
    is_known = ~np.isnan(errors).all(axis=1)
    case_errors = np.nanmean(errors[is_known], axis=1)
    mean_sd = residual_sd(case_errors)
    known_patients = [patients[index] for index in np.flatnonzero(is_known).tolist()]
    interval = fit_interval(case_errors, known_patients, mean_sd)
    return Quality(models, class_sd, mean_sd, interval, member_errors, np.array(predicted))


def models_of_all(
    features: Sequence[Mapping[str, QualityFeatures | None]],
    dice: np.ndarray,
    may_be_absent: Mapping[str, bool],
) -> dict[str, DiceModel]:
    """Fit the model of each structure; one that is unknown in all cases gets the mean of all.

    The filled Dice decides neither the common slope nor the error.

    Args:
        features: quality features of each case by structure.
        dice: ``(cases, S)`` true Dice (0 to 1); NaN where it is unknown.
        may_be_absent: by structure, in the order of the columns of ``dice``.
    """
    known = fit_models(features, dice, may_be_absent)
    slope = next(iter(known.values())).slope if known else PRIOR_SLOPE
    models = {}
    for name, model in fit_models(features, fill_unknown_structures(dice), may_be_absent).items():
        models[name] = known.get(name, model.model_copy(update={"slope": slope}))
    return models


def fill_unknown_structures(dice: np.ndarray) -> np.ndarray:
    """Replace the Dice of structures that are unknown in all cases by the mean of the others, or 1.

    Args:
        dice: ``(cases, S)`` Dice (0 to 1); NaN where it is unknown.
    """
    is_unknown = np.isnan(dice).all(axis=0)
    if is_unknown.all():
        return np.ones_like(dice)
    fill = np.nanmean(dice[:, ~is_unknown])
    return np.where(is_unknown, fill, dice)
