"""CSV tables with a typed description: reading, writing, checking and documentation come from it.

A table is a :class:`Table` with a :class:`Column` for each of its columns. In memory it is a pandas ``DataFrame`` with
Python types: text, whole numbers, numbers, true or false, and lists of text. On disk it is CSV.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hstf.runtime.errors import join_faults
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


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    kind: Kind
    meaning: str
    """One sentence for the documentation."""
    unit: str = ""
    """Unit or range, for instance ``mm`` or ``0 to 1``."""
    per: str = ""
    """What the column is repeated for: with ``per="class"`` there is a column ``<name>_<class>`` for each class."""


class Table:
    """The description of a CSV file.

    Args:
        name: short name, as in the documentation.
        file: where the file is stored, relative to the folder of the experiment.
        meaning: what a row is.
        columns: the columns in the order in which they are written.

    Example:
        >>> POINTS = Table("points", "points.csv", "A point.", [Column("x", "number", "Position.", "mm")])
        >>> POINTS.write(Path("points.csv"), [{"x": 1.5}])
        >>> POINTS.read(Path("points.csv")).x.sum()
        1.5
    """

    def __init__(self, name: str, file: str, meaning: str, columns: Sequence[Column]) -> None:
        self.name = name
        self.file = file
        self.meaning = meaning
        self.columns = tuple(columns)
        self._single = {column.name: column for column in columns if not column.per}
        self._repeated = [column for column in columns if column.per]

    def header(self, names: Sequence[str] = ()) -> list[str]:
        """Return the names of the columns; repeated columns are there once for each of ``names``."""
        header: list[str] = []
        for column in self.columns:
            if column.per:
                header += [f"{column.name}_{name}" for name in names]
            else:
                header.append(column.name)
        return header

    def write(
        self,
        path: Path,
        rows: "Iterable[Mapping[str, Any]] | pd.DataFrame",
        names: Sequence[str] = (),
    ) -> None:
        """Write ``rows`` atomically. Values that a row lacks are empty cells.

        Args:
            path: the CSV file.
            rows: dictionaries of Python values, or a frame as :meth:`read` returns it.
            names: classes, or whatever repeated columns are repeated for.

        Raises:
            HstfError: if the file cannot be written.
            KeyError: if a row has a column that the table does not have.
        """
        if not isinstance(rows, Iterable) or hasattr(rows, "to_dict"):
            rows = records(rows)  # type: ignore[arg-type]
        header = self.header(names)
        write_csv(path, (self._cells(row, header) for row in rows), header)

    def read(self, path: Path) -> "pd.DataFrame":
        """Read the table as a frame; an empty cell is missing (``NaN`` or ``NA``), an empty text is ``""``.

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
        """Read the table as dictionaries of Python values; an empty cell is ``None``, an empty text is ``""``.

        Raises:
            HstfError: if the file is missing, lacks a column, or has a cell of another type.
        """
        rows = read_csv(path)
        problems: list[str] = []
        if rows:
            missing = [name for name in self._single if name not in rows[0]]
            unknown = [name for name in rows[0] if not self._knows(name)]
            problems += [f"column '{name}' is missing" for name in missing]
            problems += [f"column '{name}' is unknown" for name in unknown]
        parsed: list[dict[str, Any]] = []
        if not problems:
            for line, row in enumerate(rows, start=2):
                parsed.append(self._values(row, line, problems))
        if problems:
            raise join_faults(
                f"{path}: is not the table that hstf wrote. Delete the file and run its stage again.",
                problems[:10],
            )
        return parsed

    def column(self, name: str) -> Column:
        """Return the description of the column called ``name`` in a file.

        Raises:
            KeyError: if the table has no such column.
        """
        if name in self._single:
            return self._single[name]
        for column in self._repeated:
            if name.startswith(f"{column.name}_"):
                return column
        raise KeyError(f"table '{self.name}' has no column '{name}'")

    def markdown(self) -> str:
        """Return the columns as a Markdown table for the documentation."""
        lines = ["| column | type | unit or range | meaning |", "|---|---|---|---|"]
        for column in self.columns:
            name = f"{column.name}_<{column.per}>" if column.per else column.name
            lines.append(f"| `{name}` | {WORDS[column.kind]} | {column.unit} | {column.meaning} |")
        return "\n".join(lines)

    def _knows(self, name: str) -> bool:
        try:
            self.column(name)
        except KeyError:
            return False
        return True

    def _cells(self, row: Mapping[str, Any], header: Sequence[str]) -> dict[str, Any]:
        unknown = [name for name in row if name not in header]
        if unknown:
            raise KeyError(f"table '{self.name}' has no column {', '.join(unknown)}")
        return {name: _to_cell(value, self.column(name).kind) for name, value in row.items()}

    def _values(self, row: Mapping[str, str], line: int, problems: list[str]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, cell in row.items():
            column = self.column(name)
            try:
                values[name] = _from_cell(cell, column.kind)
            except ValueError:
                problems.append(f"line {line}: {name} is {cell!r}, expected {WORDS[column.kind]}")
        return values


WORDS: dict[Kind, str] = {
    "text": "text",
    "integer": "integer",
    "number": "number",
    "flag": "true or false",
    "list": "list, separated by ;",
}


def records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """Convert ``frame`` to dictionaries of Python values; missing values are ``None``."""
    plain = frame.astype(object).where(frame.notna(), None)
    return plain.to_dict("records")  # type: ignore[return-value]


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
        return cell.split(SEPARATOR) if cell else []
    if cell == "":
        return None
    if kind == "flag":
        if cell.lower() not in FLAGS:
            raise ValueError(cell)
        return FLAGS[cell.lower()]
    if kind == "integer":
        return int(cell)
    return float(cell)
