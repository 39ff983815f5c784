"""``hstf calibrate``: what the teacher's confidence is worth, learned on the labelled cases that it has not seen.

It is learned once, on the warm-up, and holds for all rounds. Students learn from all labelled cases, so there is none left
that they have not seen: cross-fitting leaves out unlabelled parts alone, and a student asked about a case it knows is always
sure. Students are somewhat surer than the warm-up, so that from round 2 on predicted Dice is on the high side by as much;
their order is not touched.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.tables import PREPROCESSED, TEACHER
from hstf.imaging.arrays import read_array
from hstf.imaging.geometry import Geometry
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import apply_temperature, most_likely
from hstf.imaging.regions import (
    ClassIndices,
    class_count,
    overlaps,
    structure_mask,
    structure_probability,
)
from hstf.method.plr.anatomy_rules import (
    AnatomyRule,
    AnatomyRules,
    describe_anatomy,
    learn_rule,
)
from hstf.method.plr.calibration import Calibration, applicable_rules
from hstf.method.plr.lesions import (
    Component,
    LesionModel,
    find_components,
    fit_lesions,
    possible_bound,
    real_components,
)
from hstf.method.plr.predicted_dice import (
    DiceModel,
    QualityFeatures,
    fit_models,
    leave_one_out_errors,
    residual_sd,
)
from hstf.method.plr.refinement import LabelCleaner
from hstf.method.plr.reliability import (
    VoxelSample,
    confidence_threshold,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    reliability_diagram,
    sample_voxels,
)
from hstf.method.tta_summary import TtaSummary
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import track
from hstf.runtime.shards import read_shard
from hstf.scoring.metrics import confusion, structure_dice

VOXELS = 4_000_000
"""Most voxels that are looked at, as many from each case."""
MISSED = 0.2
"""Structures of which a smaller share of the voxels is found are told."""
DIAGRAM_BINS = 20
"""Bins of the reliability diagram."""


def run(args: argparse.Namespace) -> int:
    calibrate(StageContext.of_arguments(args, "calibrate"))
    return 0


@dataclass(frozen=True)
class LabelledCase:
    """An out-of-fold prediction and the label it is measured with, both on the grid."""

    case_id: str
    output: TtaSummary
    label: np.ndarray
    """``(X, Y, Z)`` uint8 class index, 255 where unknown."""
    voxel_mm3: float


def calibrate(context: StageContext) -> Calibration:
    """Learn temperature, thresholds, structure, lesions and predicted Dice; write ``round_0/calibration.json``.

    Raises:
        HstfError: out-of-fold predictions or labels are missing or changed.
    """
    layout = context.layout
    config = context.config
    structures = config.structures
    cases = _labelled(context)
    case_ids = [case.case_id for case in cases]
    samples, shapes = [], []
    for case_id in track(case_ids, "calibrate: voxels"):
        case = read_case(layout, case_id)
        samples.append(
            sample_voxels(
                case.output.probabilities, case.label, VOXELS // (2 * len(case_ids)), config.seed
            )
        )
        shapes.append(describe_anatomy(case.label, structures, case.voxel_mm3))
    pooled = VoxelSample(
        np.concatenate([s.probabilities for s in samples], axis=1),
        np.concatenate([s.label for s in samples]),
    )
    temperature = fit_temperature(pooled) if config.refine.calibrate else 1.0
    rules = {name: learn_rule([shape[name] for shape in shapes]) for name in structures}
    lesions = {
        name: learn_lesions(
            (read_case(layout, case_id) for case_id in track(case_ids, f"calibrate: {name}")),
            members,
            temperature,
        )
        for name, members in structures.items()
        if name in config.lesions
    }
    predicted = (read_case(layout, case_id) for case_id in track(case_ids, "calibrate: structure"))
    rules |= with_gains(applicable_rules(structures, rules, lesions), predicted)
    known = applicable_rules(structures, rules, lesions)
    scores = [
        score_case(read_case(layout, case_id), temperature, known, lesions, config)
        for case_id in track(case_ids, "calibrate: cases")
    ]
    calibration = assemble(config, cases, pooled, temperature, rules, lesions, scores)
    calibration.save(layout.calibration)
    for warning in missed_structures(calibration.evidence["recall"]):
        print(warning, flush=True)
    return calibration


def _labelled(context: StageContext) -> list[Case]:
    """Return the labelled cases after checking their files.

    Raises:
        HstfError: if files are missing or have changed, or if a case has no out-of-fold prediction.
    """
    layout = context.layout
    predicted: set[str] = set()
    for member in context.schedule.members(0):
        if member.startswith("fold_"):
            predicted |= read_shard(TEACHER, layout.out_of_fold_table(member)).keys()
    for shard in context.shards(Split.LABELLED):
        read_shard(PREPROCESSED, layout.preprocessed_table(shard))
    cases = context.cases(Split.LABELLED)
    missing = [case.case_id for case in cases if case.case_id not in predicted]
    if missing:
        raise HstfError(
            f"{layout.out_of_fold}: there is no out-of-fold prediction of {', '.join(missing)}."
            " Run the warmup stage again."
        )
    return cases


def read_case(layout: Layout, case_id: str) -> LabelledCase:
    """Read a labelled case's prediction and label on the grid."""
    folder = layout.preprocessed / case_id
    geometry = Geometry.load(folder / "geometry.json")
    return LabelledCase(
        case_id,
        TtaSummary.load(layout.out_of_fold / case_id),
        read_array(folder / "label.b2nd"),
        prod(geometry.spacing),
    )


def learn_lesions(
    cases: Iterable[LabelledCase], members: ClassIndices, temperature: float
) -> LesionModel:
    """What the out-of-fold ``cases`` teach about lesions that have the classes ``members``."""
    components: list[Component] = []
    real: list[bool] = []
    voxels, lesion_voxels = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for case in cases:
        calibrated = apply_temperature(case.output.probabilities, temperature)
        likely = structure_probability(calibrated, members)
        numbers, found = find_components(
            structure_mask(most_likely(calibrated), members),
            likely,
            case.output.scale_variance,
            case.voxel_mm3,
        )
        lesion, known = structure_mask(case.label, members), case.label != IGNORED
        for component, truth in zip(
            found, real_components(numbers, found, lesion, known), strict=True
        ):
            if truth is not None:
                components.append(component)
                real.append(truth)
        voxels += np.bincount(likely[known], minlength=256)
        lesion_voxels += np.bincount(likely[lesion], minlength=256)
    return fit_lesions(components, real, possible_bound(voxels, lesion_voxels))


def with_gains(anatomy: AnatomyRules, cases: Iterable[LabelledCase]) -> dict[str, AnatomyRule]:
    """The rules of ``anatomy``, each with what bringing the out-of-fold predictions to it alone adds to their mean Dice."""
    gains = []
    for case in cases:
        given = case.output.probabilities
        label = most_likely(given)
        before = structure_dice(label, case.label, anatomy.classes)
        single = (
            AnatomyRules(classes=anatomy.classes, rules={name: rule})
            for name, rule in anatomy.rules.items()
        )
        after = [
            structure_dice(
                one.apply_to_label(label, given, case.voxel_mm3), case.label, anatomy.classes
            )
            for one in single
        ]
        gains.append([_mean_difference(dice, before) for dice in after])
    return {
        name: rule.model_copy(update={"dice_gain": float(np.mean(gain))})
        for (name, rule), gain in zip(anatomy.rules.items(), zip(*gains, strict=True), strict=True)
    }


def _mean_difference(after: np.ndarray, before: np.ndarray) -> float:
    """Mean over the structures of the change of their Dice; 0 where none is known."""
    change = (after - before)[~np.isnan(after - before)]
    return float(change.mean()) if len(change) else 0.0


@dataclass(frozen=True)
class CaseScore:
    """What refinement would write of a labelled case, and how right it is about the labelled voxels."""

    features: dict[str, QualityFeatures | None]
    """By structure, as refinement will see them."""
    dice: np.ndarray
    """``(S,)`` true Dice; NaN for a structure of which a sparse label shows none."""
    found: np.ndarray
    """``(S,)`` voxels of each structure that the prediction has too."""
    voxels: np.ndarray
    """``(S,)`` voxels of each structure."""


def score_case(
    case: LabelledCase, temperature: float, known: AnatomyRules, lesions: Mapping[str, LesionModel],
    config: Config,
) -> CaseScore:  # fmt: skip
    """Refine the out-of-fold prediction of ``case`` and compare it with the label."""
    structures = config.structures
    clean = LabelCleaner(config.refine, known, temperature, lesions, case.voxel_mm3).clean(
        case.output
    )
    features = {
        name: values if structure_mask(clean.label, structures[name]).any() else None
        for name, values in clean.features.items()
    }
    found, _, voxels = overlaps(
        confusion(clean.label, case.label, class_count(structures)), structures
    )
    return CaseScore(features, structure_dice(clean.label, case.label, structures), found, voxels)


def assemble(
    config: Config, cases: Sequence[Case], sample: VoxelSample, temperature: float, rules: Mapping[str, AnatomyRule],
    lesions: Mapping[str, LesionModel], scores: Sequence[CaseScore],
) -> Calibration:  # fmt: skip
    """Put together what the voxels and the cases tell: confidence by class, predicted Dice by structure."""
    classes, structures = config.class_names, list(config.structures)
    calibrated = VoxelSample(apply_temperature(sample.probabilities, temperature), sample.label)
    before, after = (
        reliability(s, len(classes), config.calibrate.bins) for s in (sample, calibrated)
    )
    table = as_good_as_others(np.array([score.dice for score in scores]))
    told = ~np.isnan(table).all(axis=1)
    absent = {name: rules[name].may_be_absent or name in lesions for name in structures}
    quality = learn_quality(
        [score.features for score in scores], table, absent, [case.group for case in cases]
    )
    return Calibration(
        temperature=temperature,
        thresholds={
            n: confidence_threshold(curve, config.calibrate)
            for n, curve in zip(classes, after, strict=True)
        },
        anatomy_rules=dict(rules),
        lesions=dict(lesions),
        dice_models=quality.models,
        class_sd=quality.class_sd,
        mean_sd=quality.mean_sd,
        patients=len({case.group for case, known in zip(cases, told, strict=True) if known}),
        minimum_predicted_dice=max(0.0, float(quality.predicted.min()) - quality.mean_sd),
        evidence={
            "voxels": len(sample.label),
            "negative_log_likelihood": {
                "before": negative_log_likelihood(sample, 1.0) if len(sample.label) else None,
                "after": negative_log_likelihood(sample, temperature)
                if len(sample.label)
                else None,
            },
            "calibration_error": {
                "before": {name: curve.error for name, curve in zip(classes, before, strict=True)},
                "after": {name: curve.error for name, curve in zip(classes, after, strict=True)},
            },
            "reliability": reliability_diagram(
                reliability(calibrated, len(classes), DIAGRAM_BINS), classes
            ),
            "dice": dict(zip(structures, np.nanmean(table, axis=0).tolist(), strict=True)),
            "recall": dict(zip(structures, pooled_recall(scores), strict=True)),
            "cases": _case_evidence(
                [case.case_id for case in cases], structures, table, quality.predicted
            ),
        },
    )


def pooled_recall(scores: Sequence[CaseScore]) -> list[float | None]:
    """Share of the voxels of each structure, of all cases together, that the predictions find; None without any."""
    found, voxels = (
        np.sum(counts, axis=0)
        for counts in zip(*((s.found, s.voxels) for s in scores), strict=True)
    )
    return [float(f / n) if n else None for f, n in zip(found, voxels, strict=True)]


def missed_structures(recall: Mapping[str, float | None]) -> list[str]:
    """A sentence about each structure of which the warm-up finds less than :data:`MISSED`."""
    return [
        f"calibrate: warning: the warm-up finds {found:.0%} of the voxels of {name} in the labelled cases that it has not"
        f" seen. Pseudo-labels will teach students that there is no {name}: raise warmup.steps, or label more cases with it,"
        " before any round."
        for name, found in recall.items()
        if found is not None and found < MISSED
    ]


@dataclass(frozen=True)
class Quality:
    """How the Dice of a pseudo-label is predicted, and how far off that is."""

    models: dict[str, DiceModel]
    """By structure."""
    class_sd: dict[str, float]
    """By structure: standard deviation of the error on a case of a patient that the model has not seen."""
    mean_sd: float
    """The same of the mean over the structures."""
    predicted: np.ndarray
    """``(cases,)`` mean over the structures of the predicted Dice (0..1)."""


def learn_quality(
    features: Sequence[dict[str, QualityFeatures | None]], table: np.ndarray, may_be_absent: Mapping[str, bool],
    patients: Sequence[str],
) -> Quality:  # fmt: skip
    """Fit the predicted Dice of each structure to the true one.

    Args:
        features: of each case, by structure.
        table: ``(cases, S)`` true Dice (0..1); NaN is unknown.
        may_be_absent: by structure, in the order of the columns of ``table``.
        patients: whose each case is.
    """
    models = fit_models(features, table, may_be_absent)
    errors = leave_one_out_errors(features, table, may_be_absent, patients)
    predicted = [
        np.mean([models[name].predict(values) for name, values in case.items()])
        for case in features
    ]
    class_sd = {
        name: residual_sd(column[~np.isnan(column)])
        for name, column in zip(models, errors.T, strict=True)
    }
    return Quality(models, class_sd, residual_sd(_case_means(errors)), np.array(predicted))


def as_good_as_others(table: np.ndarray) -> np.ndarray:
    """Dice ``(cases, S)`` in which a structure that is unknown (NaN) in every case has the mean of the others, or 1."""
    nowhere = np.isnan(table).all(axis=0)
    return np.where(nowhere, 1.0 if nowhere.all() else np.nanmean(table[:, ~nowhere]), table)


def _case_means(errors: np.ndarray) -> np.ndarray:
    """Mean over the structures of ``(cases, S)``, of the cases of which one is known."""
    return np.nanmean(errors[~np.isnan(errors).all(axis=1)], axis=1)


def _case_evidence(
    case_ids: Sequence[str], names: Sequence[str], table: np.ndarray, predicted: np.ndarray
) -> dict[str, Any]:
    return {
        case_id: {
            "dice": {
                name: value
                for name, value in zip(names, row.tolist(), strict=True)
                if value == value
            },
            "mean_dice": float(np.nanmean(row)),
            "predicted_dice": float(guess),
        }
        for case_id, row, guess in zip(case_ids, table, predicted, strict=True)
        if not np.isnan(row).all()
    }
