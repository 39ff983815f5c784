"""``hstf predict``: names, geometry and label values of segmentations, and invalid input."""

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.tiny_model import tiny_experiment, write_scan

from hstf.cli import main
from hstf.commands.predict import predict
from hstf.commands.predict_input import find_scans
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.tables import PREDICT
from hstf.imaging.components import connected_components
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import read_image
from hstf.method.inference import Predictor
from hstf.runtime.errors import HstfError
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
    return export(StageContext.of(config, "export", config.rounds))


def evaluated_predictor(config: Config) -> Predictor:
    """Return the predictor of the evaluation of round 1."""
    return load_predictor(StageContext.of(config, "evaluate", 1))


def names(folder: Path) -> list[str]:
    """Return the files below a folder, without the table."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "predict.csv"]
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


def test_predict_reports_scans_that_exceed_the_memory_and_segments_the_others(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU allocator of PyTorch raises a plain RuntimeError. Any other one is a bug."""
    for name in ("a.nii.gz", "b.nii.gz"):
        write_scan(tmp_path / "in" / name)
    original = Predictor.predict
    failures = ["DefaultCPUAllocator: can't allocate memory: you tried ..."]

    def fail_once(self: Predictor, *arguments: object, **keys: object) -> object:
        if failures:
            raise RuntimeError(failures.pop())
        return original(self, *arguments, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr(Predictor, "predict", fail_once)
    assert run_predict(model, tmp_path / "in", tmp_path / "out") == 1
    assert names(tmp_path / "out") == ["b.nii.gz"]
    assert "a.nii.gz: out of memory" in capsys.readouterr().err
    failures.append("shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        run_predict(model, tmp_path / "in", tmp_path / "again")


def test_predict_refuses_skips_or_overwrites_existing_segmentations(
    model: Path,
    tmp_path: Path,
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
    assert run_predict(model, source, output, "--existing", "skip") == 0
    assert names(output) == ["a.nii.gz", "b.nii.gz"]
    assert existing.read_text() == "by hand"
    assert run_predict(model, source, output, "--existing", "overwrite") == 0
    assert nib.load(existing).shape == (21, 19, 13)


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
