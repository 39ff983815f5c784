"""``hstf calibrate``: compare out-of-fold predictions with labels, and learn how reliable they are.

The calibration is learned once, after the warm-up, and is used in all rounds. Students learn from
all labelled cases, so that later no labelled case is left that the model has not seen. Students are
slightly more confident than the warm-up. From round 2 on, the predicted Dice is therefore slightly
too high, while the order of the cases stays the same.
"""

import argparse
from collections.abc import Mapping, Sequence

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.imaging.probabilities import apply_temperature
from hstf.method.external_weights import Mixture, calibration_path
from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.calibration import Calibration, LearnedAnatomy, applicable_rules
from hstf.method.plr.out_of_fold import OutOfFoldCases, checked_cases
from hstf.method.plr.reliability import (
    VoxelSample,
    confidence_threshold,
    fit_temperature,
    reliability,
    sample_voxels,
)
from hstf.runtime.errors import HstfError
from hstf.stages.calibrate.case_scores import CaseScore, recall_warnings, score_case
from hstf.stages.calibrate.evidence import case_evidence, voxel_evidence
from hstf.stages.calibrate.lesions import LearnedLesions, learn_lesions
from hstf.stages.calibrate.quality import learn_quality

MAXIMUM_VOXELS = 4_000_000
"""Maximum number of voxels that are sampled, the same number from each case."""


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
    of_voxels = voxel_evidence(config, sample, calibrated, temperature)
    of_cases = case_evidence(list(config.structures), cases, scores, dice, quality)
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
        evidence=of_voxels | of_cases | {"agreement_of_members": quality.errors},
    )


def _thresholds(config: Config, calibrated: VoxelSample) -> dict[str, float]:
    """Return the confidence threshold of each class."""
    classes = config.class_names
    curves = reliability(calibrated, len(classes), config.calibrate.bins)
    thresholds = {}
    for name, curve in zip(classes, curves, strict=True):
        thresholds[name] = confidence_threshold(curve, config.calibrate)
    return thresholds
