"""The rounds of an experiment side by side: what each learned from, how well it segments, and what it gained."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import learns_from, members, pseudo_labelled
from hstf.runtime.files import read_csv, read_json, write_csv
from hstf.scoring.absent_classes import may_be_absent
from hstf.scoring.averages import class_balanced, known, mean
from hstf.scoring.significance import Comparison, compare, mean_interval

COLUMNS = (
    "round", "model", "labelled", "pseudo_labelled", "automatic", "accepted", "human", "rejected",
    "members", "test_cases", "dice", "dice_low", "dice_high", "dice_single",
    "gain", "gain_low", "gain_high", "p_value", "note", "hd95_mm", "asd_mm", "pseudo_label_dice", "warnings",
)  # fmt: skip
LABEL_SOURCES = ("automatic", "accepted", "human", "rejected")


def rounds_table(config: Config) -> list[dict[str, Any]]:
    """One row for each round that has been evaluated, the warm-up first; also written to ``rounds.csv``.

    Columns, besides ``dice_<class>`` for each foreground class, or each region where there are any:

    - ``labelled``: cases with a label that the round's model learned from; ``pseudo_labelled``: those with a pseudo-label,
      which are ``automatic`` (accepted by their score), ``accepted`` (by a person) or ``human`` (corrected by a person);
      ``rejected`` cases were left out;
    - ``dice``: Dice of the test cases by the round's ``members`` together, mean over the classes, with its 95% interval
      over patients (``dice_low``, ``dice_high``); ``dice_single``: mean of each member alone;
    - ``gain``: mean change of Dice against the warm-up with its interval; ``p_value`` of Wilcoxon's signed-rank test
      over patients, and a ``note`` where it says little;
    - ``hd95_mm``, ``asd_mm``: means over test cases; ``pseudo_label_dice``: of the round's pseudo-labels, where
      withheld labels tell it; ``warnings``: classes whose scores are no evidence;
    - ``present_<class>``: mean Dice over the cases whose reference has a class, for classes that some case lacks;
      ``f1_<class>``, ``false_positives_<class>`` (per scan): of the classes that consist of lesions.
    """
    layout = Layout.of(config)
    numbers = [n for n in range(config.rounds + 1) if layout.evaluation_summary(n).is_file()]
    rows = [_row(config, number) for number in numbers]
    columns = list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)]))
    write_csv(layout.rounds_table, rows, columns)
    return rows


def _row(config: Config, number: int) -> dict[str, Any]:
    summary = read_json(Layout.of(config).evaluation_summary(number))
    dice, pseudo_labels = summary["dice"], summary["pseudo_labels"]
    return {
        "round": number,
        "model": summary["model"],
        **_training_cases(config, number),
        "members": len(members(config, number)),
        "test_cases": summary["cases"],
        "dice": dice["mean"],
        "dice_low": dice["low"],
        "dice_high": dice["high"],
        "dice_single": summary["members"]["mean"],
        **(_gain(compare_with_warmup(config, number)) if number else {}),
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


def _training_cases(config: Config, number: int) -> dict[str, int]:
    labelled = len(read_cases(config).of(Split.LABELLED))
    rows = (
        read_csv(Layout.of(config).labels_table(number)) if pseudo_labelled(config, number) else []
    )
    sources = Counter(row["source"] for row in rows)
    counts = {source: sources[source] for source in LABEL_SOURCES}
    return {"labelled": labelled, "pseudo_labelled": len(rows) - counts["rejected"], **counts}


def _gain(comparison: Comparison) -> dict[str, Any]:
    difference = comparison.difference
    return {
        "gain": difference.mean,
        "gain_low": difference.low,
        "gain_high": difference.high,
        "p_value": comparison.p_value,
        "note": comparison.note,
    }


def compare_with_warmup(config: Config, number: int) -> Comparison:
    """Dice of the test cases by round ``number`` and by the warm-up, case by case.

    The difference is that of the means over the classes; the test ranks the patients by the mean over the classes that a
    case has. Cases that only one of the two rounds has scored are left out.
    """
    new, old = class_dice(config, number), class_dice(config, 0)
    shared = [case for case in new if case in old]
    sheet = {case.case_id: case.group for case in read_cases(config).cases}
    groups, bootstrap, seed = (
        [sheet.get(c, c) for c in shared],
        config.evaluate.bootstrap,
        config.seed,
    )
    after, before = ([case_mean(dices[case]) for case in shared] for dices in (new, old))
    means = [
        class_balanced(np.array([dices[case] for case in shared], ndmin=2)) for dices in (new, old)
    ]
    difference = mean_interval(means[0] - means[1] if shared else [], groups, bootstrap, seed)
    return replace(compare(after, before, groups, bootstrap, seed), difference=difference)


def case_dice(config: Config, number: int) -> dict[str, float]:
    """Dice of each test case of a round, mean over the foreground classes; NaN where no class has one."""
    return {case: case_mean(dices) for case, dices in class_dice(config, number).items()}


def class_dice(config: Config, number: int) -> dict[str, list[float]]:
    """Dice of each foreground class in each test case of a round; NaN where it does not count."""
    dices: dict[str, list[float]] = {}
    for row in read_csv(Layout.of(config).evaluation_cases(number)):
        value = known(row["dice"])
        dices.setdefault(row["case_id"], []).append(float("nan") if value is None else value)
    return dices


def case_mean(dices: Iterable[float]) -> float:
    """Mean of the Dice that exist; NaN without any."""
    value = mean(dices)
    return float("nan") if value is None else value


def print_rounds(config: Config) -> None:
    """Show the rounds in the terminal: cases, mean test Dice with its 95% interval, change; then where the report lies."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title=f"Mean test Dice of experiment {config.experiment}",
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
    rows = rounds_table(config)
    for row in rows:
        table.add_row(*_shown(row))
    console = Console()
    console.print(table)
    if rows and rows[-1]["warnings"]:
        console.print(f"Take care: {rows[-1]['warnings']}", style="yellow", highlight=False)
    if config.rounds and learns_from(config, config.rounds) != "labels":
        console.print(
            "Part of a change may come of further training on the labels: snakemake compare, or an experiment with\n"
            "method: supervised, shows what the scans without labels add.",
            highlight=False,
        )
    console.print(f"Report: {Layout.of(config).report.resolve()}", soft_wrap=True, highlight=False)


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
