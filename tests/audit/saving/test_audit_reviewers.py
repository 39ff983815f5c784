"""Decisions of several reviewers: which is in force, disputes, and agreement."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
from support.audit_decisions import in_force, kept
from support.audit_desk import Browser, label, nifti, rows

from hstf.audit.desk import THIRD, Desk
from hstf.imaging.volumes import read_label
from hstf.runtime.files import sha256_file


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
