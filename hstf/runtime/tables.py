"""CSV tables with a typed description: reading, writing, checking and documentation come from it.

A table is a :class:`Table` with a :class:`Column` for each of its columns. On disk it is CSV. In
memory it is a pandas ``DataFrame``, or a list of dictionaries with Python values.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hstf.runtime.errors import join_problems
from hstf.runtime.files import read_csv, write_csv

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["text", "integer", "number", "flag", "list"]

SEPARATOR = ";"
"""Separator of the items of a list within a cell."""

FLAGS = {"true": True, "false": False}

PANDAS_TYPES: dict[Kind, str] = {
    "text": "str",
    "integer": "Int64",  # nullable: an empty cell stays empty
    "number": "float64",
    "flag": "boolean",
    "list": "object",
}


SCHEMA_TYPES: dict[Kind, str] = {
    "text": "string",
    "integer": "integer",
    "number": "number",
    "flag": "boolean",
    "list": "string",  # items with a semicolon between them
}
"""Types of the Table Schema by kind of column."""


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    """Name, or a template such as ``dice_of_<structure>`` for one column per structure."""
    kind: Kind
    meaning: str
    """One sentence for the documentation."""
    unit: str = ""
    """Unit or range, for instance ``mm`` or ``0 to 1``."""
    optional: bool = False
    """Whether the column is written only if a row has it. Optional columns come last."""

    @property
    def is_template(self) -> bool:
        """Whether the column stands for several columns of a file."""
        return "<" in self.name

    def matches(self, name: str) -> bool:
        """Return whether ``name`` is a column of a file that this description is for."""
        if not self.is_template:
            return name == self.name
        literals = re.split(r"<\w+>", self.name)
        pattern = ".+".join(re.escape(literal) for literal in literals)
        return re.fullmatch(pattern, name) is not None


class Table:
    """The description of a CSV file.

    Args:
        name: short name, as in the documentation.
        file: where the file is stored, relative to the folder of the experiment.
        meaning: what a row is.
        columns: the columns in the order in which they are written.

    Example:
        >>> place = Column("x", "number", "Place.", "mm")
        >>> POINTS = Table("points", "points.csv", "A point.", [place])
        >>> POINTS.write(Path("points.csv"), [{"x": 1.5}])
        >>> POINTS.read(Path("points.csv")).x.sum()
        1.5
    """

    def __init__(self, name: str, file: str, meaning: str, columns: Sequence[Column]) -> None:
        self.name = name
        self.file = file
        self.meaning = meaning
        self.columns = tuple(columns)

    def schema(self) -> dict[str, Any]:
        """Return the description of the columns as a Table Schema (Frictionless Data)."""
        fields = []
        for column in self.columns:
            field = {
                "name": column.name,
                "type": SCHEMA_TYPES[column.kind],
                "description": column.meaning,
            }
            if column.unit:
                field["unit"] = column.unit
            fields.append(field)
        return {
            "name": self.name,
            "path": self.file,
            "description": self.meaning,
            "fields": fields,
            "missingValues": [""],
        }

    def header(
        self, structures: Sequence[str] = (), rows: Sequence[Mapping[str, Any]] = ()
    ) -> list[str]:
        """Return the columns of a file.

        Args:
            structures: classes or regions; a column ``..._of_<structure>`` is there once for each.
            rows: rows of the file; they decide which optional columns there are.
        """
        header: list[str] = []
        for column in self.columns:
            if column.optional:
                continue
            if column.is_template:
                header += [column.name.replace("<structure>", name) for name in structures]
            else:
                header.append(column.name)
        optional = [column for column in self.columns if column.optional]
        for name in dict.fromkeys(name for row in rows for name in row):
            if name not in header and any(column.matches(name) for column in optional):
                header.append(name)
        return header

    def write(
        self,
        path: Path,
        rows: "Iterable[Mapping[str, Any]] | pd.DataFrame",
        structures: Sequence[str] = (),
        header: Sequence[str] | None = None,
    ) -> None:
        """Write ``rows`` atomically. Values that a row lacks are empty cells.

        Args:
            path: the CSV file.
            rows: dictionaries of Python values, or a frame as :meth:`read` returns it.
            structures: classes or regions, see :meth:`header`.
            header: the columns, if they are not those of :meth:`header`.

        Raises:
            HstfError: if the file cannot be written.
            KeyError: if a row has a column that the table does not have.
        """
        plain = _plain_rows(rows)
        names = list(header) if header is not None else self.header(structures, plain)
        kinds = {name: self.column(name).kind for name in names}
        write_csv(path, (self._cells(row, kinds) for row in plain), names)

    def read(self, path: Path) -> "pd.DataFrame":
        """Read the table as a frame with a pandas type for each kind of column.

        An empty cell is missing (``NaN`` or ``NA``), an empty text is ``""``.

        Raises:
            HstfError: if the file is missing, lacks a column, or has a cell of another type.
        """
        import pandas as pd

        rows = self.records(path)
        header = list(rows[0]) if rows else self.header()
        frame = pd.DataFrame(rows, columns=header)
        types = {name: PANDAS_TYPES[self.column(name).kind] for name in header}
        return frame.astype(types)

    def records(self, path: Path) -> list[dict[str, Any]]:
        """Read the table as dictionaries of Python values.

        An empty cell is ``None``, an empty text is ``""``, an empty list is ``[]``.

        Raises:
            HstfError: if the file is missing, lacks a column, or has a cell of another type.
        """
        rows = read_csv(path)
        problems = _width_problems(rows)
        if rows and not problems:
            problems = self._header_problems(list(rows[0]))
        parsed: list[dict[str, Any]] = []
        if not problems:
            kinds = {name: self.column(name).kind for name in (rows[0] if rows else ())}
            for line, row in enumerate(rows, start=2):
                parsed.append(_values(row, kinds, line, problems))
        if problems:
            raise join_problems(
                f"{path}: is not a table that hstf wrote."
                " Delete the file and run the stage that writes it again.",
                problems[:MAXIMUM_PROBLEMS],
            )
        return parsed

    def column(self, name: str) -> Column:
        """Return the description of the column called ``name`` in a file.

        Raises:
            KeyError: if the table has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        for column in self.columns:
            if column.matches(name):
                return column
        raise KeyError(f"table '{self.name}' has no column '{name}'")

    def markdown(self) -> str:
        """Return the columns as a Markdown table for the documentation."""
        lines = ["| column | type | unit or range | meaning |", "|---|---|---|---|"]
        for column in self.columns:
            cells = [f"`{column.name}`", WORDS[column.kind], column.unit, column.meaning]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _header_problems(self, header: Sequence[str]) -> list[str]:
        required = [c.name for c in self.columns if not c.optional and not c.is_template]
        problems = [f"column '{name}' is missing" for name in required if name not in header]
        for name in header:
            if not any(column.matches(name) for column in self.columns):
                problems.append(f"column '{name}' is unknown")
        return problems

    def _cells(self, row: Mapping[str, Any], kinds: Mapping[str, Kind]) -> dict[str, Any]:
        unknown = [name for name in row if name not in kinds]
        if unknown:
            raise KeyError(f"table '{self.name}' has no column {', '.join(unknown)}")
        return {name: _to_cell(value, kinds[name]) for name, value in row.items()}


MAXIMUM_PROBLEMS = 10
"""Number of problems that an error message lists."""

WORDS: dict[Kind, str] = {
    "text": "text",
    "integer": "integer",
    "number": "number",
    "flag": "true or false",
    "list": "list, separated by ;",
}


def _plain_rows(rows: "Iterable[Mapping[str, Any]] | pd.DataFrame") -> list[Mapping[str, Any]]:
    """Convert ``rows`` to dictionaries of Python values; missing values of a frame are ``None``."""
    if isinstance(rows, Iterable) and not hasattr(rows, "to_dict"):
        return list(rows)
    plain = rows.astype(object).where(rows.notna(), None)  # type: ignore[union-attr]
    return plain.to_dict("records")  # type: ignore[return-value]


def _width_problems(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Describe rows with fewer or more cells than the header."""
    problems = []
    for line, row in enumerate(rows, start=2):
        # The reader puts surplus cells under the name None, and None into missing ones.
        if None in row or None in row.values():
            problems.append(f"line {line}: has another number of cells than the header")
    return problems


def _values(
    row: Mapping[str, str], kinds: Mapping[str, Kind], line: int, problems: list[str]
) -> dict[str, Any]:
    """Convert the cells of a row; what cannot be converted is added to ``problems``."""
    values: dict[str, Any] = {}
    for name, cell in row.items():
        try:
            values[name] = _from_cell(cell, kinds[name])
        except ValueError:
            expected = WORDS[kinds[name]]
            problems.append(f"line {line}: {name} is {cell!r}, expected {expected}")
    return values


def split_list(cell: str) -> list[str]:
    """Split a cell that holds a list."""
    return cell.split(SEPARATOR) if cell else []


def _to_cell(value: Any, kind: Kind) -> Any:
    """Convert a Python value to what :func:`hstf.runtime.files.write_csv` writes."""
    if value is None:
        return None
    if kind == "flag":
        return "true" if value else "false"
    if kind == "list":
        return SEPARATOR.join(map(str, value))
    if kind == "number":
        return float(value)
    return value


def _from_cell(cell: str, kind: Kind) -> Any:
    """Convert the text of a cell to a Python value.

    Raises:
        ValueError: if the text is not of this kind.
    """
    if kind == "text":
        return cell
    if kind == "list":
        return split_list(cell)
    if cell == "":
        return None
    if kind == "flag":
        if cell.lower() not in FLAGS:
            raise ValueError(cell)
        return FLAGS[cell.lower()]
    if kind == "integer":
        return int(cell)
    return float(cell)
