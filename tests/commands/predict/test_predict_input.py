"""``hstf predict``: which files are scans of a case, and the names of segmentations."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.predict_runs import export_model, messages, names, rows_of, run_predict, voxels
from support.tiny_model import tiny_experiment, write_scan

from hstf.commands.predict import predict
from hstf.commands.predict_input import find_scans
from hstf.runtime.errors import HstfError


def test_predict_names_segmentations_after_the_scans(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("a.nii.gz", "b.nii", "c.v2.nii.gz", ".hidden.nii.gz"):
        write_scan(folder / name)
    (folder / "notes.txt").write_text("not a scan")
    write_scan(folder / "sub" / "deeper.nii.gz")
    written = predict(model, folder, tmp_path / "out", "cpu")
    expected = ["a.nii.gz", "b.nii", "c.v2.nii.gz", "sub/deeper.nii.gz"]
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == expected
    assert names(tmp_path / "out") == expected


@pytest.mark.parametrize("modalities", [["image"], ["t1", "t2"]])
def test_find_scans_refuses_scans_with_the_same_segmentation(
    tmp_path: Path,
    modalities: list[str],
) -> None:
    for name in ("a.mha", "a.nii.gz", "b_t1.nii", "b_t1.nrrd", "c.nii"):
        (tmp_path / name).touch()
    for name in ("b_t2.nii", "c_t1.nii", "c_t2.nii"):
        (tmp_path / name).touch()
    with pytest.raises(HstfError) as caught:
        find_scans(tmp_path, modalities, tmp_path / "out")
    expected = r"(?s)the same one.*a.mha and a.nii.gz.*b_t1.nii and b_t1.nrrd"
    assert re.search(expected, str(caught.value))


def test_find_scans_takes_the_file_that_was_given(tmp_path: Path) -> None:
    files = ("c_t1.nii", "c_t1.nii.gz", "c_t2.nii.gz", "d_t1.nii", "d_t1.nrrd")
    for name in files:
        (tmp_path / name).touch()
    for name in files[:2]:
        (scan,) = find_scans(tmp_path / name, ["t1", "t2"], tmp_path / "out").scans
        assert scan.images == (tmp_path / name, tmp_path / "c_t2.nii.gz")
    (tmp_path / "c_t2.nii").touch()
    with pytest.raises(HstfError, match=r"(?s)the same one.*c_t2.nii and c_t2.nii.gz"):
        find_scans(tmp_path / "c_t1.nii", ["t1", "t2"], tmp_path / "out")


def test_predict_segments_the_case_of_any_of_its_files(tmp_path: Path) -> None:
    model = export_model(tiny_experiment(tmp_path, ("t1", "t2"), students=1))
    folder = tmp_path / "in"
    for seed, name in enumerate(("c_t1.nii", "c_t1.nii.gz", "c_t2.nii.gz")):
        write_scan(folder / name, seed)
    written = []
    for name in ("c_t2.nii.gz", "c_t1.nii"):
        (folder / "c_t1.nii.gz").unlink(missing_ok=True)
        output = tmp_path / name
        assert run_predict(model, folder / name, output) == 0
        assert messages(output, "ok").keys() == {"c_t1.nii"}
        written.append(voxels(output / "c.nii.gz"))
    np.testing.assert_array_equal(*written)


def test_find_scans_groups_modalities_by_case(tmp_path: Path) -> None:
    model = export_model(tiny_experiment(tmp_path, ("t1", "t1_ce")))
    folder = tmp_path / "in"
    files = ["p_1_t1.nii.gz", "p_1_t1_ce.nii.gz", "q_t1.nii", "q_t1_ce.nii.gz"]
    for seed, name in enumerate(files):
        write_scan(folder / name, seed)
    scans = find_scans(folder, ["t1", "t1_ce"], tmp_path / "out").scans
    assert [scan.images for scan in scans] == [
        (folder / "p_1_t1.nii.gz", folder / "p_1_t1_ce.nii.gz"),
        (folder / "q_t1.nii", folder / "q_t1_ce.nii.gz"),
    ]
    predict(model, folder, tmp_path / "out", "cpu")
    assert names(tmp_path / "out") == ["p_1.nii.gz", "q.nii.gz"]
    (scan,) = find_scans(folder / "q_t1.nii", ["t1", "t1_ce"], tmp_path / "out").scans
    assert scan.name == "q.nii.gz"


def test_find_scans_reports_all_missing_modalities_and_invalid_names(tmp_path: Path) -> None:
    for name in ("p_t1.nii.gz", "q_t2.nii.gz", "stray.nii.gz"):
        write_scan(tmp_path / name)
    with pytest.raises(HstfError) as caught:
        find_scans(tmp_path, ["t1", "t2"], tmp_path / "out")
    message = str(caught.value)
    assert "no case with a volume <case>_<modality> of each of t1, t2" in message
    assert "missing: p_t2.nii.gz" in message
    assert "missing: q_t1.nii.gz" in message
    assert "stray.nii.gz: expected <case>_<modality>" in message
    for modality in ("t1", "t2"):
        write_scan(tmp_path / "sub" / f"r_{modality}.nii.gz")
    found = find_scans(tmp_path, ["t1", "t2"], tmp_path / "out")
    assert [scan.name for scan in found.scans] == ["sub/r.nii.gz"]
    assert len(found.problems) == 2
    assert len(found.left_out) == 1


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere", "does not exist"),
        ("empty", "no volume"),
    ],
)
def test_predict_refuses_an_input_without_scans(
    model: Path,
    tmp_path: Path,
    source: str,
    expected: str,
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(HstfError, match=expected):
        predict(model, tmp_path / source, tmp_path / "out", "cpu")


def test_predict_names_what_it_leaves_out(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    elsewhere = tmp_path / "elsewhere"
    write_scan(folder / "a.nii.gz")
    write_scan(elsewhere / "b.nii.gz", 1)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "up").symlink_to(folder)
    (folder / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    for name in ("slice.dcm", "scan.mnc", "notes.pdf", ".hidden.nii.gz"):
        (folder / name).write_bytes(b"x")
    assert run_predict(model, folder, tmp_path / "out") == 1
    written = names(tmp_path / "out")
    assert written[0] == "a.nii.gz"
    assert written[1] in ("again/b.nii.gz", "linked/b.nii.gz")
    assert len(written) == 2
    printed = capsys.readouterr().err
    left_out = [row["file"] for row in rows_of(tmp_path / "out") if row["level"] == "left out"]
    for name in ("slice.dcm", "scan.mnc", "notes.pdf", "hidden", "up"):
        assert name in " ".join(left_out)
        assert name in printed
    (problem,) = [row for row in rows_of(tmp_path / "out") if row["level"] == "error"]
    assert problem["file"].endswith("gone.nii.gz")
    assert "is missing" in problem["found"]
    assert "Parts of the input cannot be read. All scans that were found are segmented." in printed


@pytest.mark.parametrize("modalities", [["image"], ["t1", "t2"]])
def test_find_scans_names_files_that_are_not_utf8(tmp_path: Path, modalities: list[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    try:
        (folder / os.fsdecode(b"\xe4.pdf")).touch()
    except OSError:
        pytest.skip("the disk refuses such names")
    for case in ("good", os.fsdecode(b"M\xfcller"), os.fsdecode(b"\xe4/b")):
        for modality in modalities:
            path = folder / (f"{case}.nii" if len(modalities) == 1 else f"{case}_{modality}.nii")
            path.parent.mkdir(exist_ok=True)
            path.touch()
    found = find_scans(folder, modalities, tmp_path / "out")
    (scan,) = found.scans
    assert "good" in scan.name
    invalid = [Path(note.what).name for note in found.problems]
    assert len(invalid) == 2 * len(modalities)
    assert r"M\xfcller" in "".join(invalid)
    assert all("is not valid UTF-8. Rename it" in note.why for note in found.problems)
    (note,) = found.left_out
    assert note.what == r"\xe4.pdf"


def test_predict_segments_the_others_if_a_name_is_not_utf8(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    scan = write_scan(folder / "a.nii.gz")
    try:
        shutil.copy(scan, folder / os.fsdecode(b"M\xfcller.nii.gz"))
    except OSError:
        pytest.skip("the disk refuses such names")
    assert run_predict(model, folder, tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["a.nii.gz"]
    rows = {row["level"]: row["file"] for row in rows_of(tmp_path / "out")}
    assert rows["error"].endswith(r"in/M\xfcller.nii.gz")
    assert rows["ok"].endswith("in/a.nii.gz")


def test_predict_does_not_segment_segmentations(model: Path, tmp_path: Path) -> None:
    write_scan(tmp_path / "in" / "a.nii.gz")
    output = tmp_path / "in" / "sub" / "out"
    for existing in ("refuse", "overwrite"):
        predict(model, tmp_path / "in", output, "cpu", existing)
    assert names(output) == ["a.nii.gz"]
    predict(model, tmp_path / "in", tmp_path / "other", "cpu")
    assert names(tmp_path / "other") == ["a.nii.gz"]
    left_out = {row["file"]: row["found"] for row in rows_of(tmp_path / "other")}
    assert left_out["sub/out (1 volumes)"] == "segmentations of hstf predict"
