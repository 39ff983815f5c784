"""Decisions of the audit desk: which are accepted, and what is written to the table."""

import re

import numpy as np
import pytest
from support.audit_decisions import in_force, kept
from support.audit_desk import Browser, actions, label, nifti, rows

from hstf.audit.desk import Desk
from hstf.imaging.volumes import read_label
from hstf.runtime.files import sha256_file


def test_accept_writes_a_row_for_this_version(browser: Browser, desk: Desk) -> None:
    answer = browser.decide("bad", "accept").json()
    assert answer["case"]["status"] == "accepted" and answer["messages"] == []
    (row,) = rows(desk)
    assert (row["round"], row["case_id"], row["action"], row["reviewer"]) == (
        "1",
        "bad",
        "accept",
        "AB",
    )
    assert row["sha256"] == sha256_file(desk.layout.pseudo_label(1, "bad"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", row["date"])
    assert row["seconds"] == "7" and float(row["dice_before"]) < 0.5
    assert in_force(desk) == {"bad": "accept"}


def test_reject_needs_a_reason(browser: Browser, desk: Desk) -> None:
    answer = browser.decide("bad", "reject")
    assert answer.status_code == 400 and "reason" in answer.json()["error"]
    assert not desk.layout.decisions.exists()
    answer = browser.decide("bad", "reject", reason="motion artefact, strong")
    assert answer.json()["case"]["decision"]["reason"] == "motion artefact, strong"
    assert in_force(desk) == {"bad": "reject"}


def test_a_changed_mind_replaces_the_row_and_keeps_the_history(
    browser: Browser, desk: Desk
) -> None:
    browser.decide("bad", "accept")
    browser.decide("bad", "reject", reason="motion")
    browser.decide("good", "accept")
    assert [(row["case_id"], row["action"]) for row in rows(desk)] == [
        ("bad", "reject"),
        ("good", "accept"),
    ]
    assert [action.action for action in actions(desk)] == ["accept", "reject", "accept"]
    versions = browser.get("/api/cases/bad").json()["versions"]
    assert [version["action"] for version in versions] == ["reject", "accept"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"action": "replace"}, 400),
        ({"action": "accept", "sha256": ""}, 400),
        ({"action": "accept", "sha256": "0" * 64}, 409),
        ({"action": "accept", "reason": 7}, 400),
        ({"action": "accept", "reason": "x" * 501}, 400),
    ],
)
def test_decisions_that_cannot_be_saved_are_refused(
    browser: Browser, desk: Desk, body: dict[str, object], status: int
) -> None:
    assert browser.decide("bad", **{"action": "accept"} | body).status_code == status
    assert not desk.layout.decisions.exists()


def test_decision_without_a_name_is_refused(desk: Desk) -> None:
    answer = Browser(desk).decide("bad", "accept")
    assert answer.status_code == 400 and "name" in answer.json()["error"]


def test_decision_of_a_page_that_shows_another_reviewer_is_refused(
    browser: Browser, desk: Desk
) -> None:
    answer = browser.decide("bad", "accept", reviewer="CD")
    assert answer.status_code == 409 and "now AB" in answer.json()["error"]
    answer = browser.correct("bad", nifti(label()), reviewer="CD")
    assert answer.status_code == 409 and rows_or_none(desk) == []
    assert browser.post("/api/undo", {"reviewer": "CD"}).status_code == 409
    assert browser.decide("bad", "accept", reviewer="AB").status_code == 200


def test_decision_on_an_edited_pseudo_label_is_refused(browser: Browser, desk: Desk) -> None:
    desk.layout.pseudo_label(1, "bad").write_bytes(b"edited")
    answer = browser.decide("bad", "accept")
    assert answer.status_code == 409 and "edited" in answer.json()["error"]


def test_seconds_that_are_no_number_are_left_out(browser: Browser, desk: Desk) -> None:
    for seconds in ("x", -1, 1e9, None, True):
        assert browser.decide("bad", "accept", seconds=seconds).status_code == 200
    assert "seconds" not in rows(desk)[0] or rows(desk)[0]["seconds"] in ("", "1")


HEADER = "round,case_id,action,reviewer,date,reason\n"


def write_rows(desk: Desk, *lines: str) -> None:
    desk.layout.decisions.parent.mkdir(parents=True, exist_ok=True)
    desk.layout.decisions.write_text(HEADER + "".join(f"{line}\n" for line in lines))


def rows_or_none(desk: Desk) -> list[dict[str, str]]:
    return rows(desk) if desk.layout.decisions.is_file() else []


def test_decision_fills_a_row_that_was_prepared_without_an_action(
    browser: Browser, desk: Desk
) -> None:
    write_rows(desk, "1,bad,,,,", "1,good,,,,")
    assert browser.decide("bad", "accept").json()["case"]["status"] == "accepted"
    assert [(row["case_id"], row["action"]) for row in rows(desk)] == [
        ("good", ""),
        ("bad", "accept"),
    ]
    assert browser.undo().status_code == 200
    assert [row["action"] for row in rows(desk)] == ["", ""]


def test_row_with_an_unknown_action_is_no_verdict(browser: Browser, desk: Desk) -> None:
    write_rows(desk, "1,bad,ok,CD,,")
    browser.decide("bad", "accept")
    found = browser.get("/api/agreement").json()
    assert found["pairs"] == [] and found["kappa"] == []


def test_decision_replaces_a_row_whose_round_has_a_zero_before_it(
    browser: Browser, desk: Desk
) -> None:
    write_rows(desk, "01,bad,reject,CD,,motion")
    assert in_force(desk) == {"bad": "reject"}
    answer = browser.decide("bad", "accept").json()
    assert answer["messages"] == []
    assert in_force(desk) == {"bad": "accept"}


def test_undo_brings_back_cells_beyond_the_header(browser: Browser, desk: Desk) -> None:
    write_rows(desk, "1,bad,reject,CD,2026-11-01,leak, big")
    browser.decide("bad", "accept")
    assert "big" not in desk.layout.decisions.read_text()
    browser.undo()
    (row,) = rows(desk)
    assert (row["reason"], row[""]) == ("leak", "big")


def test_problems_elsewhere_in_the_folder_do_not_prevent_saving(
    browser: Browser, desk: Desk
) -> None:
    folder = desk.layout.override(1, "bad").parent
    folder.mkdir(parents=True)
    (folder / "nobody.nii.gz").write_bytes(b"x")
    messages = browser.decide("bad", "accept").json()["messages"]
    assert len(messages) == 1 and "nobody" in messages[0]


def test_table_that_cannot_be_read_is_never_written(browser: Browser, desk: Desk) -> None:
    desk.layout.overrides.mkdir()
    text = 'round,case_id,action,reviewer,date,reason\n1,bad,accept,AB,"2026\n'
    desk.layout.decisions.write_text(text)
    answer = browser.decide("good", "accept")
    assert answer.status_code == 400 and "decisions.csv" in answer.json()["error"]
    assert desk.layout.decisions.read_text() == text
    assert actions(desk) == []


def test_undo_takes_back_the_last_decision(browser: Browser, desk: Desk) -> None:
    browser.decide("bad", "accept")
    browser.correct("good", nifti(label()))
    answer = browser.undo().json()
    assert answer["undone"] == {"case_id": "good", "action": "replace", "round": 1}
    assert answer["case"]["status"] == "undecided"
    assert in_force(desk) == {"bad": "accept"}
    assert len(kept(desk)) == 1
    assert browser.undo().json()["case"]["case_id"] == "bad"
    assert browser.undo().json() == {"undone": None, "case": None}
    assert in_force(desk) == {}
    assert [action.action for action in actions(desk)] == ["accept", "replace", "undo", "undo"]


def test_undo_brings_the_earlier_version_back(browser: Browser, desk: Desk) -> None:
    browser.correct("bad", nifti(label(1)))
    first = rows(desk)
    browser.correct("bad", nifti(label(2)))
    browser.undo()
    assert rows(desk) == first
    np.testing.assert_array_equal(read_label(desk.layout.override(1, "bad")).data, label(1))
    versions = browser.get("/api/cases/bad").json()["versions"]
    assert [version["undone"] for version in versions] == [True, False]


def test_undo_brings_back_what_a_person_wrote(browser: Browser, desk: Desk) -> None:
    desk.layout.overrides.mkdir()
    text = "round,case_id,action,reviewer,date,reason,room\n1,bad,accept,ZZ,2026-01-01,fine,12\n"
    desk.layout.decisions.write_text(text)
    browser.decide("bad", "reject", reason="motion")
    assert "ZZ" not in desk.layout.decisions.read_text()
    browser.undo()
    assert rows(desk)[0]["room"] == "12" and rows(desk)[0]["reviewer"] == "ZZ"
    assert in_force(desk) == {"bad": "accept"}


def test_undo_concerns_the_reviewer(browser: Browser, desk: Desk) -> None:
    browser.decide("bad", "accept")
    other = Browser(desk, "CD")
    assert other.undo().json()["undone"] is None
    other.decide("good", "accept")
    assert browser.undo().json()["undone"]["case_id"] == "bad"
    assert in_force(desk) == {"good": "accept"}


def test_undo_is_refused_after_another_reviewer_has_decided(browser: Browser, desk: Desk) -> None:
    browser.decide("bad", "accept")
    Browser(desk, "CD").decide("bad", "reject", reason="motion")
    answer = browser.undo()
    assert answer.status_code == 409 and "changed since" in answer.json()["error"]
    assert in_force(desk) == {"bad": "reject"}
