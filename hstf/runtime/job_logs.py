"""What the log of a job states: its progress, its warnings, and why it failed.

The screen of a run and ``hstf status`` read the same lines. They are those of
:mod:`hstf.runtime.progress` and those that ``hstf`` prints when a command fails.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

READ_BYTES = 200_000
"""Only the end of a log is read; a log may grow for days."""
MAXIMUM_LINES = 40
"""Lines of the message of a failed job that are shown."""
LAST_LINES = 5
"""Lines that are shown of a log that ends without a message."""
COUNT = re.compile(
    r"^(?P<title>.+?): (?P<done>\d+)/(?P<total>\d+), (?P<rate>[\d.e+-]+)/s,"
    r" (?P<left>\d+|inf) s left ?(?P<note>.*)$"
)
"""A line of :class:`hstf.runtime.progress.Progress`."""
LOSS = re.compile(r"\bloss (?P<loss>\d+(\.\d+)?(e[+-]?\d+)?)")
"""The note of a training."""
MESSAGE = re.compile(r"^hstf [a-z_]+: (?!warning: )")
"""The message of a command that has failed."""
TRACEBACK = "Traceback (most recent call last):"


@dataclass(frozen=True)
class Count:
    """How far a job was when it wrote its last line of progress."""

    title: str
    done: int
    total: int
    rate: float
    """Items in a second."""
    note: str
    """The loss of a training, or the last case."""


def log_lines(path: Path) -> list[str]:
    """Return the last lines of a log; none if it cannot be read."""
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            stream.seek(max(0, size - READ_BYTES))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.splitlines()
    return lines[1:] if size > READ_BYTES else lines


def last_count(lines: Sequence[str]) -> Count | None:
    """Return the last line of progress; None without one."""
    for line in reversed(lines):
        count = _count(line)
        if count is not None:
            return count
    return None


def losses_in(lines: Sequence[str]) -> list[tuple[int, float]]:
    """Return step and loss of each line of progress of a training."""
    losses = []
    for line in lines:
        count = _count(line)
        match = LOSS.search(count.note) if count else None
        if count is not None and match is not None:
            losses.append((count.done, float(match["loss"])))
    return losses


def _count(line: str) -> Count | None:
    match = COUNT.match(line)
    if match is None:
        return None
    return Count(
        match["title"],
        int(match["done"]),
        int(match["total"]),
        float(match["rate"]),
        match["note"].strip(),
    )


def warnings_in(lines: Sequence[str]) -> list[str]:
    """Return the lines that warn."""
    return [line.strip() for line in lines if re.search(r"\bwarning: ", line, re.IGNORECASE)]


def results_in(lines: Sequence[str]) -> list[str]:
    """Return the lines without those of progress."""
    return [line for line in lines if line.strip() and not COUNT.match(line)]


def failure(lines: Sequence[str], with_traceback: bool = False) -> list[str]:
    """Return why a job failed: the message of its command, or the error below a traceback.

    Args:
        lines: the log.
        with_traceback: show more of a log that ends without a message of the command.

    Returns:
        The lines to show; the last lines of a log that ends without a message.
    """
    for number in range(len(lines) - 1, -1, -1):
        if MESSAGE.match(lines[number]):
            return _shortened(_until_traceback(lines[number:]))
    if with_traceback:
        return list(lines[-MAXIMUM_LINES:])
    for number in range(len(lines) - 1, -1, -1):
        if lines[number] == TRACEBACK:
            return _error_below(lines[number + 1 :])
    return list(lines[-LAST_LINES:])


def has_failed(lines: Sequence[str]) -> bool:
    """Return whether a log ends with the message of a failed command or with a traceback."""
    return any(MESSAGE.match(line) or line == TRACEBACK for line in lines)


def _until_traceback(lines: Sequence[str]) -> list[str]:
    """Leave out what torchrun adds to the message of a training."""
    if TRACEBACK in lines:
        return list(lines[: lines.index(TRACEBACK)])
    return list(lines)


def _shortened(lines: Sequence[str]) -> list[str]:
    if len(lines) <= MAXIMUM_LINES:
        return list(lines)
    rest = len(lines) - MAXIMUM_LINES
    return [*lines[:MAXIMUM_LINES], f"… and {rest} more lines in the log"]


def _error_below(lines: Sequence[str]) -> list[str]:
    """Return the error of a traceback, which is its first line without indentation."""
    for number, line in enumerate(lines):
        if line and not line.startswith(" "):
            error = [part for part in lines[number:] if part]
            return [
                *_shortened(error),
                "This is an error of the program. The log has the details for a bug report.",
            ]
    return list(lines[-LAST_LINES:])
