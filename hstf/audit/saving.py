"""Save decisions: the table of decisions, corrected labels, and the history.

A decision is first written to the history and then put in force. If the server is killed before,
nothing has changed; if it is killed afterwards, the next one completes it. In between, the folder
is always valid for the workflow.
"""

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from hstf.audit.consensus import is_put_in_force, that_count
from hstf.audit.decision_table import DecisionTable
from hstf.audit.desk import Desk
from hstf.audit.history import (
    OTHER_PROGRAM,
    REPLACE,
    UNDO,
    Action,
    History,
    State,
    action_of,
    last_of,
    read_action,
    verdicts_of,
)
from hstf.experiment.layout import Layout
from hstf.experiment.override_folder import OUTSIDE, leaves
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path, sha256_file

DATE = "%Y-%m-%d %H:%M:%S"


class Changed(HstfError):
    """Somebody else has changed what a decision was made for."""


def now() -> str:
    """Return the date and time of a decision."""
    return time.strftime(DATE)


class Saving:
    """Reads and changes the overrides of an experiment."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.history = History.of(layout)
        self.table = DecisionTable(layout.decisions)

    @classmethod
    def of(cls, desk: Desk) -> "Saving":
        """Return the overrides of a desk."""
        return cls(desk.layout)

    def save(
        self, action: Action, consensus: str, refuse: Callable[[], None] | None = None
    ) -> Action:
        """Save a decision, and put it in force unless it must wait for another reviewer.

        Args:
            action: the decision; its states are filled in here.
            consensus: whose decision is in force if reviewers disagree.
            refuse: raises an error if somebody else has changed what the decision was made for. It
                is not called for a decision that its reviewer sends again.

        Returns:
            The decision as it is in the history.

        Raises:
            HstfError: if it cannot be saved; nothing has changed then.
        """
        with self.history.locked():
            self.recover()
            before = self.state(action.round, action.case_id)
            action = replace(action, before=before)
            earlier = self.history.actions()
            verdicts = verdicts_of(earlier, action.round).get(action.case_id, {})
            if refuse is not None and not is_sent_again(action, verdicts, before):
                refuse()
            verdicts = verdicts_of([*earlier, action], action.round)[action.case_id]
            verdicts = that_count(verdicts, action.sha256)
            in_force = is_put_in_force(consensus, verdicts, action)
            after = state_after(before, action) if in_force else before
            return self._write(replace(action, is_in_force=in_force, after=after))

    def undo(self, reviewer: str) -> Action | None:
        """Take back the last decision of a reviewer; return it, or None if there is none.

        Raises:
            Changed: if the case has been changed since.
            HstfError: if it cannot be saved; nothing has changed then.
        """
        with self.history.locked():
            self.recover()
            last = last_of(self.history.actions(), reviewer)
            if last is None:
                return None
            current = self.state(last.round, last.case_id)
            if last.is_in_force and not _is_same(current, last.after):
                raise Changed(
                    f"{last.case_id}: has been changed since {last.reviewer} decided on"
                    f" {last.date}, so this decision cannot be taken back. Decide again."
                )
            after = last.before if last.is_in_force else current
            self._write(
                Action(
                    action=UNDO,
                    round=last.round,
                    case_id=last.case_id,
                    reviewer=reviewer,
                    date=now(),
                    undoes=last.id,
                    before=current,
                    after=after,
                )
            )
            return last

    def complete(self) -> None:
        """Complete a decision that was being saved when a server was killed."""
        if self.history.pending.is_file():
            with self.history.locked():
                self.recover()

    def recover(self) -> None:
        """Do the same while the history is locked."""
        path = self.history.pending
        if path.is_file():
            action = read_action(path)
            self.put(action.round, action.case_id, action.after)
            self.history.finish(action)

    def state(self, number: int, case_id: str) -> State:
        """Return what the folder has about a case in a round; its corrected label is kept.

        Raises:
            HstfError: if the table or the label cannot be read, or is outside the folder.
        """
        path = self.layout.override(number, case_id)
        for place in (path, path.parent, self.layout.decisions):
            if leaves(place, self.layout.overrides):
                raise HstfError(f"{place}: {OUTSIDE}.")
        rows = self.table.rows(number, case_id)
        if not path.is_file():
            return State(rows)
        file, digest = self.history.keep(path, number, case_id, OTHER_PROGRAM)
        return State(rows, file, digest)

    def put(self, number: int, case_id: str, state: State) -> None:
        """Make the folder have a state. It stays valid between the steps, and may be repeated."""
        actions = {action_of(row) for row in state.rows}
        present = self.table.rows(number, case_id)
        if any(action_of(row) not in actions for row in present):
            self.table.replace(number, case_id, ())
        self._put_file(self.layout.override(number, case_id), state)
        self.table.replace(number, case_id, state.rows)

    def _put_file(self, path: Path, state: State) -> None:
        if state.file is None:
            path.unlink(missing_ok=True)
            return
        if path.is_file() and sha256_file(path) == state.sha256:
            return
        with atomic_path(path) as temporary:
            shutil.copyfile(self.history.folder / state.file, temporary)

    def _write(self, action: Action) -> Action:
        """Write a decision to the history, and put it in force.

        Raises:
            HstfError: if the disk is full, or the like. What was there before is put back.
        """
        action = self.history.begin(action)
        try:
            self.put(action.round, action.case_id, action.after)
        except (HstfError, OSError):
            self.put(action.round, action.case_id, action.before)
            self.history.pending.unlink()
            raise
        self.history.finish(action)
        return action


def _is_same(first: State, second: State) -> bool:
    return first.rows == second.rows and first.sha256 == second.sha256


def is_sent_again(action: Action, verdicts: Mapping[str, Action], before: State) -> bool:
    """Return whether a decision is in force already: the answer to its reviewer was lost.

    Args:
        action: the decision.
        verdicts: the last decision of each reviewer on this case.
        before: what the folder has about the case.
    """
    last = verdicts.get(action.reviewer)
    if last is None or not last.is_in_force or not _is_same(before, last.after):
        return False
    sent = (action.action, action.reason, action.sha256, action.result_sha256)
    return sent == (last.action, last.reason, last.sha256, last.result_sha256)


def state_after(before: State, action: Action) -> State:
    """Return the state that a decision makes.

    The rows of other reviewers who decided the same stay.
    """
    rows = []
    for row in before.rows:
        is_same = action_of(row) == action.action != REPLACE
        if is_same and row.get("reviewer", "") != action.reviewer:
            rows.append(row)
    rows.append(row_of(action))
    file = action.file if action.action == REPLACE else None
    digest = action.result_sha256 if action.action == REPLACE else None
    return State(tuple(rows), file, digest)


def row_of(action: Action) -> dict[str, str]:
    """Return the row of the table of a decision, without empty cells."""
    cells = {
        "round": str(action.round),
        "case_id": action.case_id,
        "action": action.action,
        "reviewer": action.reviewer,
        "date": action.date,
        "reason": action.reason,
        "sha256": action.sha256,
        "result_sha256": action.result_sha256 or "",
        "voxels_changed": changed_text(action.voxels_changed),
        "dice_before": _number(action.dice_before),
        "dice_after": _number(action.dice_after),
        "seconds": _number(action.seconds),
    }
    return {name: cell for name, cell in cells.items() if cell}


def changed_text(counts: Mapping[str, int]) -> str:
    """Return numbers of voxels by class as a cell of the table."""
    return ";".join(f"{name}={count}" for name, count in counts.items())


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
