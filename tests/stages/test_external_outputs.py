"""What an external teacher has written is read as a label map, or is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.external_files import (
    AFFINE,
    LABELLED,
    SIDE,
    UNLABELLED,
    external,
    make_external,
    organ,
    rows,
    run_all,
    weigh,
)
from support.stages import refine
from support.volume_files import write_large_mask

from hstf.experiment.case_files import CASE_FILES, existing
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError
from hstf.stages.external.outputs import read_labels

pytestmark = pytest.mark.usefixtures("workplace")

MOVED = np.array([[-1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1.5, 0], [0, 0, 0, 1]])
WRONG = {
    "shape": (np.zeros((SIDE, SIDE, 5), np.uint8), AFFINE, "has shape"),
    "affine": (np.zeros((SIDE,) * 3, np.uint8), MOVED, "corner voxels"),
    "fractions": (np.full((SIDE,) * 3, 0.5, np.float32), AFFINE, "set probabilities: true"),
}


def test_read_labels_accepts_an_organ_in_a_large_ct(tmp_path: Path) -> None:
    path = tmp_path / "organ.nii.gz"
    foreground = write_large_mask(path)
    labels = read_labels(path, path, tolerance_mm=0.01)
    assert labels.data.sum() == foreground


@pytest.mark.parametrize("name", WRONG)
def test_output_that_does_not_fit_is_refused(tmp_path: Path, name: str) -> None:
    values, affine, message = WRONG[name]
    nib.save(nib.Nifti1Image(np.zeros((SIDE,) * 3, np.uint8), AFFINE), "image.nii.gz")
    nib.save(nib.Nifti1Image(values, affine), "output.nii.gz")
    with pytest.raises(HstfError) as error:
        read_labels(Path("output.nii.gz"), Path("image.nii.gz"), 0.01)
    assert message in str(error.value)


def test_case_with_an_output_that_does_not_fit_is_missing(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    nib.save(nib.Nifti1Image(*WRONG["shape"][:2]), "good/case_4.nii.gz")
    run_all(config)
    assert "has shape" in rows(config, "unlabelled_0")["case_4"]["missing"]
    assert not list(Path("results").rglob("case_4.nii.gz"))
    assert not list(Path("results").rglob(".work/case_*")), "temporary files are removed"


def test_predictions_that_exist_are_used(tmp_path: Path) -> None:
    config = make_external(tmp_path, files="good/{case}.nii.gz")
    Path("good/case_4.nii.gz").unlink()
    assert run_all(config).teachers["other"].groups["organ"].weight > 0
    assert rows(config, "unlabelled_0")["case_4"]["missing"] == "good/case_4.nii.gz does not exist"


@pytest.mark.parametrize("suffix", ["npz", "nii.gz"])
def test_probabilities_of_nnunet_and_of_nifti_are_on_the_same_voxels(
    tmp_path: Path, suffix: str
) -> None:
    """A file .npz of nnU-Net has the axes in reverse order."""
    config = make_external(
        tmp_path, files=f"soft/{{case}}.{suffix}", probabilities=True, labels={"organ": 1}
    )
    Path("soft").mkdir()
    for case in [*LABELLED, *UNLABELLED]:
        organ_channel = np.where(organ(case), 0.9, 0.05).astype(np.float32)
        channels = np.stack([1 - organ_channel, organ_channel])
        if suffix == "npz":
            np.savez(f"soft/{case}.npz", probabilities=channels.transpose(0, 3, 2, 1))
        else:
            image = nib.Nifti1Image(np.moveaxis(channels, 0, 3), AFFINE)
            nib.save(image, f"soft/{case}.nii.gz")
    weights = run_all(config).teachers["other"]
    assert weights.groups["organ"].dice == 1.0
    assert weights.groups["organ"].weight > 0


def test_probabilities_with_too_few_channels_are_missing(tmp_path: Path) -> None:
    config = make_external(
        tmp_path, files="soft/{case}.npz", probabilities=True, labels={"organ": 5}
    )
    Path("soft").mkdir()
    for case in LABELLED:
        np.savez(f"soft/{case}.npz", probabilities=np.zeros((2, SIDE, SIDE, SIDE), np.float32))
    with pytest.raises(HstfError, match="has 2 channels, but 'labels' names the value 5"):
        external(config, "labelled_0")


def test_names_of_values_are_read_from_a_label_map(tmp_path: Path) -> None:
    config = make_external(tmp_path, labels={"organ": ["liver"]}, label_map="dataset.json")
    Path("dataset.json").write_text('{"labels": {"background": 0, "liver": 7}}')
    weights = run_all(config)
    assert weights.teachers["other"].groups["organ"].values == (7,)
    Path("dataset.json").write_text('{"7": "spleen"}')
    with pytest.raises(HstfError, match="has no name 'liver'"):
        weigh(config)


def test_changed_prediction_is_refused(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    path = Layout.of(config).external_table("other", "unlabelled_0").parent / "case_3.nii.gz"
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(HstfError, match="not as they were written"):
        refine(config, 1, "unlabelled_0")


def test_withdrawn_case_leaves_no_prediction(tmp_path: Path) -> None:
    config = make_external(tmp_path)
    run_all(config)
    found = existing(Layout.of(config).root, CASE_FILES, "case_3")
    names = {str(path.relative_to(Layout.of(config).root)) for path in found}
    assert {"external/other/case_3.nii.gz", "external/other/.records/case_3.json"} <= names
