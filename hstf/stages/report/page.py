"""What a page is made of: sections of tables, figures, pictures and text, and how numbers are written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from hstf import __version__
from hstf.stages.report.results import to_number

TABLE_ROWS = 300
DASH = "–"


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it is sorted by, and whether it is good or bad news."""

    text: str
    sort: float | None = None
    tone: str = ""
    numeric: bool = False
    """Stands to the right, as numbers do, also where there is none."""


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted; of long ones the first :data:`TABLE_ROWS` rows are shown."""

    caption: str
    columns: tuple[str, ...]
    all_rows: list[list[Cell]]
    source: str = ""
    """The file that has all of it."""

    @property
    def rows(self) -> list[list[Cell]]:
        return self.all_rows[:TABLE_ROWS]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds numbers."""
        return [any(row[k].numeric for row in self.all_rows) for k in range(len(self.columns))]

    @property
    def left_out(self) -> int:
        return len(self.all_rows) - len(self.rows)


@dataclass(frozen=True)
class Chart:
    """A figure drawn into the page, and how to read it."""

    name: str
    title: str
    svg: Markup
    caption: str
    width: int
    """Pixels."""


@dataclass(frozen=True)
class Picture:
    """An overlay of the gallery."""

    case_id: str
    source: str
    """A ``data:`` address."""
    tone: str
    facts: str


@dataclass(frozen=True)
class Gallery:
    """Pictures of pseudo-labels."""

    title: str
    pictures: list[Picture]
    note: str
    legend: list[tuple[str, str]]
    """Name and CSS colour of each class."""


@dataclass(frozen=True)
class Note:
    """Text, or with several lines a list; ``tone`` is good, bad, warn or nothing; commands are shown as typed."""

    lines: list[str]
    tone: str = ""
    commands: list[str] = field(default_factory=list)
    title: str = ""
    folded: bool = False
    """Shown when asked for."""


Block = Table | Chart | Gallery | Note


@dataclass(frozen=True)
class Section:
    """A part of the report. Without blocks, ``missing`` tells why it is empty."""

    key: str
    title: str
    intro: str
    blocks: list[Block]
    missing: str = ""

    def kinds(self) -> list[tuple[str, Block]]:
        """Blocks with the name of their kind, for the template."""
        return [(type(block).__name__.lower(), block) for block in self.blocks]


def page(
    experiment: str,
    kind: str,
    headline: Note,
    sections: Sequence[Section],
    tiles: Sequence[Mapping[str, str]] = (),
    first: Note | None = None,
) -> str:
    """An HTML page that needs nothing but itself.

    Args:
        kind: what the page is, for its title: "self-training report".
        tiles: ``name``, ``value`` and ``note`` of each number below the headline.
        first: what to look at before all else.
    """
    from jinja2 import Environment, StrictUndefined

    package = files("hstf.stages.report.stage")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((package / "report.html").read_text(encoding="utf-8")).render(
        experiment=experiment,
        kind=kind,
        css=(package / "report.css").read_text(encoding="utf-8"),
        headline=headline,
        tiles=tiles,
        first=first,
        sections=sections,
        footer=f"Written {datetime.now().astimezone():%Y-%m-%d %H:%M %Z} by hstf {__version__}."
        " For research; no medical device.",
    )


def number_cell(value: Any, digits: int = 3, signed: bool = False, tone: str = "") -> Cell:
    """A number with ``digits`` decimals, or a dash."""
    number = to_number(value)
    if number is None:
        return Cell(DASH, None, tone, True)
    return Cell(number_text(number, digits, signed), number, tone, True)


def number_text(value: Any, digits: int = 3, signed: bool = False) -> str:
    """``value`` with ``digits`` decimals and a true minus sign, or a dash."""
    number = to_number(value)
    if number is None:
        return DASH
    number = round(number, digits) or 0.0  # no minus before a zero
    text = f"{number:+,.{digits}f}" if signed and number else f"{number:,.{digits}f}"
    return text.replace(",", "\u202f").replace("-", "−")


def estimate_cell(value: Any, low: Any, high: Any, signed: bool = False, tone: str = "") -> Cell:
    """A number with its interval in parentheses, sorted by the number."""
    cell = number_cell(value, 3, signed, tone)
    if None in (to_number(value), to_number(low), to_number(high)):
        return cell
    return replace(cell, text=f"{cell.text} ({interval_text(low, high, 3, signed)})")


def count_cell(number: int) -> Cell:
    """A whole number."""
    return Cell(str(number), number, numeric=True)


def share_cell(part: int, whole: int, tone: str = "") -> Cell:
    """``3 of 4``, sorted by the share; a dash where there is nothing to be part of."""
    return Cell(f"{part} of {whole}", part / whole, tone, True) if whole else number_cell(None)


def interval_text(low: Any, high: Any, digits: int = 3, signed: bool = False) -> str:
    """An interval as ``low to high``, or a dash."""
    if to_number(low) is None or to_number(high) is None:
        return DASH
    return f"{number_text(low, digits, signed)} to {number_text(high, digits, signed)}"


def p_text(value: Any) -> str:
    """A p-value as ``p = 0.012``, ``p < 0.001`` or nothing."""
    number = to_number(value)
    if number is None:
        return ""
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}"


def counted(number: int, singular: str, plural: str = "") -> str:
    """``1 case``, ``2 cases``."""
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def text_cells(values: Iterable[Any]) -> list[Cell]:
    """Cells of plain text, dashes for nothing."""
    return [Cell(str(value) if value not in (None, "") else DASH) for value in values]
