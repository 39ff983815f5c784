"""Numbers and tables as plain text, for terminals and logs."""

from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Write a time span for people.

    Example:
        >>> [duration(seconds) for seconds in (45, 720, 12600, 345600)]
        ['45 s', '12 min', '3.5 h', '4.0 days']
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def gigabytes(number: float) -> str:
    """Write an amount of memory or disk space, given in GB.

    Example:
        >>> [gigabytes(number) for number in (0.02, 3.21, 2400)]
        ['20 MB', '3.2 GB', '2,400 GB']
    """
    if number < 0.1:
        return f"{1000 * number:.0f} MB"
    return f"{number:.1f} GB" if number < 10 else f"{number:,.0f} GB"


def text_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table: the first column to the left, all others to the right."""
    table = [list(titles), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(titles))]
    lines = [_line(row, widths) for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return lines


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    first, *others = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    return "  ".join(cells).rstrip()
