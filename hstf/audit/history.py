"""The history of an experiment: each decision that was ever saved, and each version of a label.

It is a hidden folder beside the overrides, which the workflow ignores:

- ``.history/round_<r>/<case>/<date>_<reviewer>_<sha256>.nii.gz`` is a corrected label as it was
  saved. It is never changed or removed.
- ``.history/actions/<case>/<number>_<id>.json`` is a decision, with what was there before and after
  it.
- ``.history/pending.json`` is a decision that is being saved. If the server is killed, the next one
  completes it.
"""

import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from hstf.experiment.decisions import ACTIONS
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError, write_error
from hstf.runtime.files import (
    atomic_path,
    find_files,
    make_folder,
    read_json,
    sha256_file,
    write_json,
)
from hstf.runtime.locks import exclusive

FOLDER = ".history"
OTHER_PROGRAM = "other-program"
"""Stands for the reviewer in the name of a label that was not saved here."""
REPLACE = "replace"
UNDO = "undo"
_LOCAL = threading.Lock()


@dataclass(frozen=True)
class State:
    """What the overrides folder has about a case in one round."""

    rows: tuple[dict[str, str], ...] = ()
    """The rows of the table of decisions, with all their columns."""
    file: str | None = None
    """The kept version of the corrected label, relative to the history."""
    sha256: str | None = None
    """SHA-256 of the corrected label."""


@dataclass(frozen=True)
class Action:
    """A decision of a reviewer, or its undoing."""

    action: str
    """``accept``, ``replace``, ``reject`` or ``undo``."""
    round: int
    case_id: str
    reviewer: str
    date: str
    reason: str = ""
    sha256: str = ""
    """SHA-256 of the pseudo-label that was looked at."""
    result_sha256: str | None = None
    """SHA-256 of the corrected label."""
    file: str | None = None
    """The corrected label, relative to the history."""
    voxels_changed: dict[str, int] = field(default_factory=dict)
    dice_before: float | None = None
    dice_after: float | None = None
    seconds: float | None = None
    is_in_force: bool = True
    """Whether the decision was put in force; otherwise another reviewer must agree."""
    agreement: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Dice of each structure with the label of another reviewer, by the id of its action."""
    undoes: str | None = None
    """The id of the action that is undone."""
    before: State = State()
    after: State = State()
    id: str = field(default_factory=lambda: secrets.token_hex(6))
    number: int = 0
    """Place in the history."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Action":
        """Return the action that a file describes."""
        values = dict(content)
        for name in ("before", "after"):
            state = dict(values[name])
            values[name] = State(**state | {"rows": tuple(state["rows"])})
        return cls(**values)


class History:
    """The folder ``.history`` of an experiment."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.folder = layout.overrides / FOLDER
        self._known: dict[Path, Action] = {}

    @classmethod
    def of(cls, layout: Layout) -> "History":
        """Return the history of an experiment; always the same object, which remembers files."""
        return _history(layout)

    @property
    def pending(self) -> Path:
        """The action that is being saved."""
        return self.folder / "pending.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let nobody else save while the block runs, in this process or in another one."""
        with _LOCAL, exclusive(self.folder / "lock", "audit"):
            yield

    def actions(self) -> list[Action]:
        """Return all actions in their order.

        Raises:
            HstfError: if a file is damaged.
        """
        folder = self.folder / "actions"
        paths = sorted(find_files(folder, "*/*.json"), key=lambda path: path.name)
        for path in paths:
            if path not in self._known:
                self._known[path] = read_action(path)
        return [self._known[path] for path in paths]

    def begin(self, action: Action) -> Action:
        """Write an action to the disk before its effects, and return it with its number.

        Raises:
            HstfError: if it cannot be written, or could not be moved to the others afterwards.
        """
        make_folder(self.folder / "actions" / action.case_id)
        last = max((known.number for known in self.actions()), default=0)
        numbered = replace(action, number=last + 1)
        write_json(self.pending, asdict(numbered))
        return numbered

    def finish(self, action: Action) -> None:
        """Move the action that was begun to the others."""
        folder = self.folder / "actions" / action.case_id
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.pending.rename(folder / f"{action.number:06d}_{action.id}.json")
        except OSError as error:
            raise write_error(folder, error) from error

    def keep(self, source: Path, number: int, case_id: str, reviewer: str) -> tuple[str, str]:
        """Keep a version of a corrected label; one that is kept already is not copied again.

        Returns:
            Its path relative to the history, and its SHA-256.

        Raises:
            HstfError: if it was saved meanwhile, or cannot be copied.
        """
        digest = sha256_file(source)
        folder = self.folder / f"round_{number}" / case_id
        for path in sorted(folder.glob(f"*_{digest[:8]}.nii.gz")):
            if sha256_file(path) == digest:
                return str(path.relative_to(self.folder)), digest
        date = time.strftime("%Y%m%dT%H%M%S", time.localtime(source.stat().st_mtime))
        target = folder / f"{date}_{file_name(reviewer)}_{digest[:8]}.nii.gz"
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
            if sha256_file(temporary) != digest:
                raise HstfError(f"{source}: was saved while it was read. Try again.")
            temporary.chmod(0o444)
        return str(target.relative_to(self.folder)), digest


@cache
def _history(layout: Layout) -> History:
    return History(layout)


def read_action(path: Path) -> Action:
    """Read the file of an action.

    Raises:
        HstfError: if it is damaged.
    """
    try:
        return Action.from_json(read_json(path))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise HstfError(
            f"{path}: is damaged ({error}). It is a decision of a reviewer. Restore it from a copy,"
            " or move it to another folder and decide again."
        ) from error


def file_name(reviewer: str) -> str:
    """Return the name of a reviewer as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", reviewer).strip("-")[:40] or "reviewer"


Verdicts = dict[str, Action]
"""The last decision of each reviewer, in the order of their first decisions."""


def verdicts_of(actions: Iterable[Action], number: int) -> dict[str, Verdicts]:
    """Return by case the decision of each reviewer in a round, without undone ones.

    A decision that somebody wrote into the table, or a label that another program saved, counts
    from the first action after it.
    """
    actions = list(actions)
    undone = {action.undoes for action in actions}
    verdicts: dict[str, Verdicts] = {}
    for action in actions:
        if action.round == number and action.action != UNDO and action.id not in undone:
            of_case = verdicts.setdefault(action.case_id, {})
            for earlier in _made_elsewhere(action):
                of_case.setdefault(earlier.reviewer, earlier)
            of_case[action.reviewer] = action
    return verdicts


def _made_elsewhere(action: Action) -> list[Action]:
    """Return what the folder had about a case before an action, as actions.

    Those of the desk are among them. A row without a valid action decides nothing.
    """
    before = action.before
    rows = [row for row in before.rows if action_of(row) in ACTIONS]
    found = [_action_of_row(row, action) for row in rows]
    if before.file is not None and not rows:
        found.append(_action_of_row({"action": REPLACE, "reviewer": OTHER_PROGRAM}, action))
    return found


def _action_of_row(row: Mapping[str, str], later: Action) -> Action:
    """Return the action of a row of the table of decisions.

    A row without the version of the pseudo-label is about the version of the later action.
    """
    kind = action_of(row)
    reviewer = row.get("reviewer", OTHER_PROGRAM)
    is_label = kind == REPLACE
    return Action(
        action=kind,
        round=later.round,
        case_id=later.case_id,
        reviewer=reviewer,
        date=row.get("date", ""),
        reason=row.get("reason", ""),
        sha256=row.get("sha256", later.sha256),
        result_sha256=later.before.sha256 if is_label else None,
        file=later.before.file if is_label else None,
        id=f"row_{later.round}_{later.case_id}_{reviewer}",
    )


def action_of(row: Mapping[str, str]) -> str:
    """Return the action of a row of the table of decisions; empty if its cell is empty."""
    return row.get("action", "").casefold()


def last_of(actions: Iterable[Action], reviewer: str) -> Action | None:
    """Return the last decision of a reviewer that is not undone."""
    actions = list(actions)
    undone = {action.undoes for action in actions}
    for action in reversed(actions):
        if action.reviewer == reviewer and action.action != UNDO and action.id not in undone:
            return action
    return None
