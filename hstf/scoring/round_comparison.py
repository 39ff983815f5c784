"""Compare the test Dice of a round with that of another model, case by case."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.score_tables import EVALUATION_CASES
from hstf.runtime.errors import join_problems, shortened
from hstf.runtime.shards import check_case_ids
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.significance import Comparison, compare


def compare_with_warmup(
    context: StageContext,
    number: int,
) -> Comparison:
    """Compare the test Dice of a round with that of the warm-up, case by case.

    The difference is that of the means over the structures. The test ranks the patients by the mean
    of the differences of their structures
    (:func:`hstf.scoring.significance.paired_differences`). Cases that only one of the two rounds
    has scored are left out.

    Args:
        context: a stage that may read ``seed`` and ``evaluate``.
        number: the round.

    Raises:
        HstfError: if ``cases.csv`` of one of the rounds cannot be read.
    """
    new = structure_dice_by_case(context, number)
    old = structure_dice_by_case(context, 0)
    return compare_cases(context, new, old)


def compare_cases(
    context: StageContext,
    new: Mapping[str, Sequence[float]],
    old: Mapping[str, Sequence[float]],
) -> Comparison:
    """Compare the Dice of the structures of two models, see :func:`compare_with_warmup`."""
    common = [case for case in new if case in old]
    patients = {case.case_id: case.group for case in context.sheet.cases}
    groups = [patients.get(case, case) for case in common]
    resamples = context.config.evaluate.bootstrap
    seed = context.config.seed
    comparison = compare(
        _table(new, common),
        _table(old, common),
        groups,
        resamples,
        seed,
    )
    notes = [comparison.note] if comparison.note else []
    if set(new) != set(old):
        notes.append(f"compared on the {len(common)} test cases that both have")
    return comparison.model_copy(update={"note": "; ".join(notes)})


def _table(
    dices: Mapping[str, Sequence[float]],
    cases: Sequence[str],
) -> np.ndarray:
    """Return the Dice ``(N, S)`` by case and structure."""
    if not cases:
        return np.empty((0, 0))
    return np.array([dices[case] for case in cases], ndmin=2)


def structure_dice_by_case(
    context: StageContext,
    number: int,
) -> dict[str, list[float]]:
    """Return the Dice of each structure in each test case of a round; NaN if it is undefined.

    Raises:
        HstfError: if ``cases.csv`` of the round cannot be read, or lacks cases or structures.
    """
    table = context.layout.evaluation_cases(number)
    dices: dict[str, list[float]] = {}
    for row in EVALUATION_CASES.records(table):
        value = row["dice"]
        dices.setdefault(row["case_id"], []).append(nan if value is None else value)
    _check_scores(context, number, dices, table)
    return dices


def is_scored_on_other_cases(context: StageContext) -> bool:
    """Return whether the warm-up was scored on other test cases than those of the case sheet.

    It may belong to another experiment. Its mean Dice is then not comparable with that of a round.
    """
    table = context.layout.evaluation_cases(0)
    if context.layout.warmup == context.layout.root or not table.is_file():
        return False
    scored = {row["case_id"] for row in EVALUATION_CASES.records(table)}
    return scored != set(names_of(context.cases(Split.TEST)))


def _check_scores(
    context: StageContext,
    number: int,
    dices: Mapping[str, Sequence[float]],
    table: Path,
) -> None:
    """Check that a table has all test cases and all structures of each.

    The warm-up of another experiment may have other test cases.
    """
    if number or context.layout.warmup == context.layout.root:
        rows = [{"case_id": name} for name in dices]
        check_case_ids(rows, names_of(context.cases(Split.TEST)), table)
    structures = len(context.config.structures)
    problems = []
    for name, values in dices.items():
        if len(values) != structures:
            problems.append(f"{name}: has {len(values)} rows, expected {structures}")
    if problems:
        raise join_problems(
            f"{table}: does not have a row for each structure of each case."
            " Delete the table and run the evaluate stage again.",
            shortened(problems),
        )


def summary_scores(summary: EvaluationSummary) -> dict[str, Any]:
    """Return the columns of ``rounds.csv`` with the scores of a model."""
    return {
        "test_cases": summary.cases,
        "dice": summary.dice.mean,
        "dice_low": summary.dice.low,
        "dice_high": summary.dice.high,
        "dice_single": summary.members.mean,
        "hd95_mm": summary.mean["hd95_mm"].mean,
        "asd_mm": summary.mean["asd_mm"].mean,
    }


def gain_columns(comparison: Comparison) -> dict[str, Any]:
    """Return the columns of ``rounds.csv`` with the difference to the warm-up."""
    difference = comparison.difference
    return {
        "gain": difference.mean,
        "gain_low": difference.low,
        "gain_high": difference.high,
        "p_value": comparison.p_value,
        "note": comparison.note,
    }
