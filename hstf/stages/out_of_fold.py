"""``hstf out_of_fold``: predict each labelled case by the networks that have not seen it.

These predictions are the only ones whose error is known without a test case. They show which
anatomy rules improve a segmentation (``round_0/anatomy_rules.json``). The stage ``calibrate``
learns everything else from them.
"""

import argparse
from collections.abc import Iterable, Mapping

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.folds import held_out_cases
from hstf.imaging.probabilities import most_likely
from hstf.method.ensemble import predict_out_of_fold
from hstf.method.plr.anatomy import AnatomyRule, describe_anatomy, learn_rule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.calibration import LearnedAnatomy, applicable_rules
from hstf.method.plr.out_of_fold import (
    LabelledCase,
    OutOfFoldCases,
    checked_cases,
)
from hstf.scoring.averages import standard_error
from hstf.scoring.confusion import structure_dice


def run(args: argparse.Namespace) -> int:
    """Run the stage."""
    out_of_fold(StageContext.of_arguments(args, "out_of_fold"))
    return 0


def out_of_fold(context: StageContext) -> LearnedAnatomy:
    """Predict the labelled cases and learn their anatomy.

    Cases that are up to date are skipped.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    for fold in context.schedule.held_out:
        predict_fold(context, fold)
    labelled = checked_cases(context)
    cases = OutOfFoldCases("out_of_fold", context.layout, names_of(labelled))
    patients = {case.case_id: case.group for case in labelled}
    anatomy = learn_anatomy(cases, patients, context.config)
    anatomy.save(context.layout.anatomy_rules)
    return anatomy


def predict_fold(context: StageContext, fold: str) -> None:
    """Predict the cases of a fold with the networks that have not seen them.

    Args:
        context: the stage.
        fold: name of the fold, which is that of the first of these networks.

    Raises:
        HstfError: if weights or preprocessed files are missing or have changed.
    """
    labelled = context.cases(Split.LABELLED)
    config = context.config
    held_out = held_out_cases(fold, labelled, config.warmup.folds, config.seed)
    weights = {}
    for member in context.schedule.held_out[fold]:
        weights[member] = context.layout.weights(0, member)
    predict_out_of_fold(context, fold, held_out, weights)


def learn_anatomy(
    cases: OutOfFoldCases,
    patients: Mapping[str, str],
    config: Config,
) -> LearnedAnatomy:
    """Learn the anatomy rules of the labels, and what each of them changes in the predictions.

    Args:
        cases: the labelled cases with their predictions.
        patients: the patient of each case.
        config: the sections ``labels``, ``regions`` and ``lesions``.
    """
    structures = config.structures
    anatomies = []
    for case in cases.read("anatomy"):
        anatomies.append(describe_anatomy(case.label, structures, case.voxel_mm3))
    rules = {}
    for name in structures:
        rules[name] = learn_rule([anatomy[name] for anatomy in anatomies])
    lesions = [name for name in structures if name in config.lesions]
    candidates = applicable_rules(structures, rules, lesions)
    rules |= with_gains(candidates, cases.read("anatomy rules"), patients)
    return LearnedAnatomy(rules=rules, lesions=lesions)


def with_gains(
    anatomy: AnatomyRules,
    cases: Iterable[LabelledCase],
    patients: Mapping[str, str],
) -> dict[str, AnatomyRule]:
    """Return the rules with their gain: the mean change of the Dice if only this rule is applied.

    Each patient counts once, however many scans there are.

    Args:
        anatomy: the rules.
        cases: out-of-fold predictions with their labels.
        patients: the patient of each case.
    """
    gains: dict[str, dict[str, list[float]]] = {name: {} for name in anatomy.rules}
    for case in cases:
        patient = patients[case.case_id]
        for name, gain in _gains_of_case(anatomy, case).items():
            gains[name].setdefault(patient, []).append(gain)
    rules = {}
    for name, rule in anatomy.rules.items():
        by_patient = [float(np.mean(of_scans)) for of_scans in gains[name].values()]
        effect = {
            "dice_gain": float(np.mean(by_patient)),
            "gain_error": standard_error(by_patient),
        }
        rules[name] = rule.model_copy(update=effect)
    return rules


def _gains_of_case(anatomy: AnatomyRules, case: LabelledCase) -> dict[str, float]:
    """Return the change of the mean Dice of a case by rule."""
    probabilities = case.output.probabilities
    label = most_likely(probabilities)
    before = structure_dice(label, case.label, anatomy.classes)
    gains = {}
    for name, rule in anatomy.rules.items():
        single = AnatomyRules(classes=anatomy.classes, rules={name: rule})
        cleaned = single.apply_to_label(label, probabilities, case.voxel_mm3)
        after = structure_dice(cleaned, case.label, anatomy.classes)
        gains[name] = _mean_difference(after, before)
    return gains


def _mean_difference(after: np.ndarray, before: np.ndarray) -> float:
    """Return the mean change over the structures whose Dice is known; 0 if there is none."""
    change = after - before
    known = change[~np.isnan(change)]
    return float(known.mean()) if len(known) else 0.0
