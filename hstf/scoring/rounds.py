"""The table of rounds: what each round learned from, how well it segments, and what it gained."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from hstf.experiment.cases import Split, names_of
from hstf.experiment.comparison import control_layout, control_problem, control_results
from hstf.experiment.context import StageContext
from hstf.experiment.tables import EVALUATION_CASES, LABELS, LESIONS, ROUNDS
from hstf.runtime.errors import join_problems, shortened
from hstf.runtime.shards import Row, check_case_ids, read_shard
from hstf.scoring.absent_classes import may_be_absent
from hstf.scoring.averages import mean_or_nan
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.dropped_lesions import dropped_lesions
from hstf.scoring.round_choice import collapse_of, validation_dice
from hstf.scoring.significance import Comparison, balanced_difference, compare, direction

LABEL_SOURCES = ("automatic", "accepted", "corrected", "rejected")
"""Values of the column ``source`` of ``labels.csv``."""


def rounds_table(context: StageContext) -> list[dict[str, Any]]:
    """Compute ``rounds.csv``, a row for each evaluated round with the warm-up first, and write it.

    Args:
        context: a stage that may read ``seed``, ``evaluate``, ``labels``, ``regions`` and
            ``monitor.cases``.

    Returns:
        The rows with the columns of :data:`hstf.experiment.tables.ROUNDS`.

    Raises:
        HstfError: if a file of the evaluation cannot be read.
    """
    rows = _evaluated_rounds(context)
    ROUNDS.write(context.layout.rounds_table, rows, list(context.config.structures))
    return rows


def _evaluated_rounds(context: StageContext) -> list[dict[str, Any]]:
    rows = []
    for number in range(context.schedule.last + 1):
        path = context.layout.evaluation_summary(number)
        if path.is_file():
            rows.append(_row(context, number, EvaluationSummary.load(path)))
    return rows


def _row(
    context: StageContext,
    number: int,
    summary: EvaluationSummary,
) -> dict[str, Any]:
    row: dict[str, Any] = {"round": number, "model": summary.model}
    row |= _training_cases(context, number)
    row |= {"members": len(context.schedule.members(number)), **_scores(summary)}
    row["pseudo_label_dice"] = None
    row["warnings"] = " ".join([*summary.warnings, *_pseudo_label_warnings(context, row)])
    if summary.pseudo_labels is not None:
        row["pseudo_label_dice"] = summary.pseudo_labels.dice.mean
    if number:
        row |= _gain(compare_with_warmup(context, number))
    return row | _structure_columns(summary) | _columns_of_the_choice(context, number)


def _scores(summary: EvaluationSummary) -> dict[str, Any]:
    return {
        "test_cases": summary.cases,
        "dice": summary.dice.mean,
        "dice_low": summary.dice.low,
        "dice_high": summary.dice.high,
        "dice_single": summary.members.mean,
        "hd95_mm": summary.mean["hd95_mm"].mean,
        "asd_mm": summary.mean["asd_mm"].mean,
    }


def _columns_of_the_choice(context: StageContext, number: int) -> dict[str, Any]:
    """Return what decides whether the round is exported, see :func:`choose_round`."""
    columns: dict[str, Any] = {}
    dice = validation_dice(context, number)
    if dice is not None:
        columns["validation_dice"] = dice
    findings = collapse_of(context, number)
    if findings is not None:
        columns["collapse"] = "; ".join(findings)
    return columns


def _training_cases(
    context: StageContext,
    number: int,
) -> dict[str, int]:
    """Count the cases that the model of a round has learned from, by the source of their label."""
    rows: Mapping[str, Row] = {}
    if context.schedule.has_pseudo_labels(number):
        table = context.layout.labels_table(number)
        unlabelled = names_of(context.cases(Split.UNLABELLED))
        rows = read_shard(LABELS, table, unlabelled, verify=False)
    sources = Counter(row["source"] for row in rows.values())
    counts = {
        "labelled": len(context.cases(Split.LABELLED)),
        "pseudo_labelled": len(rows) - sources["rejected"],
    }
    for source in LABEL_SOURCES:
        counts[source] = sources[source]
    return counts


def _pseudo_label_warnings(
    context: StageContext,
    row: Mapping[str, Any],
) -> list[str]:
    """Warn of a round that has learned from no pseudo-label, or from none with lesions."""
    number = row["round"]
    if not context.schedule.has_pseudo_labels(number):
        return []
    if row["pseudo_labelled"]:
        return lesion_warnings(context, number)
    return [
        f"Round {number} learned from no unlabelled case: all {row['rejected']} are rejected"
        f" (column 'reason' of {context.layout.labels_table(number)})."
    ]


def lesion_warnings(context: StageContext, number: int) -> list[str]:
    """Warn of a class of lesions that no pseudo-label of a round has.

    Raises:
        HstfError: if ``lesions.csv`` of the round cannot be read.
    """
    path = context.layout.lesions(number)
    if not context.schedule.has_pseudo_labels(number):
        return []  # an earlier run may have left the file
    if not context.config.lesions or not path.is_file():
        return []
    sentences = dropped_lesions(LESIONS.records(path), context.config.lesions)
    return [f"Round {number}: {sentence}." for sentence in sentences]


def _gain(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "gain": difference.mean,
        "gain_low": difference.low,
        "gain_high": difference.high,
        "p_value": comparison.p_value,
        "note": comparison.note,
    }


def _structure_columns(summary: EvaluationSummary) -> dict[str, Any]:
    """Return the columns of single structures."""
    columns = {}
    for name, scores in summary.classes.items():
        columns[f"dice_of_{name}"] = scores.dice.mean
    presence = {name: scores.presence for name, scores in summary.classes.items()}
    for name in may_be_absent(presence):
        columns[f"present_dice_of_{name}"] = presence[name].present.dice.mean
    for name, lesions in summary.lesions.items():
        columns[f"f1_of_{name}"] = lesions.f1.mean
        columns[f"false_positives_of_{name}"] = lesions.false_positives_per_scan
    return columns


def compare_with_warmup(
    context: StageContext,
    number: int,
) -> Comparison:
    """Compare the test Dice of a round with that of the warm-up, case by case.

    The difference is that of the means over the structures. The test ranks the patients by the mean
    over the structures that a case has. Cases that only one of the two rounds has scored are left
    out.

    Args:
        context: a stage that may read ``seed`` and ``evaluate``.
        number: the round.

    Raises:
        HstfError: if ``cases.csv`` of one of the rounds cannot be read.
    """
    new = structure_dice_by_case(context, number)
    old = structure_dice_by_case(context, 0)
    return _compare(context, new, old)


def _compare(
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
    new_means = [mean_or_nan(new[case]) for case in common]
    old_means = [mean_or_nan(old[case]) for case in common]
    comparison = compare(
        new_means,
        old_means,
        groups,
        resamples,
        seed,
    )
    notes = [comparison.note] if comparison.note else []
    if set(new) != set(old):
        notes.append(f"compared on the {len(common)} test cases that both have")
    difference = balanced_difference(
        _table(new, common),
        _table(old, common),
        groups,
        resamples,
        seed,
    )
    return comparison.model_copy(update={"difference": difference, "note": "; ".join(notes)})


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


CONTROL_NAME = "control: labels only"
"""Name of the control in tables."""
ADDED = {
    1: "Unlabelled scans add",
    0: "It is not clear whether unlabelled scans help:",
    -1: "Unlabelled scans make the Dice worse:",
}
"""Beginning of :func:`control_sentence`, by :func:`hstf.scoring.significance.direction`."""
LOWER = 0.02
"""A structure whose mean Dice is lower than in the control by more is named."""


@dataclass(frozen=True)
class Control:
    """The control beside the last round: ``method: supervised``, see ``evaluate.control``."""

    round: int
    """The last round."""
    row: Mapping[str, Any]
    """Its scores and its change from the warm-up, with names as in ``rounds.csv``."""
    comparison: Comparison
    """The last round against the control."""
    lower: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Mean Dice, in the last round and in the control, of each structure that is lower in the last
    round by more than :data:`LOWER`."""


def read_control(context: StageContext) -> Control | None:
    """Compare the last round with the control, case by case as with the warm-up.

    Args:
        context: a stage that may read ``method``, ``seed`` and ``evaluate``.

    Returns:
        None without a control, or while the control or the last round has no scores.

    Raises:
        HstfError: if a file of the evaluation cannot be read.
    """
    last = context.schedule.last
    if not _has_control(context) or not context.layout.evaluation_cases(last).is_file():
        return None
    layout = control_layout(context.layout, context.config.seed)
    if not all(path.is_file() for path in control_results(layout, last)):
        return None
    control = replace(context, layout=layout)
    summary = EvaluationSummary.load(layout.evaluation_summary(last))
    row = {
        "labelled": len(context.cases(Split.LABELLED)),
        "pseudo_labelled": 0,
        "members": len(context.schedule.members(last)),
        **_scores(summary),
        **_gain(compare_with_warmup(control, last)),
    }
    new = structure_dice_by_case(context, last)
    old = structure_dice_by_case(control, last)
    own = EvaluationSummary.load(context.layout.evaluation_summary(last))
    return Control(last, row, _compare(context, new, old), _lower_structures(own, summary))


def _lower_structures(
    own: EvaluationSummary, control: EvaluationSummary
) -> dict[str, tuple[float, float]]:
    """Return the Dice of structures that are lower in a round than in its control: both values."""
    lower = {}
    for name, scores in own.classes.items():
        new = scores.dice.mean
        old = control.classes[name].dice.mean
        if new is not None and old is not None and new < old - LOWER:
            lower[name] = (new, old)
    return lower


def _has_control(context: StageContext) -> bool:
    return context.config.evaluate.control and can_have_control(context)


def can_have_control(context: StageContext) -> bool:
    """Return whether ``evaluate.control`` has an effect: not for all methods and case sheets."""
    return not control_problem(context.config.method, context.schedule.last, context.sheet)


def control_sentence(control: Control) -> str:
    """Return what the unlabelled scans add to the Dice: more, less, or nothing that is clear."""
    comparison = control.comparison
    difference = comparison.difference
    if difference.mean is None:
        return "The control cannot be compared: no test case has a Dice in both models."
    sign = direction(difference.low, difference.high, comparison.p_value)
    evidence = []
    if difference.low is not None and difference.high is not None:
        evidence.append(f"95% CI {difference.low:+.3f} to {difference.high:+.3f}")
    if comparison.p_value is not None:
        p_text = _p_text(comparison.p_value)
        evidence.append(f"p {p_text[0]} {p_text[1:]}" if p_text[0] == "<" else f"p = {p_text}")
    shown = f" ({', '.join(evidence)})" if evidence else ""
    note = f" Note: {comparison.note}." if comparison.note else ""
    return (
        f"{ADDED[sign]} {difference.mean:+.3f}{shown}: round {control.round} against the control,"
        f" which has the same warm-up, rounds and steps and learns from the labels only.{note}"
        f"{_lower_text(control)}"
    )


def _lower_text(control: Control) -> str:
    """Return a sentence about the structures that are worse than in the control."""
    if not control.lower:
        return ""
    parts = [f"{name} {new:.3f} ({old:.3f})" for name, (new, old) in control.lower.items()]
    return f" Lower than in the control: {', '.join(parts)}."


def print_rounds(context: StageContext) -> None:
    """Print the table of rounds in the terminal, with the path of the report.

    Args:
        context: a stage that may read what :func:`rounds_table` reads.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"Mean test Dice of experiment {context.experiment}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("round", no_wrap=True)
    for title in (
        "labelled",
        "pseudo-\nlabelled",
        "Dice\n(95% CI)",
        "change from warm-up\n(95% CI)",
        "p",
    ):
        table.add_column(title, justify="right", no_wrap=True)
    rows = _evaluated_rounds(context)
    for row in rows:
        table.add_row(*_printed_cells(row, f"{row['round']} {row['model']}"))
    control = read_control(context)
    if control is not None:
        # A terminal of 80 columns has no room for the name on one line.
        table.add_row(*_printed_cells(control.row, CONTROL_NAME.replace(" ", "\n", 1)))
    console = Console()
    console.print(table)
    warnings = []
    for row in rows[:-1]:
        warnings += _pseudo_label_warnings(context, row)
    if rows and rows[-1]["warnings"]:
        warnings.append(rows[-1]["warnings"])
    for warning in warnings:
        console.print(f"Warning: {warning}", style="yellow", highlight=False)
    for note in [*_other_cases(context, rows), *_notes(context, control)]:
        console.print(note, highlight=False)
    console.print(f"Report: {context.layout.report.resolve()}", soft_wrap=True, highlight=False)


def _other_cases(context: StageContext, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the changes from a warm-up mean that was scored on other test cases."""
    if len(rows) < 2 or not is_scored_on_other_cases(context):
        return []
    return [
        "The warm-up is that of another experiment and was scored on other test cases: its Dice"
        " cannot\nbe compared with that of the rounds. The change is that of the test cases that"
        " both have."
    ]


def _notes(context: StageContext, control: Control | None) -> list[str]:
    """Return what the unlabelled scans add, or how to learn it."""
    if control is not None:
        return [control_sentence(control)]
    if not _uses_unlabelled_scans(context):
        return []
    cause = "A part of the change may come from the longer training on the labels."
    if _has_control(context):
        return [f"{cause} The control has no scores yet: run snakemake again."]
    if not can_have_control(context):
        return [
            f"{cause} To see what the unlabelled scans add,\ncompare methods"
            " (docs/how-to/compare-methods.md)."
        ]
    return [
        f"{cause} To see what the unlabelled scans add, set\n'evaluate: {{control: true}}' and run"
        " snakemake again, or compare methods (docs/how-to/compare-methods.md)."
    ]


def _uses_unlabelled_scans(context: StageContext) -> bool:
    last = context.schedule.last
    return last > 0 and context.schedule.learns_from(last) != "labels"


def _printed_cells(row: Mapping[str, Any], name: str) -> list[str]:
    return [
        name,
        str(row["labelled"]),
        str(row["pseudo_labelled"]),
        with_interval(row["dice"], row["dice_low"], row["dice_high"]),
        with_interval(
            row.get("gain"),
            row.get("gain_low"),
            row.get("gain_high"),
            sign="+",
        ),
        _p_text(row.get("p_value")),
    ]


def _p_text(p_value: float | None) -> str:
    if p_value is None:
        return ""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def with_interval(
    value: float | None,
    low: float | None,
    high: float | None,
    sign: str = "",
) -> str:
    """Format a value above its interval.

    Args:
        value: the value; the text is empty without it.
        low: lower end of the interval; the second line is left out without it.
        high: upper end of the interval.
        sign: ``+`` to show the sign of positive numbers.

    Example:
        >>> print(with_interval(0.8731, 0.851, 0.892))
        0.873
        (0.851 to 0.892)
    """
    if value is None:
        return ""
    text = f"{value:{sign}.3f}"
    if low is None or high is None:
        return text
    return f"{text}\n({low:{sign}.3f} to {high:{sign}.3f})"
