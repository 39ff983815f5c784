"""``hstf calibrate``: compare out-of-fold predictions with labels, and learn how reliable they are.

The calibration is learned once, after the warm-up, and is used in all rounds. Students learn from
all labelled cases, so that later no labelled case is left that the model has not seen. Students are
slightly more confident than the warm-up. From round 2 on, the predicted Dice is therefore slightly
too high, while the order of the cases stays the same.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.config.refine import RefineConfig
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import apply_temperature, most_likely
from hstf.imaging.regions import (
    ClassIndices,
    class_count,
    overlaps,
    structure_mask,
    structure_probability,
)
from hstf.imaging.sparse_labels import is_sparse
from hstf.method.external_weights import Mixture, calibration_path
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import Calibration, LearnedAnatomy, applicable_rules
from hstf.method.plr.cleaning import LabelCleaner
from hstf.method.plr.lesion_bounds import LesionBound, lesion_bound
from hstf.method.plr.lesions import (
    Component,
    LesionModel,
    count_lesions,
    find_components,
    fit_lesions,
    possible_bound,
    real_components,
)
from hstf.method.plr.out_of_fold import LabelledCase, OutOfFoldCases, checked_cases
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
from hstf.method.plr.reliability import (
    VoxelSample,
    confidence_threshold,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    reliability_diagram,
    sample_voxels,
)
from hstf.runtime.errors import HstfError
from hstf.scoring.averages import finite_or_none, structure_means
from hstf.scoring.confusion import confusion, structure_dice

MAXIMUM_VOXELS = 4_000_000
"""Maximum number of voxels that are sampled, the same number from each case."""
MINIMUM_RECALL = 0.2
"""A structure of which the predictions find a smaller fraction of the voxels gets a warning."""
DIAGRAM_BINS = 20
"""Bins of the reliability diagram."""


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    calibrate(StageContext.of_arguments(args, "calibrate"))
    return 0


def calibrate(context: StageContext) -> Calibration:
    """Learn the calibration from the labelled cases and write ``round_0/calibration.json``.

    With a round it is the calibration of the mixture with the external teachers of this round,
    ``round_<r>/calibration.json``.

    Raises:
        HstfError: if out-of-fold predictions or labels are missing or have changed, or if the round
            has no external teacher.
    """
    refuse_round_without_teachers(context)
    config = context.config
    structures = config.structures
    labelled = checked_cases(context)
    mixture = Mixture.of_split(context, Split.LABELLED) if context.round else None
    cases = OutOfFoldCases("calibrate", context.layout, names_of(labelled), mixture)
    rules = LearnedAnatomy.load(context.layout.anatomy_rules).rules
    sample = learn_voxels(cases, config)
    temperature = fit_temperature(sample) if config.refine.calibrate else 1.0
    lesions = {}
    for name, classes in structures.items():
        if name in config.lesions:
            lesions[name] = learn_lesions(cases.read(name), classes, temperature, config.refine)
    known = applicable_rules(structures, rules, lesions)
    scores = []
    for case in cases.read("cases"):
        scores.append(score_case(case, temperature, known, lesions, config))
    calibration = assemble(config, labelled, sample, temperature, rules, lesions, scores)
    calibration.save(calibration_path(context))
    for warning in recall_warnings(calibration.evidence["recall"]):
        print(warning, flush=True)
    return calibration


def refuse_round_without_teachers(context: StageContext) -> None:
    """Refuse a calibration of a round whose teacher is the ensemble.

    Raises:
        HstfError: if a round is given and has no external teacher.
    """
    if context.round and not context.schedule.external(context.config, context.round):
        raise HstfError(
            f"--round {context.round}: has no external teacher. Its calibration is that of the"
            " ensemble: leave out --round."
        )


def learn_voxels(cases: OutOfFoldCases, config: Config) -> VoxelSample:
    """Sample voxels of the predictions of all cases."""
    voxels_per_case = MAXIMUM_VOXELS // (2 * len(cases.case_ids))
    samples = []
    for case in cases.read("voxels"):
        probabilities = case.output.probabilities
        samples.append(sample_voxels(probabilities, case.label, voxels_per_case, config.seed))
    return VoxelSample(
        np.concatenate([sample.probabilities for sample in samples], axis=1),
        np.concatenate([sample.label for sample in samples]),
    )


@dataclass(frozen=True)
class LearnedLesions:
    """What the out-of-fold predictions show about the lesions of one structure."""

    model: LesionModel
    bound: LesionBound
    """From which probability the components of these predictions are kept."""


def learn_lesions(
    cases: Iterable[LabelledCase],
    members: ClassIndices,
    temperature: float,
    config: RefineConfig,
) -> LearnedLesions:
    """Learn which predicted components are lesions, and where a lesion is possible.

    Lesions are counted in dense labels only: a sparse label may have several strokes in a lesion.
    Without any dense label no lesions are expected, so that only ``refine.lesion_probability``
    decides which components are kept.

    Args:
        cases: out-of-fold predictions with their labels.
        members: class indices of the lesions.
        temperature: temperature of the probabilities.
        config: section ``refine`` of the configuration.
    """
    components: list[Component] = []
    are_real: list[bool] = []
    # Counts of voxels by their calibrated probability of being a lesion.
    voxels = np.zeros(256, np.int64)
    lesion_voxels = np.zeros(256, np.int64)
    lesions: list[int] = []
    # The components of the cases whose lesions are counted.
    in_counted_cases: list[Component] = []
    for case in cases:
        calibrated = apply_temperature(case.output.probabilities, temperature)
        probability = structure_probability(calibrated, members)
        numbers, found = find_components(
            structure_mask(most_likely(calibrated), members),
            probability,
            case.output.scale_variance,
            case.voxel_mm3,
        )
        lesion = structure_mask(case.label, members)
        if not is_sparse(case.label):
            lesions.append(count_lesions(lesion))
            in_counted_cases += found
        known = case.label != IGNORED
        verdicts = real_components(numbers, found, lesion, known)
        for component, is_real in zip(found, verdicts, strict=True):
            # A component without labelled voxels has no verdict.
            if is_real is not None:
                components.append(component)
                are_real.append(is_real)
        voxels += np.bincount(probability[known], minlength=256)
        lesion_voxels += np.bincount(probability[lesion], minlength=256)
    possible = possible_bound(voxels, lesion_voxels)
    lesions_per_case = float(np.mean(lesions)) if lesions else 0.0
    model = fit_lesions(components, are_real, possible, lesions_per_case)
    likely = [model.probability(component) for component in in_counted_cases]
    return LearnedLesions(model, lesion_bound(likely, sum(lesions), config))


@dataclass(frozen=True)
class CaseScore:
    """The pseudo-label that refinement would write of a labelled case, compared with its label."""

    features: dict[str, QualityFeatures | None]
    """Quality features by structure, as refinement has them; None if the structure is absent."""
    dice: np.ndarray
    """``(S,)`` true Dice; NaN for a structure of which a sparse label has no voxel."""
    found: np.ndarray
    """``(S,)`` number of labelled voxels of each structure that the pseudo-label has."""
    voxels: np.ndarray
    """``(S,)`` number of labelled voxels of each structure."""


def score_case(
    case: LabelledCase,
    temperature: float,
    known: AnatomyRules,
    lesions: Mapping[str, LearnedLesions],
    config: Config,
) -> CaseScore:
    """Refine an out-of-fold prediction and compare the result with the label.

    Args:
        case: the case.
        temperature: temperature of the probabilities.
        known: the anatomy rules that are applied.
        lesions: what is known of each structure that consists of lesions.
        config: the sections ``refine``, ``labels`` and ``regions``.
    """
    structures = config.structures
    models = {name: learned.model for name, learned in lesions.items()}
    bounds = {name: learned.bound.probability for name, learned in lesions.items()}
    cleaner = LabelCleaner(config.refine, known, temperature, models, case.voxel_mm3, bounds)
    clean = cleaner.clean(case.output)
    features: dict[str, QualityFeatures | None] = {}
    for name, values in clean.features.items():
        is_present = structure_mask(clean.label, structures[name]).any()
        features[name] = values if is_present else None
    counts = confusion(clean.label, case.label, class_count(structures))
    found, _, voxels = overlaps(counts, structures)
    dice = structure_dice(clean.label, case.label, structures)
    return CaseScore(features, dice, found, voxels)


def assemble(
    config: Config,
    cases: Sequence[Case],
    sample: VoxelSample,
    temperature: float,
    rules: Mapping[str, AnatomyRule],
    lesions: Mapping[str, LearnedLesions],
    scores: Sequence[CaseScore],
) -> Calibration:
    """Fit thresholds and predicted Dice, and return them with all other results.

    Args:
        config: the sections ``calibrate``, ``labels`` and ``regions``.
        cases: the labelled cases.
        sample: voxels of all cases, not calibrated.
        temperature: temperature of the probabilities.
        rules: anatomy rule of each structure.
        lesions: what is known of each structure that consists of lesions.
        scores: score of each case.
    """
    calibrated = VoxelSample(apply_temperature(sample.probabilities, temperature), sample.label)
    dice = np.array([score.dice for score in scores])
    may_be_absent = {}
    for name in config.structures:
        may_be_absent[name] = rules[name].may_be_absent or name in lesions
    features = [score.features for score in scores]
    quality = learn_quality(features, dice, may_be_absent, [case.group for case in cases])
    voxel_evidence = _voxel_evidence(config, sample, calibrated, temperature)
    case_evidence = _case_evidence(list(config.structures), cases, scores, dice, quality)
    lowest = float(quality.predicted.min())
    return Calibration(
        temperature=temperature,
        thresholds=_thresholds(config, calibrated),
        anatomy_rules=dict(rules),
        lesions={name: learned.model for name, learned in lesions.items()},
        dice_models=quality.models,
        class_sd=quality.class_sd,
        mean_sd=quality.mean_sd,
        interval=quality.interval,
        minimum_predicted_dice=max(0.0, lowest - quality.mean_sd),
        evidence=voxel_evidence | case_evidence | {"agreement_of_members": quality.errors},
    )


def _thresholds(config: Config, calibrated: VoxelSample) -> dict[str, float]:
    """Return the confidence threshold of each class."""
    classes = config.class_names
    curves = reliability(calibrated, len(classes), config.calibrate.bins)
    thresholds = {}
    for name, curve in zip(classes, curves, strict=True):
        thresholds[name] = confidence_threshold(curve, config.calibrate)
    return thresholds


def _voxel_evidence(
    config: Config, sample: VoxelSample, calibrated: VoxelSample, temperature: float
) -> dict[str, Any]:
    """Return calibration error and likelihood before and after the temperature is applied."""
    classes = config.class_names
    likelihood: dict[str, float | None] = {"before": None, "after": None}
    if len(sample.label):
        likelihood["before"] = negative_log_likelihood(sample, 1.0)
        likelihood["after"] = negative_log_likelihood(sample, temperature)
    diagram = reliability(calibrated, len(classes), DIAGRAM_BINS)
    return {
        "voxels": len(sample.label),
        "negative_log_likelihood": likelihood,
        "calibration_error": {
            "before": _calibration_errors(config, sample),
            "after": _calibration_errors(config, calibrated),
        },
        "reliability": reliability_diagram(diagram, classes),
    }


def _calibration_errors(config: Config, sample: VoxelSample) -> dict[str, float | None]:
    """Return the calibration error of each class."""
    curves = reliability(sample, len(config.class_names), config.calibrate.bins)
    errors = [curve.error for curve in curves]
    return dict(zip(config.class_names, errors, strict=True))


def _case_evidence(
    structures: Sequence[str],
    cases: Sequence[Case],
    scores: Sequence[CaseScore],
    dice: np.ndarray,
    quality: "Quality",
) -> dict[str, Any]:
    """Return Dice and recall of each structure, and the Dice of each case that has a known one."""
    by_case = {}
    for case, row, predicted in zip(cases, dice, quality.predicted, strict=True):
        if np.isnan(row).all():
            continue
        values = zip(structures, row.tolist(), strict=True)
        by_case[case.case_id] = {
            "dice": {name: value for name, value in values if not isnan(value)},
            "mean_dice": float(np.nanmean(row)),
            "predicted_dice": float(predicted),
        }
    means = [finite_or_none(mean) for mean in structure_means(dice).tolist()]
    return {
        "dice": dict(zip(structures, means, strict=True)),
        "recall": dict(zip(structures, pooled_recall(scores), strict=True)),
        "cases": by_case,
    }


def pooled_recall(scores: Sequence[CaseScore]) -> list[float | None]:
    """Return the fraction of the labelled voxels that are found, by structure, over all cases.

    It is None for a structure without labelled voxels.
    """
    found = np.sum([score.found for score in scores], axis=0)
    voxels = np.sum([score.voxels for score in scores], axis=0)
    recalls: list[float | None] = []
    for found_of_structure, count in zip(found, voxels, strict=True):
        recalls.append(float(found_of_structure / count) if count else None)
    return recalls


def recall_warnings(recalls: Mapping[str, float | None]) -> list[str]:
    """Return a warning for each structure with a recall below :data:`MINIMUM_RECALL`."""
    warnings = []
    for name, recall in recalls.items():
        if recall is not None and recall < MINIMUM_RECALL:
            warnings.append(
                f"calibrate: warning: the warm-up finds {recall:.0%} of the voxels of {name} in"
                " labelled cases that it has not seen. From pseudo-labels, students will learn that"
                f" there is no {name}. Raise warmup.steps, or label more cases with {name}, before"
                " you start the first round."
            )
    return warnings


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
