"""Decisions of the audit desk and their history after a power failure and on a full disk."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.audit_decisions import CASES, in_force
from support.audit_desk import Browser, actions, label, nifti, rows, saving

from hstf.audit import saving as saving_module
from hstf.audit.desk import Desk
from hstf.audit.history import Action, State
from hstf.experiment.case_files import find_traces
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file


def test_two_desks_do_not_lose_rows(desk: Desk) -> None:
    """Each desk is a process; here each has its own memory of the history."""
    desks = [saving(desk), saving(desk)]
    for number in range(6):
        name = CASES[number % 2]
        verdict = Action("reject", 1, name, f"reader {number % 2}", "2026-01-01", "motion")
        desks[number % 2].save(verdict, "last")
    assert len(rows(desk)) == 2 and len(actions(desk)) == 6
    assert [action.number for action in actions(desk)] == [1, 2, 3, 4, 5, 6]


class Killed(BaseException):
    """A power failure."""


def killed_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the process end before the given number of files has been put in its place."""
    count = [0]
    for name in ("replace", "rename", "unlink"):
        original = getattr(Path, name)

        def counted(path: Path, *arguments: object, _original: object = original, **more: object):
            if ".tmp-" not in path.name or _original.__name__ != "unlink":
                count[0] += 1
                if count[0] > steps:
                    raise Killed
            return _original(path, *arguments, **more)

        monkeypatch.setattr(Path, name, counted)
    return monkeypatch.undo


@pytest.mark.parametrize("steps", range(8))
def test_killed_server_leaves_the_old_or_the_new_state(
    browser: Browser, desk: Desk, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    browser.decide("bad", "accept")
    old = rows(desk)
    found = saving(desk)
    source = desk.layout.pseudo_label(1, "bad")
    file, digest = found.history.keep(source, 1, "bad", "CD")
    verdict = Action("replace", 1, "bad", "CD", "2026-01-01", file=file, result_sha256=digest)
    folder = Path.cwd()
    undo_patch = killed_after(steps, monkeypatch)
    try:
        found.save(verdict, "last")
        ended = True
    except Killed:
        ended = False
    finally:
        undo_patch()
        os.chdir(folder)
    in_force(desk)  # valid for the workflow at any time
    was_begun = found.history.pending.exists()
    saving(desk).complete()
    is_new = [row["reviewer"] for row in rows(desk)] == ["CD"]
    assert is_new == (ended or was_begun)
    if is_new:
        assert in_force(desk) == {"bad": "replace"}
        assert sha256_file(desk.layout.override(1, "bad")) == digest
        assert [action.reviewer for action in actions(desk)] == ["AB", "CD"]
    else:
        assert rows(desk) == old
        assert in_force(desk) == {"bad": "accept"}
        assert not desk.layout.override(1, "bad").exists()
    assert not found.history.pending.exists()
    assert steps < 7 or ended


def test_full_disk_leaves_the_old_state(
    browser: Browser, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser.decide("bad", "accept")
    before = saving(desk).state(1, "bad")
    original = saving_module.Saving.put

    def full(self: saving_module.Saving, number: int, case_id: str, state: State) -> None:
        original(self, number, case_id, state)
        if state.file is not None:
            raise HstfError("decisions.csv: could not be written (No space left on device).")

    monkeypatch.setattr(saving_module.Saving, "put", full)
    answer = browser.correct("bad", nifti(label()))
    assert answer.status_code == 400 and "No space left" in answer.json()["error"]
    assert saving(desk).state(1, "bad") == before
    assert in_force(desk) == {"bad": "accept"}
    assert not saving(desk).history.pending.exists()


def test_history_that_cannot_be_written_leaves_the_old_state(browser: Browser, desk: Desk) -> None:
    folder = desk.layout.overrides / ".history" / "actions"
    folder.mkdir(parents=True)
    (folder / "bad").write_text("")  # as a folder of another user, in which nothing can be written
    answer = browser.decide("bad", "accept")
    assert answer.status_code == 400 and "could not be written" in answer.json()["error"]
    assert not desk.layout.decisions.exists()
    assert browser.decide("good", "accept").status_code == 200


def test_damaged_history_names_the_file(browser: Browser, desk: Desk) -> None:
    browser.decide("bad", "accept")
    (path,) = (desk.layout.overrides / ".history" / "actions" / "bad").iterdir()
    path.write_text("{}")
    with pytest.raises(HstfError, match="is damaged"):
        saving(desk).history.actions()


def test_forget_finds_the_history_of_a_case(browser: Browser, desk: Desk) -> None:
    for case_id in CASES:
        browser.post(f"/api/cases/{case_id}/open", {"round": 1})
        browser.correct(case_id, nifti(label()))
    traces = find_traces(desk.layout.root, "bad")
    overrides = desk.layout.overrides
    found = {str(path.relative_to(overrides)) for path in traces.files if overrides in path.parents}
    folders = {f".history/{name}/bad" for name in ("actions", "open/round_1", "round_1")}
    assert found == {"round_1/bad.nii.gz", *folders}
    known = {path.parent.name for path in (overrides / ".history").rglob("*.*")}
    assert known <= {"bad", "good", ".history"}
