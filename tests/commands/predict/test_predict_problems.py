"""``hstf predict``: scans and models with an error or a warning."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.predict_runs import messages, names, rows_of, run_predict, voxels
from support.tiny_model import write_scan

from hstf.commands.predict import predict
from hstf.method.exported_model import write_digests
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file


def test_predict_reports_damaged_scans_and_segments_the_others(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "in"
    for name in ("a.nii.gz", "b.nii.gz", "d.nii.gz"):
        write_scan(folder / name)
    truncated = folder / "b.nii.gz"
    content = truncated.read_bytes()
    truncated.write_bytes(content[: len(content) // 2])
    (folder / "c.nii.gz").write_bytes(b"not an image")
    constant = nib.Nifti1Image(np.zeros((6, 6, 6), np.float32), np.eye(4))
    nib.save(constant, folder / "empty.nii.gz")
    assert run_predict(model, folder, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert names(tmp_path / "out") == ["a.nii.gz", "d.nii.gz"]
    for name in ("b", "c", "empty"):
        assert f"{name}.nii.gz: error: found: " in message
    assert "were not segmented" in message


def exceed_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_predict_reports_scans_that_exceed_the_memory_and_segments_the_others(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU allocator of PyTorch raises a plain RuntimeError. Any other one is a bug."""
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name)
    original = Predictor.predict_prepared
    failures = ["DefaultCPUAllocator: can't allocate memory: you tried ..."]

    def fail_once(self: Predictor, *arguments: object, **keys: object) -> object:
        if failures:
            raise RuntimeError(failures.pop())
        return original(self, *arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict_prepared", fail_once)
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["b.nii.gz"]
    assert "a.nii.gz: out of memory" in capsys.readouterr().err
    monkeypatch.setattr("hstf.commands.predict.scan_file", exceed_memory)
    assert run_predict(model, tmp_path / "in", tmp_path / "examined") == 1
    assert capsys.readouterr().err.count("out of memory") == 4  # at once, and at the end
    monkeypatch.undo()
    monkeypatch.setattr(Predictor, "predict_prepared", fail_once)
    failures.append("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        run_predict(model, tmp_path / "in", tmp_path / "again")


def edit_header(path: Path, **fields: object) -> None:
    """Change fields of the header of a scan."""
    image = nib.load(path)
    data = np.asarray(image.dataobj).copy()  # the file is replaced
    for name, value in fields.items():
        image.header[name] = value
    changed = nib.Nifti1Image(data, None, image.header)
    changed.header["qform_code"] = fields.get("qform_code", 0)
    changed.header["sform_code"] = fields.get("sform_code", 1)
    nib.save(changed, path)


def test_predict_warns_of_doubtful_scans_and_segments_them(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    for name in ("fine", "no_codes", "metres", "two", "shifted"):
        write_scan(folder / f"{name}.nii.gz")
    edit_header(folder / "no_codes.nii.gz", sform_code=0)
    edit_header(folder / "metres.nii.gz", xyzt_units=1)
    image = nib.load(folder / "two.nii.gz")
    image.set_sform(image.affine + np.eye(4, k=3) * 9, 2)
    image.set_qform(image.get_qform(), 1)
    nib.save(image, folder / "two.nii.gz")
    image = nib.load(folder / "shifted.nii.gz")
    nib.save(
        nib.Nifti1Image(voxels(folder / "shifted.nii.gz") - 2000, image.affine),
        image.get_filename(),
    )
    assert run_predict(model, folder, tmp_path / "out") == 0
    assert len(names(tmp_path / "out")) == 5
    assert messages(tmp_path / "out", "ok") == {"fine.nii.gz": "valid"}
    (row,) = [row for row in rows_of(tmp_path / "out") if row["scan"] == "fine.nii.gz"]
    assert row["segmentation"] == "fine.nii.gz"
    assert row["sha256"] == sha256_file(folder / "fine.nii.gz")
    found = messages(tmp_path / "out", "warning")
    assert "neither sform nor qform" in found.pop("no_codes.nii.gz")
    assert found.pop("metres.nii.gz") == "lengths in meter"
    assert "two geometries" in found.pop("two.nii.gz")
    assert "unlike those of the training scans: negative" in found.pop("shifted.nii.gz")
    assert not found
    printed = capsys.readouterr().err
    assert "no_codes.nii.gz: warning: found: neither sform" in printed
    assert "5 of 5 scans segmented, " in printed


def test_predict_refuses_scans_without_a_correct_result(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in ("constant", "nan", "metres", "no_size"):
        write_scan(folder / f"{name}.nii")
    image = nib.load(folder / "nan.nii")
    data = voxels(folder / "nan.nii").copy()
    for name, value in (("constant", 7.0), ("nan", np.nan)):
        data[:] = value
        nib.save(nib.Nifti1Image(data, image.affine), folder / f"{name}.nii")
    small = np.diag([0.001, 0.001, 0.001, 1]) @ image.affine
    metres = nib.Nifti1Image(voxels(folder / "metres.nii").copy(), small)
    metres.header.set_xyzt_units("meter")
    nib.save(metres, folder / "metres.nii")
    edit_header(folder / "no_size.nii", qform_code=1, sform_code=0)
    content = bytearray((folder / "no_size.nii").read_bytes())
    content[80:92] = bytes(12)  # voxel sizes
    (folder / "no_size.nii").write_bytes(content)
    write_scan(folder / "fine.nii")
    with pytest.raises(HstfError, match="4 of 5 scans were not segmented") as caught:
        predict(model, folder, tmp_path / "out", "cpu")
    assert names(tmp_path / "out") == ["fine.nii"]
    found = messages(tmp_path / "out", "error")
    assert found["constant.nii"].startswith("a constant image: every voxel is 7")
    assert "NaN, infinite or above 3.4e38" in found["nan.nii"]
    assert found["metres.nii"].startswith("lengths in meter, and voxels of 0.0012")
    assert found["no_size.nii"] == "voxel sizes 0 x 0 x 0 in the header (pixdim)"
    assert "no_size.nii: error: found: voxel sizes" in str(caught.value)


def test_predict_reports_that_an_old_model_has_no_intensities(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((model / "model.json").read_text())
    del content["intensities"]
    (model / "model.json").write_text(json.dumps(content | {"format": 3}))
    write_digests(model)
    assert run_predict(model, write_scan(tmp_path / "a.nii.gz"), tmp_path / "out") == 0
    assert "the model has no intensities of its training scans" in capsys.readouterr().err
    assert [row["level"] for row in rows_of(tmp_path / "out")] == ["warning", "warning", "ok"]


@pytest.mark.parametrize("place", ["in", "model"])
def test_predict_reports_folders_that_cannot_be_read(
    model: Path,
    tmp_path: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_scan(tmp_path / "in" / "a.nii.gz")
    closed = tmp_path / "in" if place == "in" else model
    original = Path.is_file

    def scandir(path: Path) -> object:
        raise PermissionError(13, "Permission denied", str(path))

    def is_file(path: Path) -> bool:
        return scandir(path) if path.parent == closed else original(path)  # type: ignore[return-value]

    if place == "in":
        monkeypatch.setattr("os.scandir", scandir)
    else:
        monkeypatch.setattr(Path, "is_file", is_file)
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 1
    assert "cannot be read (Permission denied)" in capsys.readouterr().err
