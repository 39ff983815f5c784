"""``hstf predict``: files in the output folder, which are kept, replaced or removed."""

import os
import time
from pathlib import Path

import nibabel as nib
import pytest
from support.predict_runs import messages, names, rows_of, run_predict
from support.tiny_model import write_scan

from hstf.commands.predict import predict
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError


def test_predict_refuses_keeps_or_overwrites_existing_files(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "in"
    output = tmp_path / "out"
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(source / name)
    output.mkdir()
    existing = output / "a.nii.gz"
    existing.write_text("by hand")
    assert run_predict(model, source, output) == 1
    assert names(output) == ["a.nii.gz"]
    capsys.readouterr()
    assert run_predict(model, source, output, "--existing", "skip") == 1
    assert names(output) == ["a.nii.gz", "b.nii.gz"]
    assert existing.read_text() == "by hand"
    printed = capsys.readouterr().err
    assert "a.nii.gz: is kept, and its scan is not segmented: it has no row" in printed
    assert "1 of 2 scans were not segmented. All others were." in printed
    assert messages(output, "ok").keys() == {"b.nii.gz"}
    assert run_predict(model, source, output, "--existing", "overwrite") == 0
    assert nib.load(existing).shape == (21, 19, 13)


def test_predict_states_that_no_scan_was_segmented(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.nii.gz").write_bytes(b"damaged")
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 1
    printed = capsys.readouterr().err
    assert "No scan was segmented." in printed
    assert "All others" not in printed


def test_predict_removes_its_earlier_segmentation_of_a_scan_with_an_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    output = tmp_path / "out"
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        write_scan(folder / name)
    predict(model, folder, output, "cpu")
    for name in ("a.nii.gz", "b.nii.gz", "d.nii.gz"):
        (folder / name).write_bytes(b"damaged")
    (output / "b.nii.gz").write_text("corrected")
    (output / "d.nii.gz").write_text("by hand")
    assert run_predict(model, folder, output, "--existing", "overwrite") == 1
    assert names(output) == ["b.nii.gz", "c.nii.gz", "d.nii.gz"]
    assert (output / "b.nii.gz").read_text() == "corrected"
    assert (output / "d.nii.gz").read_text() == "by hand"
    printed = capsys.readouterr().err
    assert f"{output / 'a.nii.gz'}: was removed" in printed
    assert f"{output / 'b.nii.gz'}: is kept, although its scan has an error" in printed
    assert f"{output / 'd.nii.gz'}: is kept, although its scan has an error" in printed
    segmentations = {row["scan"]: row["segmentation"] for row in rows_of(output)}
    assert segmentations == {
        "a.nii.gz": "",
        "b.nii.gz": "",
        "c.nii.gz": "c.nii.gz",
        "d.nii.gz": "",
    }


def test_predict_never_overwrites_scans(model: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    before = scan.read_bytes()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "a.nii.gz").symlink_to(scan)
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    pairs = [
        ("in", "in"),
        ("in/a.nii.gz", "in"),
        ("in", "alias"),
        ("linked", "in"),
    ]
    for source, output in pairs:
        with pytest.raises(HstfError, match="contains the scans"):
            predict(model, tmp_path / source, tmp_path / output, "cpu", "overwrite")
    assert scan.read_bytes() == before


def test_predict_refuses_an_output_that_is_a_file(model: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").write_text("")
    with pytest.raises(HstfError, match="is a file"):
        predict(model, scan, tmp_path / "out", "cpu")


def test_predict_removes_the_temporary_files_of_a_killed_run(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    scan = write_scan(tmp_path / "a.nii.gz")
    names_and_ages = {
        ".tmp-01234567-a.nii.gz": 3600,
        ".tmp-01234567-predict.csv": 3600,
        ".tmp-01234568-a.nii.gz": 0,
        ".tmp-01234567-other.nii.gz": 3600,
    }
    for name, age in names_and_ages.items():
        (output / name).touch()
        moment = time.time() - age
        os.utime(output / name, (moment, moment))
    predict(model, scan, output, "cpu")
    kept = [".tmp-01234567-other.nii.gz", ".tmp-01234568-a.nii.gz", "a.nii.gz"]
    assert names(output) == kept


def test_predict_keeps_the_rows_of_earlier_runs(model: Path, tmp_path: Path) -> None:
    first = write_scan(tmp_path / "first" / "a.nii.gz")
    second = write_scan(tmp_path / "second" / "b.nii.gz", 1)
    output = tmp_path / "out"
    predict(model, first, output, "cpu")
    predict(model, second, output, "cpu")
    assert [row["scan"] for row in rows_of(output)] == ["a.nii.gz", "b.nii.gz"]
    predict(model, first, output, "cpu", "overwrite")
    assert [row["scan"] for row in rows_of(output)] == ["b.nii.gz", "a.nii.gz"]
    predict(model, first.parent, output, "cpu", "skip")
    assert len(rows_of(output)) == 2


def refuse_to_compute(*_: object, **__: object) -> None:
    raise AssertionError("a network was loaded")


def test_predict_reports_unusable_folders_before_it_computes(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Predictor, "load", refuse_to_compute)
    folder = tmp_path / "in"
    write_scan(folder / "a.nii.gz")
    (tmp_path / "file").touch()
    assert run_predict(model, folder, tmp_path / "file" / "out") == 1
    assert "could not be written" in capsys.readouterr().err
    (tmp_path / "out" / "a.nii.gz").mkdir(parents=True)
    assert run_predict(model, folder, tmp_path / "out", "--existing", "overwrite") == 1
    assert "folders have the names of segmentations" in capsys.readouterr().err
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "predict.csv").write_text("my,notes\n1,2\n")
    assert run_predict(model, folder, tmp_path / "notes") == 1
    assert "is not a table of hstf predict" in capsys.readouterr().err
    assert (tmp_path / "notes" / "predict.csv").read_text().startswith("my,notes")


def test_predict_stops_if_a_segmentation_cannot_be_written(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk is full: the next segmentations could not be written, either."""
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name)
    tried = []

    def fail(path: Path, *_: object) -> None:
        tried.append(path.name)
        raise HstfError(f"{path}: could not be written (No space left on device).")

    monkeypatch.setattr("hstf.commands.predict.write_like", fail)
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 1
    assert tried == ["a.nii.gz"]
    assert "No space left" in capsys.readouterr().err
