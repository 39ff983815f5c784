"""A page: sections of tables, charts, pictures and notes, and how numbers are written.

The templates are ``report.html`` (the page), ``macros.html`` (its blocks) and ``report.css``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hstf import __version__

MAXIMUM_ROWS = 300
"""Number of rows of a table that the page shows."""
CASE_WIDTH = 19
"""Minimum width of a picture (rem): two rounds of two cases fit beside each other."""
FIRST_CASES = 6
"""Number of cases whose pictures are shown at once; the others follow on demand."""
MAXIMUM_BESIDE = 2
"""Number of rounds whose pictures are side by side in the width of the page."""
DASH = "–"
"""What a cell without a value shows."""
NARROW_SPACE = "\u202f"
MINUS = "−"


@dataclass(frozen=True)
class Link:
    """A link to a part of the page, or to a file beside it."""

    text: str
    address: str


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    sort: float | None = None
    """Number by which the column is sorted; None: by the text."""
    tone: str = ""
    """``good``, ``bad`` or empty."""
    numeric: bool = False
    """Whether the cell belongs to a column of numbers, which are aligned to the right."""
    links: tuple[Link, ...] = ()
    """Shown instead of the text."""


@dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted. The page shows the first :data:`MAXIMUM_ROWS` rows."""

    caption: str
    columns: tuple[str, ...]
    """Headings."""
    all_rows: list[list[Cell]]
    source: str = ""
    """The file that contains all rows."""

    @property
    def rows(self) -> list[list[Cell]]:
        """The rows that the page shows."""
        return self.all_rows[:MAXIMUM_ROWS]

    @property
    def numeric(self) -> list[bool]:
        """Whether each column has numbers."""
        numeric = []
        for column in range(len(self.columns)):
            numeric.append(any(row[column].numeric for row in self.all_rows))
        return numeric

    @property
    def left_out(self) -> int:
        """Number of rows that the page does not show."""
        return len(self.all_rows) - len(self.rows)


@dataclass(frozen=True)
class Chart:
    """A figure inside the page, and how to read it."""

    name: str
    title: str
    svg: Markup
    caption: str
    width: int
    """Pixels."""


@dataclass(frozen=True)
class Picture:
    """An overlay of the gallery."""

    number: int
    """The round."""
    source: str
    """A ``data:`` address."""
    facts: str


@dataclass(frozen=True)
class Review:
    """What a reviewer needs to open, correct and judge a pseudo-label."""

    links: tuple[Link, ...]
    command: str
    """Opens the case in an editor."""
    save_as: str
    """File of the corrected label."""
    row: str
    """Row of the table of decisions."""


@dataclass(frozen=True)
class GalleryCase:
    """The pictures of a case, the last round first, and how to review it."""

    case_id: str
    key: str
    """Its address in the page."""
    tone: str
    pictures: list[Picture]
    review: Review


@dataclass(frozen=True)
class Gallery:
    """Pictures of pseudo-labels."""

    cases: list[GalleryCase]
    note: str
    legend: list[tuple[str, str]]
    """Name and CSS colour of each class."""
    table: str
    """The table of decisions."""

    @property
    def first(self) -> list[GalleryCase]:
        """The cases that are shown at once."""
        return self.cases[:FIRST_CASES]

    @property
    def others(self) -> list[GalleryCase]:
        """The cases that are shown on demand."""
        return self.cases[FIRST_CASES:]

    @property
    def width(self) -> int:
        """Minimum width of a case (rem): rounds are side by side."""
        rounds = max((len(case.pictures) for case in self.cases), default=1)
        return CASE_WIDTH * min(rounds, MAXIMUM_BESIDE)


@dataclass(frozen=True)
class Note:
    """Text and commands."""

    lines: list[str]
    """A paragraph; several lines are a list."""
    tone: str = ""
    """``good``, ``bad``, ``warn`` or empty."""
    commands: list[str] = field(default_factory=list)
    title: str = ""
    folded: bool = False
    """Whether the commands are hidden until the reader opens the note."""
    links: Sequence[Link] = ()
    """Shown in a row after the text."""


Block = Table | Chart | Gallery | Note


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    key: str
    """Its address in the page."""
    title: str
    intro: str
    blocks: Sequence[Block]
    missing: str = ""
    """Why there are no blocks."""

    def kinds(self) -> list[tuple[str, Block]]:
        """Return the blocks with the name of their macro."""
        return [(type(block).__name__.lower(), block) for block in self.blocks]


def page(
    experiment: str,
    kind: str,
    headline: Note,
    sections: Sequence[Section],
    tiles: Sequence[Mapping[str, str]] = (),
    first: Note | None = None,
) -> str:
    """Return a page as HTML that needs no other file.

    Args:
        experiment: name of the experiment.
        kind: what the page is, for its title.
        headline: the main result; the first line is emphasised.
        sections: the parts of the page.
        tiles: ``name``, ``value`` and ``note`` of each number below the headline.
        first: what the reader should look at first.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        experiment=experiment,
        kind=kind,
        headline=headline,
        sections=sections,
        tiles=tiles,
        first=first,
        written=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        version=__version__,
    )


def to_number(value: Any) -> float | None:
    """Return ``value`` as a finite number; None for text, missing values, NaN and infinity."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def number_text(
    value: Any,
    digits: int = 3,
    signed: bool = False,
) -> str:
    """Write a number with ``digits`` decimals and a true minus sign, or a dash."""
    number = to_number(value)
    if number is None:
        return DASH
    # Adding 0 turns -0.0 into 0.0.
    number = round(number, digits) + 0.0
    text = f"{number:+,.{digits}f}" if signed and number else f"{number:,.{digits}f}"
    return text.replace(",", NARROW_SPACE).replace("-", MINUS)


def interval_text(
    low: Any,
    high: Any,
    digits: int = 3,
    signed: bool = False,
) -> str:
    """Write an interval as ``low to high``, or a dash."""
    if to_number(low) is None or to_number(high) is None:
        return DASH
    return f"{number_text(low, digits, signed)} to {number_text(high, digits, signed)}"


def p_text(value: Any) -> str:
    """Write a p-value as ``p = 0.012`` or ``p < 0.001``; empty if there is none."""
    number = to_number(value)
    if number is None:
        return ""
    return "p < 0.001" if number < 0.001 else f"p = {number:.3f}"


def counted(
    number: int,
    singular: str,
    plural: str = "",
) -> str:
    """Write ``1 case`` or ``2 cases``."""
    noun = singular if number == 1 else plural or f"{singular}s"
    return f"{number} {noun}"


def some_of(names: Sequence[str], maximum: int) -> str:
    """List at most ``maximum`` names, and the number of the others."""
    listed = ", ".join(names[:maximum])
    more = len(names) - maximum
    return f"{listed} and {more} more" if more > 0 else listed


def round_name(number: int) -> str:
    """Return ``warm-up`` or ``round 1``."""
    return f"round {number}" if number else "warm-up"


def number_cell(
    value: Any,
    digits: int = 3,
    signed: bool = False,
    tone: str = "",
) -> Cell:
    """Return a cell with a number or a dash."""
    number = to_number(value)
    if number is None:
        return Cell(DASH, None, tone, numeric=True)
    return Cell(
        number_text(number, digits, signed),
        number,
        tone,
        numeric=True,
    )


def estimate_cell(
    value: Any,
    low: Any,
    high: Any,
    signed: bool = False,
    tone: str = "",
) -> Cell:
    """Return a cell with a number and its interval, sorted by the number."""
    cell = number_cell(value, 3, signed, tone)
    if None in (to_number(value), to_number(low), to_number(high)):
        return cell
    return replace(cell, text=f"{cell.text} ({interval_text(low, high, 3, signed)})")


def p_cell(value: Any) -> Cell:
    """Return a cell with a p-value or a dash."""
    text = p_text(value).removeprefix("p = ").removeprefix("p ")
    return Cell(
        text or DASH,
        to_number(value),
        numeric=True,
    )


def fraction_cell(
    part: int,
    whole: int,
    tone: str = "",
) -> Cell:
    """Return a cell such as ``3 of 4``, sorted by the fraction; a dash if ``whole`` is 0."""
    if not whole:
        return number_cell(None)
    return Cell(
        f"{part} of {whole}",
        part / whole,
        tone,
        numeric=True,
    )


def text_cell(value: Any, tone: str = "") -> Cell:
    """Return a cell with text, or a dash if there is none."""
    # Missing values of a pandas frame are NaN or NA.
    text = "" if value is None or str(value) in ("nan", "<NA>") else str(value)
    return Cell(text or DASH, None, tone)
