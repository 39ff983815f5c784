"""``hstf predict --existing skip``: which scans are segmented again, and which files are kept."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.predict_runs import LABEL_VALUES, export_model, names, rows_of, run_predict, voxels
from support.tiny_model import tiny_experiment, write_scan

from hstf.commands.predict import predict
from hstf.commands.predict_report import Report
from hstf.experiment.product_tables import PREDICT
from hstf.method.exported_model import write_digests
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file

OTHER_VALUES = [0, 1, 2]
"""Values of the classes in the model of :func:`other_model`."""


def other_model(model: Path) -> Path:
    """Copy a model, with other label values."""
    folder = model.with_name("other")
    shutil.copytree(model, folder)
    content = json.loads((model / "model.json").read_text())
    labels = dict(zip(content["labels"], OTHER_VALUES, strict=True))
    (folder / "model.json").write_text(json.dumps(content | {"labels": labels}))
    write_digests(folder)
    return folder


def skip(model: Path, source: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Continue a run with ``--existing skip``, and return what is printed."""
    capsys.readouterr()
    assert run_predict(model, source, output, "--existing", "skip") == 0
    return capsys.readouterr().err


def test_predict_skips_scans_that_this_model_segmented(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    output = tmp_path / "out"
    (written,) = predict(model, scan, output, "cpu")
    changed = written.stat().st_mtime_ns
    write_scan(tmp_path / "in" / "b.nii.gz", 1)
    printed = skip(model, scan.parent, output, capsys)
    assert "scans to segment: 1 (1 .nii.gz)" in printed
    assert "again" not in printed
    assert written.stat().st_mtime_ns == changed
    assert names(output) == ["a.nii.gz", "b.nii.gz"]
    digest = sha256_file(model / "model.json")
    assert [row["model"] for row in rows_of(output)] == [digest, digest]


def test_predict_with_skip_segments_scans_of_another_model_again(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    output = tmp_path / "out"
    predict(model, scan, output, "cpu")
    write_scan(tmp_path / "in" / "b.nii.gz", 1)
    other = other_model(model)
    printed = skip(other, scan.parent, output, capsys)
    assert "scans to segment again: 1, because another model segmented them (a.nii.gz)" in printed
    for name in names(output):
        assert set(np.unique(voxels(output / name))) <= set(OTHER_VALUES)
    digest = sha256_file(other / "model.json")
    assert [row["model"] for row in rows_of(output)] == [digest, digest]


def test_predict_with_skip_segments_changed_scans_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_model(tiny_experiment(tmp_path, ("t1", "t2"), students=1))
    folder = tmp_path / "in"
    for name in ("a_t1", "a_t2", "b_t1", "b_t2"):
        write_scan(folder / f"{name}.nii.gz")
    predict(model, folder, tmp_path / "out", "cpu")
    write_scan(folder / "b_t2.nii.gz", 1, (20, 18, 12))
    write_scan(folder / "b_t1.nii.gz", 2, (20, 18, 12))
    printed = skip(model, folder, tmp_path / "out", capsys)
    assert "scans to segment again: 1, because the scans have changed (b.nii.gz)" in printed
    assert voxels(tmp_path / "out" / "b.nii.gz").shape == (20, 18, 12)
    write_scan(folder / "b_t2.nii.gz", 3, (20, 18, 12))
    printed = skip(model, folder, tmp_path / "out", capsys)
    assert "the scans have changed (b.nii.gz)" in printed


def test_predict_with_skip_reads_tables_without_the_model(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier version of hstf wrote them."""
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    output = tmp_path / "out"
    predict(model, scan, output, "cpu")
    rows = rows_of(output)
    for row in rows:
        del row["model"], row["images_sha256"], row["segmentation_sha256"]
    PREDICT.write(output / "predict.csv", rows)
    printed = skip(model, scan.parent, output, capsys)
    assert "an earlier version of hstf, which stored no model, segmented them" in printed
    assert rows_of(output)[0]["model"] == sha256_file(model / "model.json")


def test_predict_with_skip_never_replaces_a_corrected_segmentation(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    output = tmp_path / "out"
    (written,) = predict(model, scan, output, "cpu")
    written.write_text("corrected")
    printed = skip(model, scan, output, capsys)
    assert "a.nii.gz: is kept: it was changed after hstf predict had written it" in printed
    other = other_model(model)
    assert run_predict(other, scan, output, "--existing", "skip") == 1
    assert "its scan is not segmented: it was changed after" in capsys.readouterr().err
    assert written.read_text() == "corrected"


def test_predict_with_skip_keeps_the_segmentation_of_another_scan_of_the_same_name(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    for seed, name in enumerate(("first", "second")):
        write_scan(tmp_path / name / "scan.nii.gz", seed)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "scan.nii.gz").write_bytes(b"damaged")
    monkeypatch.chdir(tmp_path / "first")
    (written,) = predict(model, Path("scan.nii.gz"), output, "cpu")
    content = written.read_bytes()
    for name in ("second", "damaged"):
        monkeypatch.chdir(tmp_path / name)
        assert run_predict(model, Path("scan.nii.gz"), output, "--existing", "skip") == 1
        assert written.read_bytes() == content
        printed = capsys.readouterr().err
        other = tmp_path / "first" / "scan.nii.gz"
        assert f"it is the segmentation of {other}, another scan" in printed
    assert run_predict(model, Path("scan.nii.gz"), output, "--existing", "overwrite") == 1
    assert written.read_bytes() == content, "the scan with an error does not remove it"


def test_predict_with_skip_knows_a_scan_that_was_moved(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = write_scan(tmp_path / "in" / "scan.nii.gz")
    predict(model, scan, tmp_path / "out", "cpu")
    scan.parent.rename(tmp_path / "moved")
    write_scan(tmp_path / "moved" / "scan.nii.gz", 1)
    printed = skip(model, tmp_path / "moved", tmp_path / "out", capsys)
    assert "because the scans have changed (scan.nii.gz)" in printed


def test_predict_with_skip_keeps_segmentations_of_scans_that_cannot_be_read(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    (written,) = predict(model, scan, tmp_path / "out", "cpu")

    def fail(path: Path) -> str:
        raise HstfError(f"{path}: cannot be read (Input/output error).")

    monkeypatch.setattr("hstf.commands.predict_report.sha256_file", fail)
    assert run_predict(model, scan, tmp_path / "out", "--existing", "skip") == 1
    assert "a.nii.gz: cannot be read (Input/output error)" in capsys.readouterr().err
    assert written.exists()


@pytest.mark.parametrize("existing", ["skip", "overwrite"])
def test_predict_with_skip_segments_again_after_an_interrupted_run(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    existing: str,
) -> None:
    """A run that is killed may have written a segmentation, but not its row."""
    folder = tmp_path / "in"
    output = tmp_path / "out"
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(folder / name)
    if existing == "overwrite":
        predict(model, folder / "a.nii.gz", output, "cpu")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Report, "segmented", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict(other_model(model), folder, output, "cpu", existing)  # type: ignore[arg-type]
    assert names(output) == ["a.nii.gz"]
    rows = {row["scan"]: row["level"] for row in rows_of(output)}
    assert rows == {"a.nii.gz": "pending", "b.nii.gz": "pending"}
    printed = skip(model, folder, output, capsys)
    assert "the run that segmented them was interrupted (a.nii.gz)" in printed
    for name in ("a.nii.gz", "b.nii.gz"):
        assert set(np.unique(voxels(output / name))) <= set(LABEL_VALUES)
    assert [row["level"] for row in rows_of(output)] == ["ok", "ok"]
