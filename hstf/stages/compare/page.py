"""The comparison as Markdown and as an HTML page that needs no other file."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.stages.compare.scores import METRICS
from hstf.stages.compare.table import REFERENCES
from hstf.stages.report.page import (
    Cell,
    Chart,
    Note,
    Section,
    Table,
    estimate_cell,
    number_cell,
    number_text,
    p_cell,
    page,
)

KIND = "comparison of methods"
SOURCE = "compare/table.csv"
TITLES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "asd_mm": "ASD (mm)"}
DIGITS = {"dice": 3, "hd95_mm": 2, "asd_mm": 2}
"""Number of decimals of each metric."""
Row = Mapping[str, Any]
"""A row of ``table.csv``."""


def main_table(rows: Sequence[Row]) -> Table:
    """Return the table with the rows of each method."""
    tested = set().union(*rows)
    references = [name for name in REFERENCES if f"vs_{name}" in tested]
    titles = ["method", "model", "seeds"]
    titles += [TITLES[metric] for metric in METRICS]
    for name in references:
        titles += [f"Dice vs {name} (95% CI)", "p"]
    titles += ["gap closed (%)", "gap closed from supervised (%)", "CPU hours", "hours"]
    return Table(
        "Last round, mean ± standard deviation over the seeds",
        tuple(titles),
        [_main_cells(row, references) for row in rows],
        SOURCE,
    )


def _main_cells(
    row: Row,
    references: Sequence[str],
) -> list[Cell]:
    cells = [Cell(row["method"]), Cell(row["model"]), number_cell(row["seeds"], 0)]
    cells += [_mean_cell(row, metric) for metric in METRICS]
    for name in references:
        cells += _change_cells(row, f"vs_{name}")
    cells += [
        _percent_cell(row["gap_fraction"]),
        _percent_cell(row["label_gap_fraction"]),
        number_cell(row["cpu_s"] / 3600, 2),
        number_cell(row["wall_s"] / 3600, 2),
    ]
    return cells


def _change_cells(
    row: Row,
    name: str,
) -> list[Cell]:
    """Return the cells of the difference to a reference method and of its p-value."""
    change = row.get(name)
    low = row.get(f"{name}_low")
    high = row.get(f"{name}_high")
    return [
        estimate_cell(
            change,
            low,
            high,
            signed=True,
        ),
        p_cell(row.get(f"{name}_p")),
    ]


def _percent_cell(fraction: float | None) -> Cell:
    return number_cell(None if fraction is None else 100 * fraction, 0)


def structure_table(
    rows: Sequence[Row],
    structures: Sequence[str],
    kind: str,
) -> Table:
    """Return the table with each metric of each structure.

    Args:
        rows: rows of ``table.csv``.
        structures: names of the structures.
        kind: what they are called: ``class`` or ``region``.
    """
    titles = ["method", "model"]
    for metric in METRICS:
        titles += [f"{TITLES[metric]} {name}" for name in structures]
    table_cells = []
    for row in rows:
        cells = [Cell(row["method"]), Cell(row["model"])]
        for metric in METRICS:
            cells += [_mean_cell(row, metric, f"_of_{name}") for name in structures]
        table_cells.append(cells)
    return Table(
        f"By {kind}",
        tuple(titles),
        table_cells,
        SOURCE,
    )


def _mean_cell(
    row: Row,
    metric: str,
    suffix: str = "",
) -> Cell:
    """Return a cell with a mean and, with several seeds, its standard deviation.

    Args:
        row: the row.
        metric: the metric.
        suffix: ``_of_<structure>``; empty for the mean over the structures.
    """
    digits = DIGITS[metric]
    cell = number_cell(row[f"{metric}{suffix}"], digits)
    deviation = row[f"{metric}_sd{suffix}"]
    if deviation is None:
        return cell
    text = f"{cell.text} ± {number_text(deviation, digits)}"
    return Cell(text, cell.sort, numeric=True)


def markdown(
    title: str,
    tables: Sequence[Table],
    notes: Sequence[str],
) -> str:
    """Return tables and notes as Markdown, for a README or an issue."""
    parts = [f"# {title}", *notes]
    for table in tables:
        lines = [_markdown_row(table.columns), "|" + "---|" * len(table.columns)]
        for row in table.all_rows:
            lines.append(_markdown_row([cell.text for cell in row]))
        parts += [f"## {table.caption}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    # The name of a class may have a character that ends a cell.
    escaped = [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def html(
    experiment: str,
    tables: Sequence[Table],
    charts: Sequence[Chart],
    notes: Sequence[str],
    headline: str,
) -> str:
    """Return the page, with the template and the style of the report.

    Args:
        experiment: name of the experiment.
        tables: the tables.
        charts: the figures.
        notes: how the tables were made.
        headline: the main result.
    """
    sections = [
        Section(
            "methods",
            "Methods",
            "",
            [*tables, Note(list(notes))],
        ),
        Section(
            "figures",
            "Figures",
            "",
            charts,
            "No method is done yet.",
        ),
    ]
    return page(
        experiment,
        KIND,
        Note([headline]),
        sections,
    )
