"""Progress of long work: a bar with rate and time left in a terminal, a line a minute in a log file."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

T = TypeVar("T")
LINE_SECONDS = 60.0


def track(items: Sequence[T], title: str) -> Iterator[T]:
    """Yield ``items`` and show how many are done."""
    with Progress(title, len(items)) as progress:
        for item in items:
            yield item
            progress.advance()


class Progress:
    """Shows ``done`` of ``total``; used as a context manager.

    Args:
        done: where the count starts, for work that resumes.
    """

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self.title, self.total, self.done, self.first = title, total, done, done
        self.started = self.last_line = time.monotonic()
        self.bar: Bar | None = None

    def __enter__(self) -> "Progress":
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self.bar = Bar(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"), console=Console(stderr=True),
            )  # fmt: skip
            self.bar.start()
            self.task = self.bar.add_task(
                self.title, total=self.total, completed=self.done, note=""
            )
        return self

    def advance(self, note: str = "") -> None:
        """One more is done; ``note`` (a loss, a case) stands beside the count."""
        self.done += 1
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, note=note)
        elif time.monotonic() - self.last_line >= LINE_SECONDS or self.done == self.total:
            self.last_line = time.monotonic()
            print(self._line(note), file=sys.stderr, flush=True)

    def _line(self, note: str) -> str:
        elapsed = time.monotonic() - self.started
        rate = (self.done - self.first) / max(elapsed, 1e-9)
        left = (self.total - self.done) / rate if rate else float("inf")
        return f"{self.title}: {self.done}/{self.total}, {rate:.3g}/s, {left:.0f} s left {note}".rstrip()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
