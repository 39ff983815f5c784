"""``hstf track``: show a round in MLflow. Tracking never fails a run: every problem is a warning.

An experiment of HSTF is an experiment of MLflow, and each round is a run called ``round_<r>``. The
run has the parameters, the training curves of each ensemble member, the scores and the small files
of the round. If a round is tracked again with the same content, its run stays. With other content
the run is replaced, because MLflow can neither change a parameter nor take a metric back. Notes and
tags that people have added to the old run are copied.

The result is stored in ``round_<r>/track.json``, see :class:`Tracking`. The runs are also noted in
``tracked/round_<r>.json``, so that they are known after a later attempt that fails.
"""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hstf.config.track import ALLOWED_VARIABLES, VARIABLE, without_credentials
from hstf.experiment.context import StageContext
from hstf.runtime.errors import HstfError
from hstf.stages.track.documents import TrackedRuns, Tracking
from hstf.stages.track.server import log_round

DEADLINE_SECONDS = 600.0
"""Time for everything, whatever the server does."""
MAXIMUM_REASON = 2000
"""Number of characters of the reason in ``track.json``."""
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
"""Environment variables whose values are never written."""


def run(args: argparse.Namespace) -> int:
    """Track a round.

    Raises:
        HstfError: if there is no such round. Nothing is written then.
    """
    context = StageContext.of_arguments(args, "track")
    context.schedule.check_exists(context.round)
    track(context)
    return 0


def track(context: StageContext) -> Tracking:
    """Log a round to MLflow, and write ``track.json`` and ``tracked/round_<r>.json``.

    Returns:
        The content of ``track.json``. Nothing is raised.
    """
    number = context.round
    earlier = TrackedRuns.of_round(context.layout, number)
    tracking = _try_to_log(context)
    if tracking.logged:
        earlier = earlier.with_run(tracking)
    elif earlier.runs:
        update = {"logged": False, "reason": tracking.reason}
        tracking = earlier.runs[-1].model_copy(update=update)
    if earlier.runs:
        earlier.save(context.layout.tracked(number))
    tracking.save(context.layout.track(number))
    if tracking.logged:
        print(f"{tracking.run} is in MLflow. To see it: {tracking.show}", flush=True)
    elif context.config.track.enabled:
        print(
            f"hstf track: warning: round {number} is not in MLflow: {tracking.reason}",
            file=sys.stderr,
            flush=True,
        )
    return tracking


def _try_to_log(context: StageContext) -> Tracking:
    """Log a round; a problem becomes the reason why it is not logged."""
    section = context.config.track
    if not section.enabled:
        return Tracking(logged=False, reason="track.enabled is false")
    try:
        with _deadline(DEADLINE_SECONDS):
            return log_round(context)
    except _TimeUp:
        reason = f"MLflow took more than {DEADLINE_SECONDS:.0f} s"
    except HstfError as error:
        reason = str(error)
    except Exception as error:
        # MLflow, databases and networks raise errors of many types.
        reason = f"{type(error).__name__}: {error}"
    safe_reason = without_secrets(reason, section.uri)
    return Tracking(logged=False, reason=safe_reason[:MAXIMUM_REASON])


def without_secrets(text: str, uri: str) -> str:
    """Remove credentials of addresses and the values of secret environment variables.

    Args:
        text: the text.
        uri: an address; the variables that it names are secret, but for those of every user.
    """
    named = [name for name in VARIABLE.findall(uri) if name not in ALLOWED_VARIABLES]
    for name in (*SECRETS, *named):
        value = os.environ.get(name)
        if value:
            text = text.replace(value, "***")
    return without_credentials(text)


class _TimeUp(BaseException):
    """The deadline has passed.

    This is not an ``Exception``, because MLflow catches those and tries again.
    """


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise :class:`_TimeUp` in the block after some seconds."""

    def stop(*_: object) -> None:
        raise _TimeUp

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
