"""A round in numbers: the tables of its test cases and members, and the summary of both."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hstf.cases import Case, Split, read_cases
from hstf.config import Config
from hstf.evaluate.hindsight import score_pseudo_labels
from hstf.evaluate.tables import describe, mean, mean_over_classes
from hstf.files import read_json, write_csv, write_json
from hstf.layout import Layout, members
from hstf.metrics import METRICS
from hstf.records import read_table
from hstf.significance import mean_interval

CASE_COLUMNS = ("case_id", "group", "site", "class", *METRICS, "empty")
MEMBER_COLUMNS = ("case_id", "member", "class", "dice")
Scores = dict[str, Any]


def summarise_round(config: Config, number: int) -> dict[str, Any]:
    """Write ``cases.csv``, ``members.csv``, ``pseudo_labels.csv`` and ``summary.json`` of a round; returns the summary.

    The summary holds, for the team of members:

    - ``dice``: mean over cases of the mean over foreground classes, with its bootstrap interval over patients;
    - ``mean``: the same mean, with standard deviation and median, for each metric;
    - ``classes``: for each class the same, and ``empty``: cases in which prediction, reference or both lack it;
    - ``members``: mean Dice of each member alone (``each``) and of all of them (``mean``);
    - ``pseudo_labels``: see :func:`hstf.evaluate.hindsight.score_pseudo_labels`.

    Raises:
        HstfError: a shard is missing, or files were changed after they were written.
    """
    config, layout = config.for_round(number), Layout.of(config)
    scores = _read_scores(config, number)
    write_csv(layout.evaluation_cases(number), _case_rows(scores), CASE_COLUMNS)
    write_csv(layout.evaluation_members(number), _member_rows(scores), MEMBER_COLUMNS)
    names = config.class_names[1:]
    summary = {
        "round": number,
        "model": "student" if number else "warm-up",
        "cases": len(scores),
        "patients": len({case["group"] for case in scores}),
        "dice": _dice_interval(config, scores),
        "mean": {m: describe(mean_over_classes(case["classes"], m) for case in scores) for m in METRICS},
        "classes": {name: _class_summary([case["classes"][name] for case in scores]) for name in names},
        "members": _member_summary(scores, members(config, number)),
        "pseudo_labels": score_pseudo_labels(config, number),
    }
    write_json(layout.evaluation_summary(number), summary)
    return summary


def _read_scores(config: Config, number: int) -> list[Scores]:
    """The scores of all test cases, in the order of the case sheet."""
    layout = Layout.of(config)
    shards = read_cases(config).shards(Split.TEST, config.shard_size)
    for shard in shards:
        read_table(layout.evaluation_table(number, shard))  # names files that are lost or changed
    cases: list[Case] = [case for shard in shards.values() for case in shard]
    return [read_json(layout.evaluation_scores(number, case.case_id)) for case in cases]


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
    dices = [mean_over_classes(case["classes"], "dice") for case in scores]
    values = [float("nan") if dice is None else dice for dice in dices]
    groups = [case["group"] for case in scores]
    return mean_interval(values, groups, config.evaluate.bootstrap, config.seed).to_json()


def _class_summary(scores: Sequence[Scores]) -> dict[str, Any]:
    empty = Counter(case["empty"] for case in scores)
    return {
        **{metric: describe(case[metric] for case in scores) for metric in METRICS},
        "empty": {which: empty[which] for which in ("both", "prediction", "reference")},
    }


def _member_summary(scores: Sequence[Scores], names: Sequence[str]) -> dict[str, Any]:
    each = {name: mean(mean(case["members"][name].values()) for case in scores) for name in names}
    return {"mean": mean(each.values()), "each": each}
