"""The table of rounds in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.experiment.context import StageContext
from hstf.scoring.control import (
    CONTROL_NAME,
    Control,
    can_have_control,
    control_sentence,
    has_control,
    p_value_text,
    read_control,
)
from hstf.scoring.round_comparison import is_scored_on_other_cases
from hstf.scoring.rounds import evaluated_rounds, pseudo_label_warnings


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
    rows = evaluated_rounds(context)
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
        warnings += pseudo_label_warnings(context, row)
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
    if has_control(context):
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
        p_value_text(row.get("p_value")),
    ]


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
