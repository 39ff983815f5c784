"""What to label next: the table of ``hstf suggest``, the cases set aside, and a new computation."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hstf.audit import children
from hstf.audit.calls import Call, Refusal, get, post
from hstf.audit.desk import Desk
from hstf.experiment import set_aside
from hstf.experiment.review_tables import SUGGEST
from hstf.experiment.set_aside import LATER, SKIP
from hstf.runtime.errors import HstfError
from hstf.runtime.job_logs import last_count, log_lines

LOG = Path("logs") / "audit_suggest.log"
"""Output of a computation that the desk has started."""
AGAIN = "again"
"""Take a case off the list of those set aside."""
MAXIMUM = 1000
LINES = 20
"""Number of lines of the output that are sent."""


def suggestions(call: Call) -> dict[str, Any]:
    """Return the suggested scans and slices, the cases set aside, and whether it computes."""
    desk = call.desk
    problems: list[str] = []
    number = _last_round(desk)
    aside: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    try:
        listed = set_aside.rows(_folder(desk))
        aside = [row for row in listed if set_aside.holds(row, number)]
        if _table(desk).is_file():
            rows = SUGGEST.records(_table(desk))
    except HstfError as error:
        problems.append(str(error))
    hidden = {row["case_id"] for row in aside}
    return {
        "round": number,
        "date": _date(_table(desk)),
        "table": str(_table(desk)),
        "rows": [_shown(desk, row) for row in rows if row["case_id"] not in hidden],
        "aside": aside,
        "problems": problems,
        **_progress(desk),
    }


def _shown(desk: Desk, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table, with the file of the case in which its slices are drawn."""
    template = _folder(desk) / "templates" / f"{row['case_id']}.nii.gz"
    is_there = row["case_id"] in desk.cases and template.is_file()
    return {**row, "template": str(template) if is_there and row["kind"] == "slice" else None}


def _progress(desk: Desk) -> dict[str, Any]:
    log = desk.layout.root / LOG
    runs = children.is_running(log)
    failed = children.has_failed(log)
    lines = log_lines(log)[-LINES:] if runs or failed else []
    count = last_count(lines) if runs else None
    return {
        "running": runs,
        "failed": failed,
        "log_tail": lines,
        "done": count.done if count else None,
        "total": count.total if count else None,
    }


def compute(call: Call) -> dict[str, Any]:
    """Start ``hstf suggest``.

    Raises:
        Refusal: if it is active, or if a number is none.
        HstfError: if its output cannot be written.
    """
    desk = call.desk
    arguments = ["hstf", "suggest", str(desk.layout.root)]
    for name in ("scans", "slices"):
        arguments += [f"--{name}", str(_number(call, name))]
    log = desk.layout.root / LOG
    with children.lock:
        if children.is_running(log):
            raise Refusal(409, "The suggestions are being computed already.")
        children.start(arguments, log)
    return {"running": True}


def _number(call: Call, name: str) -> int:
    value = call.body.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAXIMUM:
        raise Refusal(400, f"{name}: must be a whole number from 0 to {MAXIMUM}.")
    return value


def put_aside(call: Call) -> dict[str, Any]:
    """Skip a case, keep it for a later round, or suggest it again.

    Raises:
        Refusal: if there is no such action or no such case.
        HstfError: if the list cannot be read or written.
    """
    desk = call.desk
    case_id = call.text("case_id")
    action = call.text("action")
    if action not in (SKIP, LATER, AGAIN):
        raise Refusal(400, f"action: must be {SKIP}, {LATER} or {AGAIN}.")
    # A case that has left the case sheet can still be taken off the list.
    if case_id not in desk.cases and action != AGAIN:
        raise Refusal(404, "There is no such unlabelled case.")
    with children.lock:
        stored = "" if action == AGAIN else action
        set_aside.note(_folder(desk), [case_id], stored, _last_round(desk))
    return suggestions(call)


def _last_round(desk: Desk) -> int:
    rounds = desk.rounds()
    if not rounds:
        raise Refusal(404, "No round has pseudo-labels.")
    return rounds[-1]


def _folder(desk: Desk) -> Path:
    return desk.layout.root / "suggest"


def _table(desk: Desk) -> Path:
    return _folder(desk) / "suggest.csv"


def _date(path: Path) -> str | None:
    if not path.is_file():
        return None
    changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return changed.isoformat(timespec="seconds")


ROUTES = [
    get("/api/suggest", suggestions),
    post("/api/suggest", compute),
    post("/api/suggest/aside", put_aside),
]
