"""Change single rows of ``decisions.csv``, and keep everything else that a person wrote there.

Separator, encoding, line breaks, further columns, empty lines and the other rows stay as they are.
"""

import codecs
import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hstf.experiment.decisions import COLUMNS, VERSION, header_problems, is_about
from hstf.experiment.review_tables import DECISIONS
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import atomic_path, delimiter_of, read_sheet, read_text_of_person

FORMULA = ("=", "+", "-", "@")
"""A cell that begins so is computed by a spreadsheet; a space before it prevents that."""
KNOWN = tuple(column.name for column in DECISIONS.columns)
Row = dict[str, str]


@dataclass(frozen=True)
class DecisionTable:
    """The table of decisions on disk."""

    path: Path

    def rows(self, number: int, case_id: str) -> tuple[Row, ...]:
        """Return the rows about a case in a round, without empty cells.

        Cells beyond the header have the name "".

        Raises:
            HstfError: if the table cannot be read.
        """
        if not self.path.is_file():
            return ()
        header, lines = read_sheet(self.path, KNOWN)
        problems = header_problems(header) if header else []
        if problems:
            raise join_problems(f"{self.path}: no decision can be added.", problems)
        return tuple(_filled(row) for _, row in lines if is_about(row, number, case_id))

    def replace(self, number: int, case_id: str, rows: Sequence[Mapping[str, str]]) -> None:
        """Replace the rows about a case in a round, atomically.

        Raises:
            HstfError: if the table cannot be read or written.
        """
        if self.rows(number, case_id) == tuple(dict(row) for row in rows):
            return
        sheet = _Sheet.read(self.path) if self.path.is_file() else _Sheet.new()
        sheet.remove(number, case_id)
        for row in rows:
            sheet.append(row)
        sheet.write(self.path)


def _filled(row: Mapping[str, str]) -> Row:
    return {name: cell for name, cell in row.items() if cell}


@dataclass
class _Sheet:
    """The lines of the table."""

    lines: list[str]
    header: list[str]
    header_line: int
    """Index of the line with the names of the columns."""
    delimiter: str
    encoding: str
    newline: str
    records: list[tuple[range, Row]]
    """Indices of the lines of each row, and its cells."""

    @classmethod
    def new(cls) -> "_Sheet":
        header = [*COLUMNS, VERSION]
        return cls([",".join(header)], header, 0, ",", "utf-8", "\n", [])

    @classmethod
    def read(cls, path: Path) -> "_Sheet":
        text = read_text_of_person(path)
        delimiter, skipped = delimiter_of(text)
        encoding, newline = _form(path.read_bytes())
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
        found: list[tuple[range, list[str]]] = []
        start = 0
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped) and reader.line_num > skipped:
                found.append((range(start, reader.line_num), stripped))
            start = reader.line_num
        if not found:
            return cls.new()
        place, _ = found[0]
        if len(place) > 1:
            raise HstfError(f"{path}: the names of the columns must be in one line.")
        header = read_sheet(path, KNOWN)[0]
        records = [(lines, dict(zip(header, cells, strict=False))) for lines, cells in found[1:]]
        lines = text.removesuffix("\n").split("\n")
        return cls(lines, header, place.start, delimiter, encoding, newline, records)

    def remove(self, number: int, case_id: str) -> None:
        """Remove the rows about a case in a round."""
        removed: set[int] = set()
        kept = []
        for lines, row in self.records:
            complete = {"round": "", "case_id": "", **row}
            if is_about(complete, number, case_id):
                removed.update(lines)
            else:
                kept.append((lines, row))
        self.records = kept
        self.lines = [line for index, line in enumerate(self.lines) if index not in removed]

    def append(self, row: Mapping[str, str]) -> None:
        """Add a row, and the columns that it needs."""
        for name in row:
            if name and name not in self.header:
                self.header.append(name)
                self.lines[self.header_line] += self.delimiter + name
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=self.delimiter, lineterminator="")
        surplus = [_cell(row[""])] if row.get("") else []
        cells = [_cell(row.get(name, "")) if name else "" for name in self.header]
        writer.writerow([*cells, *surplus])
        self.lines.append(stream.getvalue())

    def write(self, path: Path) -> None:
        text = "\n".join([*self.lines, ""]).replace("\n", self.newline)
        content = text.encode(self.encoding)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


def _cell(text: str) -> str:
    return f" {text}" if text.startswith(FORMULA) else text


def _form(content: bytes) -> tuple[str, str]:
    """Return the encoding and the line break of a table."""
    encoding = "utf-8"
    if content.startswith(codecs.BOM_UTF8):
        encoding = "utf-8-sig"
    elif content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    text = content.decode(encoding)
    if "\r\n" in text:
        return encoding, "\r\n"
    return encoding, "\r" if "\r" in text and "\n" not in text else "\n"
