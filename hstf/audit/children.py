"""Programs that the desk starts. They go on if the desk is closed."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from hstf.runtime.errors import write_error
from hstf.runtime.files import make_folder

lock = Lock()
"""Is held while one decides whether to start a program, and starts it."""
_started: dict[Path, subprocess.Popen[bytes]] = {}
"""The last program that this desk has started, by the file of its output."""


def start(arguments: Sequence[str], log: Path) -> None:
    """Start a Python module in this folder.

    Args:
        arguments: the module and its arguments; no shell reads them.
        log: the file of its output.

    Raises:
        HstfError: if its output cannot be written.
    """
    make_folder(log.parent)
    try:
        output = log.open("wb")
    except OSError as error:
        raise write_error(log, error) from None
    with output:
        _started[log.absolute()] = subprocess.Popen(  # noqa: S603  a list of checked arguments
            [sys.executable, "-m", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def is_running(log: Path) -> bool:
    """Return whether the program that this desk has started is active."""
    process = _started.get(log.absolute())
    return process is not None and process.poll() is None


def has_failed(log: Path) -> bool:
    """Return whether the program that this desk has started has ended with an error."""
    process = _started.get(log.absolute())
    return process is not None and process.poll() not in (None, 0)
