"""Who has a case open. A mark is a small file in the history, so that two desks see each other."""

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hstf.audit.calls import Call, post
from hstf.audit.history import FOLDER
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.runtime.files import find_files, write_text

SECONDS = 60
"""A mark is renewed by opening the case again, and disappears after this time."""


@dataclass(frozen=True)
class Marks:
    """The marks of an experiment."""

    folder: Path

    @classmethod
    def of(cls, layout: Layout) -> "Marks":
        """Return the marks of an experiment."""
        return cls(layout.overrides / FOLDER / "open")

    def put(self, number: int, case_id: str, session: str, reviewer: str) -> None:
        """Mark a case as open. Without the right to write, it is not marked."""
        with suppress(HstfError):
            write_text(self._path(number, case_id, session), json.dumps({"reviewer": reviewer}))

    def remove(self, number: int, case_id: str, session: str) -> None:
        """Remove a mark."""
        with suppress(OSError):
            self._path(number, case_id, session).unlink(missing_ok=True)

    def readers(self, number: int, without: str = "") -> dict[str, list[str]]:
        """Return by case who has it open.

        Args:
            number: the round.
            without: a session that is left out.
        """
        found: dict[str, list[str]] = {}
        own = _digest(without)
        for path in find_files(self.folder / f"round_{number}", "*/*.json"):
            case_id = path.parent.name
            with suppress(OSError, ValueError, KeyError, TypeError):
                if time.time() - path.stat().st_mtime > SECONDS:
                    path.unlink()
                elif path.stem != own:
                    reviewer = str(json.loads(path.read_text(encoding="utf-8"))["reviewer"])
                    found.setdefault(case_id, []).append(reviewer)
        return found

    def _path(self, number: int, case_id: str, session: str) -> Path:
        return self.folder / f"round_{number}" / case_id / f"{_digest(session)}.json"


def _digest(session: str) -> str:
    return hashlib.sha256(session.encode()).hexdigest()[:12]


def open_case(call: Call) -> dict[str, list[str]]:
    """Mark a case as open; return who else has it open."""
    number = call.round()
    case_id = call.case_id()
    marks = Marks.of(call.desk.layout)
    marks.put(number, case_id, call.session, call.reviewer)
    return {"opened_by": marks.readers(number, call.session).get(case_id, [])}


def close_case(call: Call) -> dict[str, list[str]]:
    """Remove the mark of a case."""
    number = call.round()
    case_id = call.case_id()
    marks = Marks.of(call.desk.layout)
    marks.remove(number, case_id, call.session)
    return {"opened_by": marks.readers(number, call.session).get(case_id, [])}


ROUTES = [
    post("/api/cases/{case_id}/open", open_case),
    post("/api/cases/{case_id}/close", close_case),
]
