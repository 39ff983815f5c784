"""Corrected labels of the audit desk: what is checked, written and kept."""

import os
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.audit_decisions import in_force, kept
from support.audit_desk import Browser, actions, label, nifti, rows
from support.pseudo_label_files import AFFINE, SHAPE

from hstf.audit.desk import Desk
from hstf.imaging.volumes import read_label
from hstf.runtime.files import sha256_file


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
