"""Decisions of the audit desk: what is checked, and what is written to disk."""

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.audit_desk import Browser, actions, label, nifti, rows, saving
from support.pseudo_label_files import AFFINE, SHAPE
from support.stages import overrides_in_force

from hstf.audit import saving as saving_module
from hstf.audit.desk import THIRD, Desk
from hstf.audit.history import Action, State
from hstf.experiment.case_files import find_traces
from hstf.imaging.volumes import read_label
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file

CASES = ("good", "bad")


@pytest.fixture
def browser(desk: Desk) -> Browser:
    return Browser(desk, "AB")


def kept(desk: Desk) -> list[Path]:
    return sorted((desk.layout.overrides / ".history").rglob("*.nii.gz"))


def in_force(desk: Desk) -> dict[str, str]:
    """Return the action in force of each case, as the workflow reads it."""
    found = overrides_in_force(desk.config, 1, CASES)
    return {name: override.action for name, override in found.items()}


# --- accept and reject


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


# --- rows that a person wrote

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


# --- corrected labels


def test_correction_is_written_with_the_geometry_of_the_image(browser: Browser, desk: Desk) -> None:
    answer = browser.correct("bad", nifti(label()), reason="leak").json()
    assert answer["case"]["status"] == "corrected"
    path = desk.layout.override(1, "bad")
    np.testing.assert_array_equal(read_label(path).data, label())
    source = nib.load("bad.nii.gz").header
    written = nib.load(path).header
    for name in ("qform_code", "sform_code", "srow_x", "quatern_b", "pixdim"):
        np.testing.assert_array_equal(source[name], written[name])
    (row,) = rows(desk)
    assert (row["action"], row["reviewer"], row["reason"]) == ("replace", "AB", "leak")
    assert row["result_sha256"] == sha256_file(path)
    assert row["seconds"] == "12.5"
    assert in_force(desk) == {"bad": "replace"}
    (version,) = kept(desk)
    assert sha256_file(version) == row["result_sha256"]
    assert re.fullmatch(r"\d{8}T\d{6}_AB_[0-9a-f]{8}\.nii\.gz", version.name)
    assert not os.access(version, os.W_OK) or os.getuid() == 0


def test_correction_records_what_changed(browser: Browser, desk: Desk) -> None:
    pseudo = read_label(desk.layout.pseudo_label(1, "bad")).data
    corrected = pseudo.copy()
    foreground = np.argwhere(pseudo == 3)
    first = tuple(foreground[0])
    corrected[first] = 0
    corrected[0, 0, 0] = 9
    browser.correct("bad", nifti(corrected))
    (row,) = rows(desk)
    assert row["voxels_changed"] == "background=1;ignore=1"
    count = len(foreground)
    # The ignored voxel is background in the pseudo-label: it is left out.
    expected = 2 * (count - 1) / (2 * count - 1)
    assert float(row["dice_after"]) == pytest.approx(expected, abs=1e-4)
    assert float(row["dice_before"]) == pytest.approx(browser.row("bad")["predicted_dice"])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_correction_may_be_compressed(
    browser: Browser, desk: Desk, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"sent{suffix}"
    nib.save(nib.Nifti1Image(label(), AFFINE), path)
    assert browser.correct("bad", path.read_bytes()).status_code == 200
    assert in_force(desk) == {"bad": "replace"}


def test_corrections_that_do_not_fit_are_refused_with_all_problems(
    browser: Browser, desk: Desk
) -> None:
    unknown = label()
    unknown[5, 5, 5] = 7
    moved = AFFINE.copy()
    moved[0, 3] += 40
    answer = browser.correct("bad", nifti(unknown, moved))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "affine" in error and "has the values 7" in error
    assert str(desk.cache) not in error
    for content in (b"", b"x" * 400, nifti(label())[:600], nifti(np.zeros((3, 3, 3), np.uint8))):
        assert browser.correct("bad", content).status_code == 400
    assert not desk.layout.overrides.exists() or not kept(desk)
    assert not desk.layout.decisions.exists()
    assert not list((desk.cache / ".incoming").iterdir())


def test_correction_that_is_likely_a_mistake_must_be_confirmed(
    browser: Browser, desk: Desk
) -> None:
    empty = nifti(np.zeros(SHAPE, np.uint8))
    answer = browser.correct("bad", empty)
    assert answer.status_code == 409
    assert "background" in answer.json()["confirm"]
    assert not desk.layout.override(1, "bad").exists()
    assert browser.correct("bad", empty, confirmed="1").status_code == 200
    assert in_force(desk) == {"bad": "replace"}


def test_correction_after_an_acceptance_takes_its_place(browser: Browser, desk: Desk) -> None:
    browser.decide("bad", "accept")
    browser.correct("bad", nifti(label()))
    assert in_force(desk) == {"bad": "replace"}
    answer = browser.decide("bad", "accept").json()
    assert in_force(desk) == {"bad": "accept"}
    assert not desk.layout.override(1, "bad").exists()
    assert "earlier corrected label is kept" in answer["messages"][0]
    assert len(kept(desk)) == 1


def test_correction_of_another_program_is_kept_before_it_is_replaced(
    browser: Browser, desk: Desk
) -> None:
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(label(3), AFFINE), path)
    digest = sha256_file(path)
    browser.correct("bad", nifti(label()))
    names = {sha256_file(version): version.name for version in kept(desk)}
    assert len(names) == 2 and "_other-program_" in names[digest]


def test_each_saved_version_is_kept(browser: Browser, desk: Desk) -> None:
    for shift in (0, 1, 2, 1):
        assert browser.correct("bad", nifti(label(shift))).status_code == 200
    assert len(kept(desk)) == 3
    assert len(rows(desk)) == 1 and len(actions(desk)) == 4


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


# --- a corrected label that was saved meanwhile


def save_elsewhere(desk: Desk, shift: int) -> Path:
    """Save a corrected label of ``bad`` as another program does, without a row."""
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(label(shift), AFFINE), path)
    return path


@pytest.mark.parametrize("action", ["accept", "reject"])
def test_page_without_a_correction_does_not_remove_that_of_another_reviewer(
    browser: Browser, desk: Desk, action: str
) -> None:
    old = browser.seen("bad")
    Browser(desk, "CD").correct("bad", nifti(label()))
    answer = browser.decide("bad", action, reason="motion", **old)
    assert answer.status_code == 409 and "Open the case again" in answer.json()["error"]
    np.testing.assert_array_equal(read_label(desk.layout.override(1, "bad")).data, label())
    assert [row["reviewer"] for row in rows(desk)] == ["CD"]
    assert browser.decide("bad", action, reason="motion").status_code == 200
    assert in_force(desk) == {"bad": action}


def test_old_correction_is_not_saved_over_that_of_another_program(
    browser: Browser, desk: Desk
) -> None:
    path = save_elsewhere(desk, 1)
    old = browser.seen("bad")
    shown = path.read_bytes()
    save_elsewhere(desk, 2)
    answer = browser.correct("bad", shown, **old)
    assert answer.status_code == 409 and "another program" in answer.json()["error"]
    np.testing.assert_array_equal(read_label(path).data, label(2))
    assert not desk.layout.decisions.exists() and actions(desk) == []
    assert not list((desk.cache / ".incoming").iterdir())
    assert browser.correct("bad", path.read_bytes()).status_code == 200


def test_removed_correction_is_noticed(browser: Browser, desk: Desk) -> None:
    save_elsewhere(desk, 1)
    old = browser.seen("bad")
    desk.layout.override(1, "bad").unlink()
    assert browser.decide("bad", "accept", **old).status_code == 409


def test_touched_correction_is_the_same(browser: Browser, desk: Desk) -> None:
    path = save_elsewhere(desk, 1)
    old = browser.seen("bad")
    path.touch()
    assert browser.decide("bad", "accept", **old).status_code == 200


def test_request_without_a_version_never_removes_a_correction(browser: Browser, desk: Desk) -> None:
    version = browser.seen("bad")["sha256"]
    body = {"round": 1, "action": "accept", "sha256": version}
    assert browser.post("/api/cases/bad/decision", body).status_code == 200
    browser.undo()
    path = save_elsewhere(desk, 1)
    answer = browser.post("/api/cases/bad/decision", body)
    assert answer.status_code == 400 and "correction_sha256" in answer.json()["error"]
    assert path.is_file() and in_force(desk) == {"bad": "replace"}


def test_request_whose_answer_was_lost_may_be_sent_again(browser: Browser, desk: Desk) -> None:
    old = browser.seen("bad")
    for _ in range(2):
        assert browser.correct("bad", nifti(label()), **old).status_code == 200
    old = browser.seen("bad")
    for _ in range(2):
        assert browser.decide("bad", "accept", **old).status_code == 200
    assert in_force(desk) == {"bad": "accept"}
    assert browser.decide("bad", "reject", reason="motion", **old).status_code == 409


# --- undo


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


# --- several reviewers


def test_last_word_is_in_force_and_agreeing_rows_stay(browser: Browser, desk: Desk) -> None:
    second = Browser(desk, "CD")
    browser.decide("bad", "accept")
    second.decide("bad", "accept")
    assert [row["reviewer"] for row in rows(desk)] == ["AB", "CD"]
    second.decide("bad", "reject", reason="motion")
    assert [(row["reviewer"], row["action"]) for row in rows(desk)] == [("CD", "reject")]
    assert browser.row("bad")["reviewers"] == ["AB", "CD"]


def test_third_reviewer_settles_a_dispute(desk: Desk) -> None:
    desk.consensus = THIRD
    first, second, third = (Browser(desk, name) for name in ("AB", "CD", "EF"))
    first.correct("bad", nifti(label()))
    answer = second.decide("bad", "reject", reason="motion").json()
    assert answer["case"]["status"] == "question"
    assert "third" in answer["messages"][0]
    assert in_force(desk) == {"bad": "replace"}
    third.correct("bad", nifti(label(2)))
    assert third.row("bad")["status"] == "corrected"
    np.testing.assert_array_equal(read_label(desk.layout.override(1, "bad")).data, label(2))
    first.decide("bad", "accept")
    np.testing.assert_array_equal(read_label(desk.layout.override(1, "bad")).data, label(2))
    assert len(kept(desk)) == 2


def test_third_reviewer_is_needed_against_a_row_that_was_written_by_hand(desk: Desk) -> None:
    desk.consensus = THIRD
    desk.layout.decisions.parent.mkdir(parents=True)
    desk.layout.decisions.write_text(
        "round,case_id,action,reviewer,date,reason\n1,bad,reject,GH,2026-11-01,motion\n"
    )
    second, third = (Browser(desk, name) for name in ("CD", "EF"))
    answer = second.decide("bad", "accept").json()
    assert "third" in answer["messages"][0]
    assert answer["case"]["status"] == "question"
    assert in_force(desk) == {"bad": "reject"}
    third.decide("bad", "accept")
    assert in_force(desk) == {"bad": "accept"}
    third.decide("bad", "reject", reason="noise")
    assert in_force(desk) == {"bad": "reject"}
    assert third.row("bad")["reviewers"] == ["GH", "CD", "EF"]


def test_third_reviewer_is_needed_against_a_label_of_another_program(desk: Desk) -> None:
    desk.consensus = THIRD
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(nifti(label())))
    second = Browser(desk, "CD")
    answer = second.decide("bad", "reject", reason="motion").json()
    assert answer["case"]["status"] == "question"
    np.testing.assert_array_equal(read_label(path).data, label())


def test_label_like_that_of_another_program_is_no_dispute(desk: Desk) -> None:
    desk.consensus = THIRD
    path = desk.layout.override(1, "bad")
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(nifti(label())))
    similar = label()
    similar[8, 6, 4] = 0
    second = Browser(desk, "CD")
    answer = second.correct("bad", nifti(similar)).json()
    assert answer["case"]["status"] == "corrected"
    np.testing.assert_array_equal(read_label(path).data, similar)


def test_similar_labels_are_no_dispute(desk: Desk) -> None:
    desk.consensus = THIRD
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.correct("bad", nifti(label()))
    similar = label()
    similar[8, 6, 4] = 0
    assert second.correct("bad", nifti(similar)).json()["case"]["status"] == "corrected"
    assert rows(desk)[0]["reviewer"] == "CD"
    second.correct("bad", nifti(label(8)))
    assert second.row("bad")["status"] == "question"


def test_undo_of_a_decision_that_is_not_in_force(desk: Desk) -> None:
    desk.consensus = THIRD
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.decide("bad", "accept")
    second.decide("bad", "reject", reason="motion")
    assert second.undo().json()["case"]["status"] == "accepted"
    assert in_force(desk) == {"bad": "accept"}


def test_acceptance_of_an_earlier_version_is_no_dispute(desk: Desk) -> None:
    desk.consensus = THIRD
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.decide("bad", "accept")
    second.decide("bad", "accept")
    compute_again(desk, "bad")
    assert first.row("bad")["status"] == "open"
    answer = first.decide("bad", "accept").json()
    assert answer["case"]["status"] == "accepted" and answer["messages"] == []
    assert first.get("/api/agreement").json()["pairs"] == []
    answer = second.decide("bad", "reject", reason="motion").json()
    assert answer["case"]["status"] == "question"
    assert first.get("/api/agreement").json()["kappa"][0]["cases"] == 1


def test_kappa_leaves_out_acceptances_of_an_earlier_version(desk: Desk) -> None:
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.decide("bad", "accept")
    compute_again(desk, "bad")
    second.decide("bad", "reject", reason="motion")
    assert first.get("/api/agreement").json() == {"pairs": [], "kappa": [], "consensus": []}


def compute_again(desk: Desk, case_id: str) -> None:
    """Write another version of a pseudo-label."""
    path = desk.layout.pseudo_label(1, case_id)
    before = sha256_file(path)
    volume = nib.load(path)
    data = np.asarray(volume.dataobj).copy()
    data[1, 1, 1] = 3 - data[1, 1, 1]
    nib.save(nib.Nifti1Image(data, volume.affine, volume.header), path)
    table = desk.layout.refine(1)
    table.write_text(table.read_text().replace(before, sha256_file(path)))
    os.utime(table, (1e9, 1e9))


def test_agreement_has_dice_and_kappa(desk: Desk) -> None:
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.correct("bad", nifti(label()))
    second.correct("bad", nifti(label(2)))
    first.decide("good", "accept")
    second.decide("good", "accept")
    found = first.get("/api/agreement", params={"round": 1}).json()
    bad, good = found["pairs"]
    # Both ignore the first plane; the blocks of 12 planes have 10 in common.
    assert bad["dice"]["organ"] == pytest.approx(10 / 12, abs=1e-5)
    assert bad["readers"] == ["AB", "CD"] and not bad["same_label"]
    assert good["verdicts"] == ["accept", "accept"] and good["same_label"]
    assert found["kappa"] == [{"readers": ["AB", "CD"], "cases": 2, "kappa": 1.0}]
    assert {"case_id": "bad", "action": "replace", "by": "CD"} in found["consensus"]


def test_agreement_of_an_acceptance_with_a_correction(desk: Desk) -> None:
    first, second = (Browser(desk, name) for name in ("AB", "CD"))
    first.correct("bad", nifti(label()))
    second.decide("bad", "accept")
    (pair,) = first.get("/api/agreement").json()["pairs"]
    assert 0 < pair["dice"]["organ"] < 1 and not pair["same_label"]
    assert pair["verdicts"] == ["replace", "accept"]


# --- two desks, and a power failure


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
