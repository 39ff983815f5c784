"""What happens if the reader of the output has gone, as in ``hstf config --show | head -1``."""

import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

EXIT_CLOSED_OUTPUT = 141
"""Exit code of programs that the signal SIGPIPE (13) ends: 128 + 13."""


@contextmanager
def end_quietly() -> Iterator[None]:
    """End the process without a message if nobody reads its output any more.

    Raises:
        SystemExit: if the output was closed.
    """
    try:
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except BrokenPipeError:
        closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]
        if not closed:
            raise  # another pipe, such as that to a worker
        # Python would report that it cannot write the rest.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in closed:
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(EXIT_CLOSED_OUTPUT) from None


def _is_closed(stream: TextIO) -> bool:
    """Return whether a stream is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (OSError, ValueError):  # no file, as in tests
        return False
