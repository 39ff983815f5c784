"""``hstf predict``: names, geometry and label values of segmentations, and invalid input."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import calibration_of_dice, tiny_experiment, write_scan
from support.volume_files import lower_bound_of_scans

from hstf.cli import main
from hstf.commands.predict import predict
from hstf.commands.predict_input import find_scans
from hstf.commands.predict_report import LOCK, Report
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.product_tables import PREDICT
from hstf.imaging.components import connected_components
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import read_image
from hstf.method.exported_model import read_exported_model, write_digests
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file
from hstf.stages.evaluate.cases import load_predictor
from hstf.stages.export import export

LABEL_VALUES = np.array([0, 6, 200])
"""Values of the classes in the tiny experiment."""
TUMOUR = 2


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return an experiment with trained students."""
    return tiny_experiment(tmp_path)


@pytest.fixture
def model(config: Config) -> Path:
    """Return the folder of the exported model."""
    return export_model(config)


def export_model(config: Config) -> Path:
    return export(config)[0]


def evaluated_predictor(config: Config) -> Predictor:
    """Return the predictor of the evaluation of round 1."""
    return load_predictor(StageContext.of(config, "evaluate", 1))


def names(folder: Path) -> list[str]:
    """Return the files below a folder, without the table and its lock."""
    no_segmentations = ("predict.csv", LOCK)
    files = [path for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.name not in no_segmentations]
    return sorted(str(path.relative_to(folder)) for path in files)


def rows_of(output: Path) -> list[dict[str, str]]:
    return PREDICT.records(output / "predict.csv")


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def count_tumours(label: np.ndarray) -> int:
    components = connected_components(label == TUMOUR, 26)
    return int(components.max())


def run_predict(model: Path, source: Path, output: Path, *options: str) -> int:
    """Run ``hstf predict`` on the CPU and return the exit code."""
    command = ["predict", "--device", "cpu"]
    command += ["--model", str(model)]
    command += ["--input", str(source)]
    command += ["--output", str(output)]
    return main([*command, *options])


def test_predict_writes_what_the_evaluation_scores(
    config: Config,
    model: Path,
    tmp_path: Path,
) -> None:
    scan = write_scan(tmp_path / "scan.nii.gz")
    (written,) = predict(model, scan, tmp_path / "out", "cpu")
    evaluated = evaluated_predictor(config).predict([read_image(scan)])
    np.testing.assert_array_equal(voxels(written), LABEL_VALUES[evaluated.label])
    image = nib.load(written)
    assert image.get_data_dtype() == np.uint8
    np.testing.assert_allclose(image.affine, nib.load(scan).affine, atol=1e-5)
    assert len(np.unique(evaluated.label)) > 1
    assert list(evaluated.members) == ["seed_0", "seed_1"]
    assert np.any(evaluated.members["seed_0"] != evaluated.members["seed_1"])


def test_predictor_applies_the_anatomy_rules_of_the_labelled_cases(
    config: Config,
    tmp_path: Path,
) -> None:
    volumes = [read_image(write_scan(tmp_path / "scan.nii.gz"))]
    cleaned = evaluated_predictor(config).predict(volumes)
    settings = config.predict.model_copy(update={"clean": False})
    without_rules = config.model_copy(update={"predict": settings})
    plain = evaluated_predictor(without_rules).predict(volumes)
    assert count_tumours(cleaned.label) < count_tumours(plain.label)
    assert count_tumours(cleaned.members["seed_1"]) < count_tumours(plain.members["seed_1"])


def test_predictor_applies_the_anatomy_rules_without_resampling(config: Config) -> None:
    grid = Geometry.of((8, 8, 8), np.eye(4), (1.0, 1.0, 1.0))
    liver = torch.tensor([0.1, 0.5, 0.4]).reshape(3, 1, 1, 1)
    tumour = torch.tensor([0.1, 0.2, 0.7]).reshape(3, 1, 1, 1)
    probabilities = liver.repeat(1, 8, 8, 8)
    probabilities[:, 1:4, 1:4, 1:4] = tumour
    probabilities[:, 6:8, 6:8, 6:8] = tumour
    label = evaluated_predictor(config).label(probabilities, grid)
    # Labelled cases have one tumour: the smaller one is removed.
    expected = np.ones((8, 8, 8), np.uint8)
    expected[1:4, 1:4, 1:4] = TUMOUR
    np.testing.assert_array_equal(label, expected)


def test_predictor_with_one_member_returns_its_label(tmp_path: Path) -> None:
    config = tiny_experiment(tmp_path, students=1)
    scan = read_image(write_scan(tmp_path / "scan.nii"))
    result = evaluated_predictor(config).predict([scan])
    np.testing.assert_array_equal(result.members["seed_0"], result.label)


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


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_predict_segments_itk_formats_like_nifti(
    model: Path,
    tmp_path: Path,
    suffix: str,
) -> None:
    data = voxels(write_scan(tmp_path / "voxels.nii.gz"))
    scan = sitk.GetImageFromArray(data.T)
    scan.SetSpacing((1.2, 1.3, 2.0))
    scan.SetDirection((0, 0, -1, 1, 0, 0, 0, 1, 0))
    for name in ("nifti/scan.nii.gz", f"itk/scan.v2{suffix}"):
        path = tmp_path / name
        path.parent.mkdir()
        sitk.WriteImage(scan, path)
    (expected,) = predict(model, tmp_path / "nifti", tmp_path / "expected", "cpu")
    (written,) = predict(model, tmp_path / "itk", tmp_path / "out", "cpu")
    assert written.name == "scan.v2.nii.gz"
    np.testing.assert_allclose(nib.load(written).affine, nib.load(expected).affine, atol=1e-5)
    # Rounding of the header may change a voxel at the boundary.
    same = voxels(written) == voxels(expected)
    assert same.mean() > 0.999


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


def test_predict_reads_masks_that_compress_better_than_scans(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = export_model(config.model_copy(update={"modalities": {"image": "mask"}}))
    mask = np.zeros((21, 19, 13), np.float32)
    mask[5:12, 6:14, 3:9] = 1
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "mask.nii.gz")
    lower_bound_of_scans(monkeypatch)
    assert run_predict(model, tmp_path / "mask.nii.gz", tmp_path / "out") == 0
    assert names(tmp_path / "out") == ["mask.nii.gz"]


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


def test_predict_refuses_an_output_that_is_a_file(model: Path, tmp_path: Path) -> None:
    scan = write_scan(tmp_path / "in" / "a.nii.gz")
    (tmp_path / "out").write_text("")
    with pytest.raises(HstfError, match="is a file"):
        predict(model, scan, tmp_path / "out", "cpu")


# --- what is wrong or doubtful


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


def messages(output: Path, level: str) -> dict[str, str]:
    """Return what was found in the scans of a level, by scan."""
    return {row["scan"]: row["found"] for row in rows_of(output) if row["level"] == level}


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


def test_predict_reads_other_formats(model: Path, tmp_path: Path) -> None:
    scan = nib.load(write_scan(tmp_path / "scan.nii.gz"))
    data = np.asarray(scan.dataobj)
    folder = tmp_path / "in"
    folder.mkdir()
    nib.save(nib.MGHImage(data, scan.affine), folder / "a.mgz")
    nib.save(nib.Nifti1Pair(data, scan.affine), folder / "b.hdr")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "scan.nii.gz")), str(folder / "c.mhd"))
    predict(model, folder, tmp_path / "out", "cpu")
    assert names(tmp_path / "out") == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert not messages(tmp_path / "out", "left out")
    (expected,) = predict(model, tmp_path / "scan.nii.gz", tmp_path / "expected", "cpu")
    for name in names(tmp_path / "out"):
        same = voxels(tmp_path / "out" / name) == voxels(expected)
        assert same.mean() > 0.999
    (tmp_path / "link").symlink_to(folder)
    assert len(predict(model, tmp_path / "link", tmp_path / "other", "cpu")) == 3
    with pytest.raises(HstfError, match="contains no volume"):
        predict(model, folder / "b.img", tmp_path / "img", "cpu")


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


# --- reported before a scan is computed


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


# --- predicted Dice


def export_with_quality(config: Config, mean: float, bound: float) -> Path:
    """Export a model whose calibration predicts the Dice."""
    calibration_of_dice(mean, bound).save(Layout.of(config).calibration)
    return export_model(config)


def test_predict_writes_the_predicted_dice_of_each_scan(config: Config, tmp_path: Path) -> None:
    model = export_with_quality(config, mean=0.8, bound=0.0)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    rows = rows_of(tmp_path / "out")
    first = rows[0]
    assert 0 <= first["predicted_dice"] <= 1
    assert first["predicted_dice_low"] == pytest.approx(max(0, first["predicted_dice"] - 0.1))
    assert first["predicted_dice_interval"] == "guess"
    structures = [first[f"predicted_dice_of_{name}"] for name in ("liver", "tumour")]
    assert first["predicted_dice"] == pytest.approx(np.mean(structures))
    assert all(row["predicted_dice"] == first["predicted_dice"] for row in rows)


def test_predicted_dice_has_the_features_of_the_fit(config: Config, tmp_path: Path) -> None:
    """The features come from the TTA views of the teacher, not from those of the prediction."""
    model = read_exported_model(export_with_quality(config, mean=0.8, bound=0.0))
    assert model.quality is not None
    assert model.quality.views.scales == config.teacher.scales
    assert model.quality.passes == pytest.approx(0.512 + 1 + 1.953125)
    predictor = evaluated_predictor(config)
    volume = read_image(write_scan(tmp_path / "a.nii.gz"))
    image, _ = predictor.prepare([volume])
    summary = predictor.summarise(image, model.quality.classes, model.quality.views)
    assert list(summary.agreement.scales) == ["0.8", "1.0", "1.25"]
    assert summary.agreement.pairs is not None


def test_predict_warns_of_a_low_predicted_dice(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_with_quality(config, mean=0.3, bound=0.99)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    (warning,) = [row for row in rows_of(tmp_path / "out") if "predicted Dice" in row["found"]]
    assert warning["level"] == "warning"
    assert warning["expected"] == "at least 0.990, as all labelled cases"
    assert warning["segmentation"] == "a.nii.gz"
    assert (
        "Its interval is a guess: the errors of 2 labelled patients are known"
        in capsys.readouterr().err
    )


def test_predict_without_predicted_dice(config: Config, tmp_path: Path) -> None:
    model = export_with_quality(config, mean=0.3, bound=0.99)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    assert run_predict(model, scan, tmp_path / "plain", "--no-predicted-dice") == 0
    assert "predicted_dice" not in rows_of(tmp_path / "plain")[0]
    assert np.array_equal(voxels(tmp_path / "out/a.nii.gz"), voxels(tmp_path / "plain/a.nii.gz"))


def test_predict_reads_models_without_a_calibration_with_a_message(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = export_model(config)
    content = json.loads((model / "model.json").read_text())
    del content["quality"], content["provenance"]["choice"]
    (model / "model.json").write_text(json.dumps(content | {"format": 4}))
    write_digests(model)
    scan = write_scan(tmp_path / "scans" / "a.nii.gz")
    assert run_predict(model, scan, tmp_path / "out") == 0
    assert "the model has no calibration of predicted Dice" in capsys.readouterr().err
