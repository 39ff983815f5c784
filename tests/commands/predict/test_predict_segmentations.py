"""``hstf predict``: voxels and geometry of segmentations, and formats of scans."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from support.predict_runs import (
    LABEL_VALUES,
    evaluated_predictor,
    export_model,
    messages,
    names,
    run_predict,
    voxels,
)
from support.tiny_model import tiny_experiment, write_scan
from support.volume_files import lower_bound_of_scans

from hstf.commands.predict import predict
from hstf.config.experiment import Config
from hstf.imaging.components import connected_components
from hstf.imaging.geometry import Geometry
from hstf.imaging.volumes import read_image
from hstf.runtime.errors import HstfError

TUMOUR = 2


def count_tumours(label: np.ndarray) -> int:
    components = connected_components(label == TUMOUR, 26)
    return int(components.max())


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
