"""Predicted Dice against what the corrected labels show."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hstf.audit.calls import Call, get
from hstf.audit.desk import Desk
from hstf.runtime.stamps import Stamp, stamp_of
from hstf.scoring.feedback import Feedback, feedback

State = tuple[tuple[Path, Stamp | None], ...]


class Known:
    """The last result, which holds until a file changes."""

    state: State | None = None
    found = Feedback()


_known: dict[Path, Known] = {}


def answer(call: Call) -> dict[str, Any]:
    """Return the corrected cases of all rounds, and what they show together."""
    found = of_desk(call.desk)
    return {
        "cases": [asdict(case) for case in found.cases],
        "changed": found.changed,
        "problems": found.problems,
        "text": found.text,
        "count": len(found.cases),
        "mean_predicted": found.predicted,
        "mean_measured": found.measured,
        "coverage": found.coverage,
        "rank_correlation": found.correlation,
    }


def of_desk(desk: Desk) -> Feedback:
    """Compare the cases of a desk; volumes are read again only if something has changed."""
    known = _known.setdefault(desk.layout.root.absolute(), Known())
    state = _state(desk)
    if known.state != state:
        work = desk.worker.submit(
            feedback, desk.config, desk.layout, desk.schedule, list(desk.cases)
        )
        known.found = work.result()
        known.state = state
    return known.found


def _state(desk: Desk) -> State:
    """Return the stamps of all files that are read."""
    layout = desk.layout
    files = [layout.decisions, layout.decisions_seen]
    files += [layout.refine(number) for number in desk.rounds()]
    files += sorted(layout.overrides.glob("round_*/*.nii.gz"))
    return tuple((path, stamp_of(path)) for path in files)


ROUTES = [get("/api/feedback", answer)]
