"""A round in numbers: the tables of its test cases and members, and the summary of both."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.tables import (
    EVALUATION,
    EVALUATION_CASES,
    EVALUATION_LESIONS,
    EVALUATION_MEMBERS,
)
from hstf.runtime.files import read_json, write_json
from hstf.runtime.shards import read_shard
from hstf.scoring.absent_classes import doubts, presence
from hstf.scoring.averages import class_balanced, describe, known, mean
from hstf.scoring.lesion_detection import CaseLesions, Lesion, summarise
from hstf.scoring.metrics import METRICS
from hstf.scoring.significance import mean_interval
from hstf.stages.evaluate.cases import lesion_structures
from hstf.stages.evaluate.pseudo_label_scores import score_pseudo_labels

Scores = dict[str, Any]


def summarise_round(context: StageContext) -> dict[str, Any]:
    """Write a round's ``cases.csv``, ``lesions.csv``, ``members.csv``, ``pseudo_labels.csv``, ``summary.json``.

    Returns the summary, which holds, for the team of members, and with regions for these in place of classes:

    - ``dice``: mean over foreground classes of the mean over cases, with its bootstrap interval over patients. Cases in
      which reference and prediction lack a class do not count for it (unless ``evaluate.empty`` is ``one``);
    - ``mean``: the same mean, with standard deviation and median of its cases' values, for each metric;
    - ``classes``: for each class mean, deviation and median; ``empty``: cases in which prediction, reference or both lack
      it; ``present`` and ``absent``, see :func:`hstf.scoring.absent_classes.presence`;
    - ``lesions``: see :func:`hstf.scoring.lesion_detection.summarise`, for each class of lesions;
    - ``warnings``: sentences about classes whose scores are no evidence;
    - ``members``: mean Dice of each member alone (``each``) and of all of them (``mean``);
    - ``pseudo_labels``: see :func:`hstf.stages.evaluate.pseudo_label_scores.score_pseudo_labels`.

    Raises:
        HstfError: a shard is missing, or files were changed after they were written.
    """
    config = context.config
    layout = context.layout
    number = context.round
    scores = _read_scores(context)
    EVALUATION_CASES.write(layout.evaluation_cases(number), _case_rows(scores))
    EVALUATION_MEMBERS.write(layout.evaluation_members(number), _member_rows(scores))
    EVALUATION_LESIONS.write(layout.evaluation_lesions(number), _lesion_rows(scores))
    classes = {
        name: _class_summary([case["classes"][name] for case in scores])
        for name in config.structures
    }
    summary = {
        "round": number,
        "model": "student" if number else "warm-up",
        "cases": len(scores),
        "patients": len({case["group"] for case in scores}),
        "dice": _dice_interval(config, scores),
        "mean": {metric: describe(_balanced(_classes_of(scores), metric)) for metric in METRICS},
        "classes": classes,
        "lesions": _lesion_summary(config, scores),
        "warnings": doubts(classes) if scores else [],
        "members": _member_summary(scores, context.schedule.members(number)),
        "pseudo_labels": score_pseudo_labels(context),
    }
    write_json(layout.evaluation_summary(number), summary)
    return summary


def _read_scores(context: StageContext) -> list[Scores]:
    """Read the scores of all test cases, in the order of the case sheet."""
    layout = context.layout
    scores = []
    for shard, cases in context.shards(Split.TEST).items():
        # Raises if files are missing or have changed.
        read_shard(EVALUATION, layout.evaluation_table(context.round, shard))
        for case in cases:
            scores.append(read_json(layout.evaluation_scores(context.round, case.case_id)))
    return scores


def _case_rows(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    return [
        {**{key: case[key] for key in ("case_id", "group", "site")}, "class": name, **metrics}
        for case in scores
        for name, metrics in case["classes"].items()
    ]


def _member_rows(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    return [
        {"case_id": case["case_id"], "member": member, "class": name, "dice": value}
        for case in scores
        for member, dices in case["members"].items()
        for name, value in dices.items()
    ]


def _dice_interval(config: Config, scores: Sequence[Scores]) -> dict[str, Any]:
    groups = [case["group"] for case in scores]
    values = _balanced(_classes_of(scores), "dice")
    return mean_interval(values, groups, config.evaluate.bootstrap, config.seed).to_json()


def _classes_of(scores: Sequence[Scores]) -> list[Mapping[str, Mapping[str, Any]]]:
    return [case["classes"] for case in scores]


def _balanced(cases: Iterable[Mapping[str, Mapping[str, Any]]], metric: str) -> np.ndarray:
    """A metric of each case, with :func:`hstf.scoring.averages.class_balanced` over its classes."""
    rows = [[known(values[metric]) for values in classes.values()] for classes in cases]
    return class_balanced(np.array(rows, dtype=float)) if rows else np.empty(0)


def _class_summary(scores: Sequence[Scores]) -> dict[str, Any]:
    empty = Counter(case["empty"] for case in scores)
    return {
        **{metric: describe(case[metric] for case in scores) for metric in METRICS},
        "empty": {which: empty[which] for which in ("both", "prediction", "reference")},
        **presence(scores),
    }


def _lesion_summary(config: Config, scores: Sequence[Scores]) -> dict[str, Any]:
    scores = [case for case in scores if case["lesions"]]  # a sparse reference shows none
    groups, evaluate = [case["group"] for case in scores], config.evaluate
    return {
        name: summarise(
            [CaseLesions.from_json(case["lesions"][name]) for case in scores],
            groups, evaluate.detection, evaluate.bootstrap, config.seed,
        )
        for name in lesion_structures(config)
    }  # fmt: skip


def _lesion_rows(scores: Sequence[Scores]) -> list[dict[str, Any]]:
    """Lesions of the reference, then the predicted ones that match none of them."""
    cases = [
        (c["case_id"], name, CaseLesions.from_json(v))
        for c in scores
        for name, v in c["lesions"].items()
    ]
    return [
        {
            "case_id": case_id, "class": name, "lesion": _outcome(lesion, side), "volume_mm3": lesion.volume_mm3,
            "overlap": lesion.overlap, "score": lesion.score,
        }
        for case_id, name, lesions in cases
        for side, part in (("reference", lesions.reference), ("predicted", lesions.predicted))
        for lesion in part
        if side == "reference" or not lesion.matched
    ]  # fmt: skip


def _outcome(lesion: Lesion, side: str) -> str:
    if not lesion.counted:
        return "not counted"
    return "hit" if lesion.matched else "missed" if side == "reference" else "false positive"


def _member_summary(scores: Sequence[Scores], names: Sequence[str]) -> dict[str, Any]:
    each = {name: _member_mean([case["members"][name] for case in scores]) for name in names}
    return {"mean": mean(each.values()), "each": each}


def _member_mean(cases: Sequence[Mapping[str, Any]]) -> float | None:
    return mean(
        class_balanced(np.array([[known(v) for v in case.values()] for case in cases], dtype=float))
    )
