"""The rounds of an experiment side by side: what each learned from, how well it segments, and what it gained."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.tables import EVALUATION_CASES, LABELS, ROUNDS
from hstf.runtime.files import read_json
from hstf.scoring.absent_classes import may_be_absent
from hstf.scoring.averages import class_balanced, known, mean
from hstf.scoring.significance import Comparison, compare, mean_interval

LABEL_SOURCES = ("automatic", "accepted", "corrected", "rejected")
"""Values of the column ``source`` of ``labels.csv``."""


def rounds_table(context: StageContext) -> list[dict[str, Any]]:
    """Compute ``rounds.csv``, a row for each evaluated round with the warm-up first, and write it.

    Args:
        context: a stage that declares ``seed``, ``evaluate``, ``labels`` and ``regions``.

    Returns:
        The rows with the columns of :data:`hstf.experiment.tables.ROUNDS`.
    """
    rows = []
    for number in range(context.schedule.last + 1):
        if context.layout.evaluation_summary(number).is_file():
            rows.append(_row(context, number))
    ROUNDS.write(context.layout.rounds_table, rows, list(context.config.structures))
    return rows


def _row(context: StageContext, number: int) -> dict[str, Any]:
    summary = read_json(context.layout.evaluation_summary(number))
    dice, pseudo_labels = summary["dice"], summary["pseudo_labels"]
    return {
        "round": number,
        "model": summary["model"],
        **_training_cases(context, number),
        "members": len(context.schedule.members(number)),
        "test_cases": summary["cases"],
        "dice": dice["mean"],
        "dice_low": dice["low"],
        "dice_high": dice["high"],
        "dice_single": summary["members"]["mean"],
        **(_gain(compare_with_warmup(context, number)) if number else {}),
        "hd95_mm": summary["mean"]["hd95_mm"]["mean"],
        "asd_mm": summary["mean"]["asd_mm"]["mean"],
        "pseudo_label_dice": pseudo_labels and pseudo_labels["dice"]["mean"],
        "warnings": " ".join(summary["warnings"]),
        **{f"dice_{name}": scores["dice"]["mean"] for name, scores in summary["classes"].items()},
        **_presence_and_lesions(summary),
    }


def _presence_and_lesions(summary: Mapping[str, Any]) -> dict[str, Any]:
    classes = summary["classes"]
    columns = {
        f"present_{name}": classes[name]["present"]["dice"]["mean"]
        for name in may_be_absent(classes)
    }
    for name, lesions in summary["lesions"].items():
        columns[f"f1_{name}"] = lesions["f1"]["mean"]
        columns[f"false_positives_{name}"] = lesions["false_positives_per_scan"]
    return columns


def _training_cases(context: StageContext, number: int) -> dict[str, int]:
    """Count the cases that the model of a round has learned from, by the source of their label."""
    rows = []
    if context.schedule.has_pseudo_labels(number):
        rows = LABELS.records(context.layout.labels_table(number))
    sources = Counter(row["source"] for row in rows)
    counts = {
        "labelled": len(context.cases(Split.LABELLED)),
        "pseudo_labelled": len(rows) - sources["rejected"],
    }
    for source in LABEL_SOURCES:
        counts[source] = sources[source]
    return counts


def _gain(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "gain": difference.mean,
        "gain_low": difference.low,
        "gain_high": difference.high,
        "p_value": comparison.p_value,
        "note": comparison.note,
    }


def compare_with_warmup(context: StageContext, number: int) -> Comparison:
    """Compare the Dice of a round with that of the warm-up on the same test cases.

    The difference is that of the means over the structures. The test ranks the patients by the mean
    over the structures that a case has. Cases that only one of the two rounds has scored are left out.
    """
    new = structure_dice_by_case(context, number)
    old = structure_dice_by_case(context, 0)
    common = [case for case in new if case in old]
    patients = {case.case_id: case.group for case in context.sheet.cases}
    groups = [patients.get(case, case) for case in common]
    bootstrap = context.config.evaluate.bootstrap
    seed = context.config.seed
    after = [case_mean(new[case]) for case in common]
    before = [case_mean(old[case]) for case in common]
    comparison = compare(after, before, groups, bootstrap, seed)
    differences: Sequence[float] | np.ndarray = []
    if common:
        balanced_after = class_balanced(np.array([new[case] for case in common], ndmin=2))
        balanced_before = class_balanced(np.array([old[case] for case in common], ndmin=2))
        differences = balanced_after - balanced_before
    difference = mean_interval(differences, groups, bootstrap, seed)
    return replace(comparison, difference=difference)


def case_dice(context: StageContext, number: int) -> dict[str, float]:
    """Return the mean Dice of each test case over its structures; NaN if no structure has a Dice."""
    dices = structure_dice_by_case(context, number)
    return {case: case_mean(values) for case, values in dices.items()}


def structure_dice_by_case(context: StageContext, number: int) -> dict[str, list[float]]:
    """Return the Dice of each structure in each test case of a round; NaN where there is none."""
    dices: dict[str, list[float]] = {}
    for row in EVALUATION_CASES.records(context.layout.evaluation_cases(number)):
        value = known(row["dice"])
        dices.setdefault(row["case_id"], []).append(float("nan") if value is None else value)
    return dices


def case_mean(dices: Iterable[float]) -> float:
    """Mean of the Dice that exist; NaN without any."""
    value = mean(dices)
    return float("nan") if value is None else value


def print_rounds(context: StageContext) -> None:
    """Show the rounds in the terminal: cases, mean test Dice with its 95% interval, change; then where the report lies."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"Mean test Dice of experiment {context.experiment}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    titles = (
        "labelled",
        "pseudo-\nlabelled",
        "Dice\n(95% CI)",
        "change from warm-up\n(95% CI)",
        "p",
    )
    table.add_column("round", no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    rows = rounds_table(context)
    for row in rows:
        table.add_row(*_shown(row))
    console = Console()
    console.print(table)
    if rows and rows[-1]["warnings"]:
        console.print(f"Take care: {rows[-1]['warnings']}", style="yellow", highlight=False)
    if context.schedule.last and context.schedule.learns_from(context.schedule.last) != "labels":
        console.print(
            "Part of a change may come of further training on the labels: snakemake compare, or an experiment with\n"
            "method: supervised, shows what the scans without labels add.",
            highlight=False,
        )
    console.print(f"Report: {context.layout.report.resolve()}", soft_wrap=True, highlight=False)


def _shown(row: Mapping[str, Any]) -> list[str]:
    p_value = row.get("p_value")
    return [
        f"{row['round']} {row['model']}",
        str(row["labelled"]),
        str(row["pseudo_labelled"]),
        with_interval(row["dice"], row["dice_low"], row["dice_high"]),
        with_interval(row.get("gain"), row.get("gain_low"), row.get("gain_high"), sign="+"),
        "" if p_value is None else ("<0.001" if p_value < 0.001 else f"{p_value:.3f}"),
    ]


def with_interval(
    value: float | None, low: float | None, high: float | None, sign: str = ""
) -> str:
    """``0.873`` over ``(0.851 to 0.892)``; empty without a value, without the second line where no interval is."""
    if known(value) is None:
        return ""
    interval = "" if low is None or high is None else f"\n({low:{sign}.3f} to {high:{sign}.3f})"
    return f"{value:{sign}.3f}{interval}"
