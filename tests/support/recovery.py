"""What the tests of faults share: waiting for the moment of the fault, and the time it takes to go on.

``tests/benchmarks/faults.py`` runs them and makes a table of what they tell.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hstf.runtime.files import write_text

Record = Callable[[str, object], None]
"""Pytest's ``record_property``."""


@contextmanager
def recovery(record: Record, fault: str, goes_on: str) -> Iterator[None]:
    """Measure the block, which starts again after ``fault`` and ends with the work done; ``goes_on`` says how."""
    start = time.monotonic()
    yield
    record_recovery(record, fault, goes_on, time.monotonic() - start)


def record_recovery(record: Record, fault: str, goes_on: str, seconds: float) -> None:
    """Record how long the work took after it was started again."""
    record("fault", fault)
    record("goes on", goes_on)
    record("seconds", seconds)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Return when ``condition`` holds; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def copy_or_die(source: Path, target: Path) -> dict[str, str]:
    """The work of a case of a shard; its process is killed where ``source`` says so."""
    if source.read_text() == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(target, source.read_text())
    return {}
