"""The tables of the test cases of a round, and the summary of their scores."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.score_tables import (
    EVALUATION,
    EVALUATION_CASES,
    EVALUATION_LESIONS,
    EVALUATION_MEMBERS,
    VALIDATION_CASES,
)
from hstf.runtime.errors import HstfError
from hstf.runtime.shards import read_shard
from hstf.scoring.absent_classes import absence_warnings, presence
from hstf.scoring.averages import (
    Score,
    Statistics,
    balanced_mean,
    describe,
    describe_balanced,
    finite_or_none,
    mean,
)
from hstf.scoring.documents import (
    CaseScores,
    EmptyCounts,
    EvaluationSummary,
    MemberSummary,
    PseudoLabelSummary,
    StructureScores,
    StructureSummary,
)
from hstf.scoring.lesion_detection import Lesion
from hstf.scoring.lesion_summary import LesionSummary, summarise
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import Interval, balanced_interval
from hstf.stages.evaluate.pseudo_label_scores import score_pseudo_labels
from hstf.stages.evaluate.references import lesion_structures


def summarise_round(context: StageContext) -> EvaluationSummary:
    """Write the tables of a round and its ``summary.json``.

    The tables are ``cases.csv``, ``members.csv``, ``lesions.csv`` and ``pseudo_labels.csv``.

    Raises:
        HstfError: if the table of a shard is missing or has other cases than the case sheet, or if
            files have changed since they were written.
    """
    layout = context.layout
    number = context.round
    scores = _read_scores(context, Split.TEST)
    EVALUATION_CASES.write(layout.evaluation_cases(number), _case_rows(scores))
    EVALUATION_MEMBERS.write(layout.evaluation_members(number), _member_rows(scores))
    EVALUATION_LESIONS.write(layout.evaluation_lesions(number), _lesion_rows(scores))
    summary = _summary(context, scores, score_pseudo_labels(context))
    summary.save(layout.evaluation_summary(number))
    return summary


def summarise_validation(context: StageContext) -> EvaluationSummary:
    """Write ``validation_cases.csv`` and ``validation.json`` of a round.

    Raises:
        HstfError: if there are no validation cases, if the table of a shard is missing or has other
            cases than the case sheet, or if files have changed since they were written.
    """
    layout = context.layout
    scores = _read_scores(context, Split.VALIDATION)
    if not scores:
        raise HstfError("--validation: the case sheet has no validation cases (split: validation).")
    VALIDATION_CASES.write(layout.validation_table(context.round), _case_rows(scores))
    summary = _summary(context, scores, None)
    summary.save(layout.validation_summary(context.round))
    return summary


def _summary(
    context: StageContext,
    scores: Sequence[CaseScores],
    pseudo_labels: PseudoLabelSummary | None,
) -> EvaluationSummary:
    """Summarise the scores of test or validation cases."""
    config = context.config
    number = context.round
    classes = {}
    for name in config.structures:
        classes[name] = _summarise_structure([case.classes[name] for case in scores])
    warnings = []
    if scores:
        warnings = absence_warnings({name: found.presence for name, found in classes.items()})
    return EvaluationSummary(
        round=number,
        model="student" if number else "warm-up",
        cases=len(scores),
        patients=len({case.group for case in scores}),
        dice=_dice_interval(config, scores),
        mean=_mean_metrics(scores),
        classes=classes,
        lesions=_summarise_lesions(config, scores),
        warnings=warnings,
        members=_summarise_members(scores, context.schedule.members(number)),
        pseudo_labels=pseudo_labels,
    )


def _read_scores(context: StageContext, split: Split) -> list[CaseScores]:
    """Read the scores of all cases of a split, in the order of the case sheet."""
    layout = context.layout
    scores = []
    for shard, cases in context.shards(split).items():
        # Raises if cases or files are missing, or if files have changed.
        table = layout.evaluation_table(context.round, shard)
        read_shard(EVALUATION, table, names_of(cases))
        for case in cases:
            path = layout.evaluation_scores(context.round, case.case_id)
            scores.append(CaseScores.load(path))
    return scores


def _case_rows(scores: Sequence[CaseScores]) -> Iterator[dict[str, Any]]:
    for case in scores:
        for name, metrics in case.classes.items():
            row = {"case_id": case.case_id, "group": case.group, "site": case.site, "class": name}
            yield row | metrics


def _member_rows(scores: Sequence[CaseScores]) -> Iterator[dict[str, Any]]:
    for case in scores:
        for member, scores_of_member in case.members.items():
            for name, metrics in scores_of_member.items():
                yield {"case_id": case.case_id, "member": member, "class": name} | metrics


def _lesion_rows(scores: Sequence[CaseScores]) -> Iterator[dict[str, Any]]:
    """Yield the lesions of the reference, then the predicted lesions without a match."""
    for case in scores:
        for name, lesions in case.lesions.items():
            key = {"case_id": case.case_id, "class": name}
            for lesion in lesions.reference:
                yield key | _lesion_row(lesion, missing="missed")
            for lesion in lesions.predicted:
                if not lesion.matched:
                    yield key | _lesion_row(lesion, missing="false positive")


def _lesion_row(
    lesion: Lesion,
    missing: str,
) -> dict[str, Any]:
    """Return the columns of a lesion.

    Args:
        lesion: the lesion.
        missing: result of a lesion without a match.
    """
    result = "hit" if lesion.matched else missing
    return {
        "lesion": result if lesion.counted else "not counted",
        "volume_mm3": lesion.volume_mm3,
        "overlap": lesion.overlap,
        "score": lesion.score,
    }


def _dice_interval(
    config: Config,
    scores: Sequence[CaseScores],
) -> Interval:
    groups = [case.group for case in scores]
    return balanced_interval(
        _table(scores, "dice"),
        groups,
        config.evaluate.bootstrap,
        config.seed,
    )


def _mean_metrics(scores: Sequence[CaseScores]) -> dict[str, Statistics]:
    return {metric: describe_balanced(_table(scores, metric)) for metric in METRICS}


def _table(
    scores: Sequence[CaseScores],
    metric: str,
) -> np.ndarray:
    """Return a metric as ``(N, S)`` by case and structure."""
    if not scores:
        return np.empty((0, 0))
    return np.array([case.values(metric) for case in scores], dtype=float)


def _summarise_structure(scores: Sequence[StructureScores]) -> StructureSummary:
    """Summarise the scores of one structure in all cases."""
    statistics: dict[str, Any] = {}
    for metric in METRICS:
        statistics[metric] = describe(case[metric] for case in scores)  # type: ignore[misc]
    empty = Counter(case["empty"] for case in scores)
    counts = presence(scores)
    return StructureSummary(
        **statistics,
        empty=EmptyCounts(
            both=empty["both"], prediction=empty["prediction"], reference=empty["reference"]
        ),
        present=counts.present,
        absent=counts.absent,
    )


def _summarise_lesions(
    config: Config,
    scores: Sequence[CaseScores],
) -> dict[str, LesionSummary]:
    """Summarise the detection of each structure that consists of lesions."""
    # A sparse reference does not show lesions.
    cases = [case for case in scores if case.lesions]
    groups = [case.group for case in cases]
    summaries = {}
    for name in lesion_structures(config):
        summaries[name] = summarise(
            [case.lesions[name] for case in cases],
            groups,
            config.evaluate.detection,
            config.evaluate.bootstrap,
            config.seed,
        )
    return summaries


def _member_dice(case: CaseScores, member: str) -> list[Any]:
    return [metrics["dice"] for metrics in case.members[member].values()]


def _summarise_members(
    scores: Sequence[CaseScores],
    names: Sequence[str],
) -> MemberSummary:
    each: dict[str, Score] = {}
    for name in names:
        rows = [_member_dice(case, name) for case in scores]
        table = np.array(rows, dtype=float, ndmin=2)
        each[name] = finite_or_none(balanced_mean(table))
    return MemberSummary(mean=mean(each.values()), each=each)
