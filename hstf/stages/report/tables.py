"""Tables of the page, made from the columns of a frame."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from hstf.stages.report.page import (
    Cell,
    Table,
    estimate_cell,
    fraction_cell,
    number_cell,
    p_cell,
    text_cell,
)

Rows = pd.DataFrame | Sequence[Mapping[str, Any]]
STRUCTURE = "<structure>"


@dataclass(frozen=True)
class Column:
    """A column of a table of the page."""

    name: str
    """Column of the frame; ``<structure>`` stands for each class or region."""
    title: str
    """Heading."""
    digits: int | None = None
    """Number of decimals; None: the column is text."""
    signed: bool = False
    """Whether positive numbers have a plus sign."""
    interval: bool = False
    """Whether the columns ``<name>_low`` and ``<name>_high`` follow in parentheses."""
    of: str = ""
    """Column with the whole of a fraction such as ``3 of 4``."""
    is_p_value: bool = False
    """Whether the column is a p-value."""
    tone: str = ""
    """Column with the tone of the cell: ``good``, ``bad`` or empty."""
    has_links: bool = False
    """Whether the column has links."""

    def cell(self, row: Mapping[str, Any]) -> Cell:
        """Return the cell of a row; a dash if the row has no such value."""
        value = row.get(self.name)
        tone = row.get(self.tone, "")
        if self.has_links:
            return Cell("", links=value or ())
        if self.of:
            return fraction_cell(value or 0, row[self.of], tone)
        if self.is_p_value:
            return p_cell(value)
        if self.digits is None:
            return text_cell(value, tone)
        if self.interval:
            low = row.get(f"{self.name}_low")
            high = row.get(f"{self.name}_high")
            return estimate_cell(value, low, high, self.signed, tone)
        return number_cell(value, self.digits, self.signed, tone)


def for_structures(columns: Iterable[Column], structures: Iterable[str]) -> list[Column]:
    """Replace each column of ``<structure>`` by one column for each class or region."""
    expanded = []
    for column in columns:
        if STRUCTURE not in column.name:
            expanded.append(column)
            continue
        for structure in structures:
            name = column.name.replace(STRUCTURE, structure)
            title = column.title.replace(STRUCTURE, structure)
            expanded.append(
                replace(
                    column,
                    name=name,
                    title=title,
                )
            )
    return expanded


def make_table(
    caption: str,
    columns: Sequence[Column],
    rows: Rows,
    source: str = "",
) -> Table:
    """Make a table of the page.

    Args:
        caption: what the table shows.
        columns: the columns that are shown, in order.
        rows: a frame or dictionaries.
        source: file with the same values.
    """
    records: Any = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    cells = []
    for record in records:
        cells.append([column.cell(record) for column in columns])
    return Table(caption, tuple(column.title for column in columns), cells, source)
