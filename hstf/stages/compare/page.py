"""The comparison as Markdown and as one HTML page that needs nothing but itself."""

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
    p_text,
    page,
)

KIND = "methods compared"
TITLES = {"dice": "Dice", "hd95_mm": "HD95 (mm)", "asd_mm": "ASD (mm)"}
DIGITS = {"dice": 3, "hd95_mm": 2, "asd_mm": 2}
Row = Mapping[str, Any]


def main_table(rows: Sequence[Row]) -> Table:
    """A row for each method."""
    references = [name for name in REFERENCES if any(f"vs_{name}" in row for row in rows)]
    titles = ["method", "seeds", *TITLES.values(), "Dice of one network"]
    titles += [title for name in references for title in (f"Dice vs {name} (95% CI)", "p")]
    titles += ["share of the gap", "share from supervised", "CPU hours", "hours"]
    return Table(
        "Last round, mean over the seeds ± standard deviation over the seeds",
        tuple(titles),
        [_main_cells(row, references) for row in rows],
        "compare/table.csv",
    )


def _main_cells(row: Row, references: Sequence[str]) -> list[Cell]:
    cells = [
        Cell(row["method"]),
        number_cell(row["seeds"], 0),
        *(_with_sd(row, metric, metric) for metric in METRICS),
        number_cell(row["dice_single"], DIGITS["dice"]),
    ]
    for name in references:
        change, low, high = (row.get(f"vs_{name}{part}") for part in ("", "_low", "_high"))
        p_value = row.get(f"vs_{name}_p")
        cells += [
            estimate_cell(change, low, high, signed=True),
            Cell(p_text(p_value) or "–", p_value, numeric=True),
        ]
    shares = (row["gap_fraction"], row["label_gap_fraction"])
    cells += [number_cell(None if share is None else 100 * share, 0) for share in shares]
    return [*cells, number_cell(row["cpu_s"] / 3600, 2), number_cell(row["wall_s"] / 3600, 2)]


def class_table(rows: Sequence[Row], classes: Sequence[str], kind: str = "class") -> Table:
    """Each metric of each class; ``kind``: what they are called."""
    titles = [f"{TITLES[metric]} {name}" for metric in METRICS for name in classes]
    cells = [
        [
            Cell(row["method"]),
            *(_with_sd(row, f"{m}_{name}", m) for m in METRICS for name in classes),
        ]
        for row in rows
    ]
    return Table(f"By {kind}", ("method", *titles), cells, "compare/table.csv")


def _with_sd(row: Row, column: str, metric: str) -> Cell:
    cell = number_cell(row[column], DIGITS[metric])
    if row[f"{column}_sd"] is None:
        return cell
    return Cell(
        f"{cell.text} ± {number_text(row[f'{column}_sd'], DIGITS[metric])}", cell.sort, numeric=True
    )


def markdown(title: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """``tables`` for a README or an issue."""
    parts = [f"# {title}", *notes]
    for table in tables:
        lines = ["| " + " | ".join(table.columns) + " |", "|" + "---|" * len(table.columns)]
        lines += ["| " + " | ".join(cell.text for cell in row) + " |" for row in table.all_rows]
        parts += [f"## {table.caption}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def html(
    experiment: str,
    tables: Sequence[Table],
    charts: Sequence[Chart],
    notes: Sequence[str],
    headline: str,
) -> str:
    """The page, with the report's template and style."""
    sections = [
        Section("methods", "Methods", "", [*tables, Note(list(notes))]),
        Section("figures", "Figures", "", list(charts), "No method is done yet."),
    ]
    return page(experiment, KIND, Note([headline]), sections)
