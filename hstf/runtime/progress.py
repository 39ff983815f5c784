"""Progress of long work: a bar in a terminal, a line per minute in a log file."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")
LINE_SECONDS = 60.0
FIRST_LINE_SECONDS = 10.0
"""The first line comes earlier, so that one sees soon that the work goes on, and how fast."""


def track(items: Sequence[T], title: str) -> Iterator[T]:
    """Yield ``items`` and show how many are done."""
    with Progress(title, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()


class Progress:
    """Shows how many of ``total`` items are done; a context manager.

    Args:
        title: what is done.
        total: number of items.
        done: number of items that were done before, for work that resumes.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title = title
        self.total = total
        self.done = done
        self.first = done
        self.started = time.monotonic()
        self.next_line = self.started + FIRST_LINE_SECONDS
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            self._start_bar()
        return self

    def _start_bar(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
        )
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=self.total, completed=self.done, note="")

    def advance(self, note: str = "") -> None:
        """Count one more item; ``note`` (a loss, a case) is shown beside the count."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
            return
        now = time.monotonic()
        if now >= self.next_line or self.done == self.total:
            self.next_line = now + LINE_SECONDS
            print(self._line(note), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.first) / max(elapsed, 1e-9)
        seconds_left = (self.total - self.done) / rate if rate else float("inf")
        count = f"{self.title}: {self.done}/{self.total}"
        return f"{count}, {rate:.3g}/s, {seconds_left:.0f} s left {note}".rstrip()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
