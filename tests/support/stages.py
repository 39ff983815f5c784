"""Stages as tests call them: with a whole configuration in place of the context of a stage."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from hstf.config.experiment import Config
from hstf.experiment import folds, overrides
from hstf.experiment.cases import Case, Split, names_of, read_cases
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override
from hstf.experiment.plan import Plan
from hstf.experiment.schedule import Schedule
from hstf.method import cross_fitting, ensemble
from hstf.method.plr.calibration import Calibration, LearnedAnatomy
from hstf.method.plr.lesion_bounds import LesionBounds
from hstf.method.plr.out_of_fold import OutOfFoldCases, checked_cases
from hstf.stages import export as export_stage
from hstf.stages import labels as labels_stage
from hstf.stages import lesions as lesions_stage
from hstf.stages import out_of_fold as out_of_fold_stage
from hstf.stages import preprocess as preprocess_stage
from hstf.stages import refine as refine_stage
from hstf.stages import student as student_stage
from hstf.stages import teacher as teacher_stage
from hstf.stages import warmup as warmup_stage
from hstf.stages.calibrate import stage as calibrate_stage
from hstf.stages.check import stage as check_stage
from hstf.stages.check.findings import Finding
from hstf.stages.plan import stage as plan_stage
from hstf.training.patches import TrainingCase


def check(config: Config) -> list[Finding]:
    return check_stage.check(StageContext.of(config, "check"))


def plan(config: Config) -> Plan:
    return plan_stage.plan(StageContext.of(config, "plan"))


def preprocess(config: Config, shard: str) -> int:
    return preprocess_stage.preprocess(StageContext.of(config, "preprocess"), shard)


def warmup(config: Config, member: str) -> None:
    warmup_stage.warmup(StageContext.of(config, "warmup"), member)


def held_out_cases(config: Config, member: str, labelled: Sequence[Case]) -> list[Case]:
    return folds.held_out_cases(member, labelled, config.warmup.folds, config.seed)


def predict_out_of_fold(config: Config, member: str, cases: Sequence[Case], weights: Path) -> None:
    context = StageContext.of(config, "out_of_fold")
    ensemble.predict_out_of_fold(context, member, cases, {member: weights})


def predict_fold(config: Config, member: str) -> None:
    out_of_fold_stage.predict_fold(StageContext.of(config, "out_of_fold"), member)


def out_of_fold(config: Config) -> LearnedAnatomy:
    return out_of_fold_stage.out_of_fold(StageContext.of(config, "out_of_fold"))


def learn_anatomy(config: Config) -> LearnedAnatomy:
    """Learn from predictions that are on disk."""
    context = StageContext.of(config, "out_of_fold")
    labelled = checked_cases(context)
    cases = OutOfFoldCases("out_of_fold", context.layout, names_of(labelled))
    patients = {case.case_id: case.group for case in labelled}
    anatomy = out_of_fold_stage.learn_anatomy(cases, patients, context.config)
    anatomy.save(context.layout.anatomy_rules)
    return anatomy


def calibrate(config: Config) -> Calibration:
    return calibrate_stage.calibrate(StageContext.of(config, "calibrate"))


def bound_lesions(config: Config, number: int) -> LesionBounds:
    return lesions_stage.bound_lesions(StageContext.of(config, "lesions", number))


def teacher(config: Config, number: int, shard: str) -> int:
    return teacher_stage.teacher(StageContext.of(config, "teacher", number), shard)


def teachers_by_case(config: Config, number: int, case_ids: Iterable[str]) -> dict[str, list[str]]:
    unlabelled = read_cases(config).of(Split.UNLABELLED)
    return cross_fitting.teachers_by_case(
        Schedule.of(config), number, case_ids, unlabelled, config.seed
    )


def refine(config: Config, number: int, shard: str) -> int:
    return refine_stage.refine(StageContext.of(config, "refine", number), shard)


def merge_refined(config: Config, number: int) -> None:
    refine_stage.merge_refined(StageContext.of(config, "refine", number))


def overrides_in_force(config: Config, number: int, case_ids: Iterable[str]) -> dict[str, Override]:
    return overrides.overrides_in_force(
        Layout.of(config), Schedule.of(config), number, set(case_ids)
    )


def labels(config: Config, number: int, shard: str) -> int:
    return labels_stage.labels(StageContext.of(config, "labels", number), shard)


def merge_labels(config: Config, number: int) -> None:
    labels_stage.merge_labels(StageContext.of(config, "labels", number))


def student(config: Config, number: int, member: str) -> None:
    student_stage.student(StageContext.of(config, "student", number), member)


def other_cases(config: Config, number: int, member: str) -> list[TrainingCase]:
    return student_stage.other_cases(StageContext.of(config, "student", number), member)


def start_weights(config: Config, number: int, member: str) -> Path | None:
    return student_stage.start_weights(StageContext.of(config, "student", number), member)


def learned_cases(config: Config, number: int, member: str, case_ids: Iterable[str]) -> list[str]:
    unlabelled = read_cases(config).of(Split.UNLABELLED)
    return cross_fitting.learned_cases(
        Schedule.of(config), number, member, case_ids, unlabelled, config.seed
    )


def members(config: Config, number: int) -> list[str]:
    return Schedule.of(config).members(number)


def trained(config: Config, number: int) -> list[str]:
    return Schedule.of(config).trained(number)


def export(config: Config) -> Path:
    return export_stage.export(config)[0]
