"""Helpers of tests that cause a problem and measure the time until the work is done again.

``tests/benchmarks/recovery.py`` runs these tests and prints what they recorded.
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
def recovery(record: Record, problem: str, resumes: str) -> Iterator[None]:
    """Measure a block that starts the work again and ends when it is done.

    Args:
        record: the fixture ``record_property`` of the test.
        problem: what happened before, such as "full disk".
        resumes: how or from where the next run resumes.
    """
    start = time.monotonic()
    yield
    record_recovery(record, problem, resumes, time.monotonic() - start)


def record_recovery(record: Record, problem: str, resumes: str, seconds: float) -> None:
    """Record how long the work took after it was started again."""
    record("problem", problem)
    record("resumes", resumes)
    record("seconds", seconds)


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Return when ``condition`` is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def copy_or_die(source: Path, target: Path) -> dict[str, str]:
    """Copy the file of a case of a shard; kill the process if the file contains "killer"."""
    if source.read_text() == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    write_text(target, source.read_text())
    return {}
