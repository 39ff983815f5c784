"""Run a program of somebody else: a list of arguments, a time limit, and nothing left behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from hstf.runtime.errors import HstfError

POLL_SECONDS = (0.005, 0.1)
"""How often it is looked whether a program has ended: at first, and later."""
TAIL_BYTES = 4000
"""How much of the output of a failed program is shown."""
PR_SET_PDEATHSIG = 1
"""From ``linux/prctl.h``: the signal that a process gets when its parent dies."""


@dataclass(frozen=True)
class Finished:
    """How a program ended."""

    code: int | None
    """Exit code, negative for a signal; None if it was killed after the time limit."""
    tail: str
    """The end of what it printed."""

    def problem(self, seconds: float) -> str:
        """Return why the program failed; empty if it did not.

        Args:
            seconds: its time limit.
        """
        if self.code == 0:
            return ""
        if self.code is None:
            return f"was killed after {seconds / 60:g} minutes (timeout)"
        ended = f"exit code {self.code}" if self.code > 0 else f"signal {-self.code}"
        last = self.tail.strip().rpartition("\n")[2].strip()
        return f"{ended}: {last[:300]}" if last else ended


def run_program(
    words: Sequence[str], output: Path, seconds: float, environment: Mapping[str, str]
) -> Finished:
    """Run a program until it ends or its time is over, and kill all processes that it started.

    Args:
        words: the program and its arguments; no shell reads them.
        output: file of what it prints.
        seconds: time limit.
        environment: its environment.

    Raises:
        HstfError: if the program cannot be started.
    """
    try:
        with output.open("wb") as stream, _termination_as_exit():
            process = subprocess.Popen(  # noqa: S603  a list of arguments from the configuration
                list(words),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
            try:
                has_ended = _wait(process, seconds)
            finally:
                # The process is not yet reaped, so that its group cannot be another one.
                with suppress(ProcessLookupError, PermissionError):  # the latter on macOS
                    os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
    except OSError as error:
        raise HstfError(f"{words[0]}: cannot be started ({error.strerror or error}).") from error
    return Finished(code if has_ended else None, _tail(output))


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Return whether a process ends in time, without reaping it."""
    if not hasattr(os, "waitid"):  # macOS before Python 3.13; it can only wait and reap at once
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None
    deadline = time.monotonic() + seconds
    pause, longest = POLL_SECONDS
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
    return True


def _tail(output: Path) -> str:
    with output.open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - TAIL_BYTES))
        return stream.read().decode(errors="replace")


def _die_with_parent() -> Callable[[], None] | None:
    """Return a function for the new process: it is killed when this one is killed (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded before the fork

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return die_with_parent


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Raise SystemExit when this process is terminated, so that the program is killed first."""

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, leave)
    except ValueError:  # only the main thread can
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
