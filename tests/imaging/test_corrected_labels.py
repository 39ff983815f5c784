"""What is questioned about a corrected label."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.config.experiment import Config
from hstf.experiment.cases import Case, Split
from hstf.imaging.corrected_labels import Findings, examine_corrected_label

VALUES = {"background": 0, "left": 1, "right": 2, "ignore": 9}
SHAPE = (20, 20, 12)


def pseudo_label() -> np.ndarray:
    """Return two organs on both sides, one of them higher than the other."""
    label = np.zeros(SHAPE, np.uint8)
    label[3:7, 4:14, 2:8] = 1
    label[13:17, 4:14, 4:10] = 2
    return label


def examine(folder: Path, corrected: np.ndarray, affine: np.ndarray | None = None) -> Findings:
    files = {"image": pseudo_label() + np.float32(1), "pseudo": pseudo_label()}
    for name, data in files.items():
        nib.save(nib.Nifti1Image(data, np.eye(4)), folder / f"{name}.nii.gz")
    path = folder / "corrected.nii.gz"
    nib.save(nib.Nifti1Image(corrected, np.eye(4) if affine is None else affine), path)
    image = str(folder / "image.nii.gz")
    case = Case("a", (image,), None, Split.UNLABELLED, "a", "")
    config = Config.model_validate({"labels": VALUES})
    return examine_corrected_label(config, case, path, folder / "pseudo.nii.gz")


def test_examine_accepts_a_usual_correction(tmp_path: Path) -> None:
    corrected = pseudo_label()
    corrected[3:7, 4:9] = 0
    corrected[0:2] = 9
    assert examine(tmp_path, corrected) == Findings()


def test_examine_accepts_a_few_voxels_of_a_sparse_label(tmp_path: Path) -> None:
    corrected = np.full(SHAPE, 9, np.uint8)
    corrected[4, 5:9, 3] = 1
    corrected[14, 5:9, 5] = 2
    assert examine(tmp_path, corrected) == Findings()


@pytest.mark.parametrize("value", [0, 9])
def test_examine_questions_a_label_without_structures(tmp_path: Path, value: int) -> None:
    found = examine(tmp_path, np.full(SHAPE, value, np.uint8))
    assert found.questions == ["all its voxels are background or ignored"]


def test_examine_remarks_that_classes_are_missing(tmp_path: Path) -> None:
    corrected = pseudo_label()
    corrected[corrected == 2] = 0
    found = examine(tmp_path, corrected)
    assert found == Findings(remarks=["contains only left, the pseudo-label also right"])


@pytest.mark.parametrize(
    ("axes", "flipped", "text"),
    [
        ((0, 1, 2), (0,), "flipped along 0,"),
        ((0, 1, 2), (0, 2), "flipped along 0, 2,"),
        ((1, 0, 2), (), "transposed to (1, 0, 2),"),
        ((1, 0, 2), (1,), "transposed to (1, 0, 2) and flipped along 0,"),
    ],
)
def test_examine_questions_voxels_in_another_order(
    tmp_path: Path, axes: tuple[int, ...], flipped: tuple[int, ...], text: str
) -> None:
    """The header is that of the image, but the voxels are not."""
    corrected = np.flip(pseudo_label().transpose(axes), flipped)
    (question,) = examine(tmp_path, corrected).questions
    assert question.startswith("its axes look transposed or flipped: ")
    assert text in question and "is 1.00 instead of 0." in question


def test_examine_names_transposed_axes(tmp_path: Path) -> None:
    (problem,) = examine(tmp_path, pseudo_label().transpose(2, 1, 0)).problems
    assert "has shape (12, 20, 20), the image (20, 20, 12)" in problem
    assert "The axes look transposed. Save the correction with the geometry" in problem


def test_examine_names_flipped_axes(tmp_path: Path) -> None:
    (problem,) = examine(tmp_path, pseudo_label(), np.diag([-1, 1, 1, 1])).problems
    assert "Its axes are LAS, expected RAS: they look transposed or flipped." in problem


@pytest.mark.parametrize("used", ["sform", "qform"])
def test_examine_accepts_either_geometry_of_the_image(tmp_path: Path, used: str) -> None:
    """ITK writes the qform of an image into its label, nibabel the sform."""
    corrected = pseudo_label()
    geometries = {"sform": np.eye(4), "qform": np.eye(4)}
    geometries["qform"][:3, 3] = 10, -5, 3
    found = examine(tmp_path, corrected, geometries[used])
    assert bool(found.problems) == (used == "qform")
    image = nib.load(tmp_path / "image.nii.gz")
    image.set_qform(geometries["qform"], 1)
    image.set_sform(geometries["sform"], 2)
    nib.save(image, tmp_path / "two.nii.gz")
    case = Case("a", (str(tmp_path / "two.nii.gz"),), None, Split.UNLABELLED, "a", "")
    config = Config.model_validate({"labels": VALUES})
    path = tmp_path / "corrected.nii.gz"
    assert examine_corrected_label(config, case, path, tmp_path / "pseudo.nii.gz") == Findings()


def test_examine_names_what_is_doubtful_in_the_header(tmp_path: Path) -> None:
    examine(tmp_path, pseudo_label(), np.diag([0.001, 0.001, 0.001, 1]))
    label = nib.load(tmp_path / "corrected.nii.gz")
    label.header.set_xyzt_units("meter")
    nib.save(label, tmp_path / "corrected.nii.gz")
    case = Case("a", (str(tmp_path / "image.nii.gz"),), None, Split.UNLABELLED, "a", "")
    config = Config.model_validate({"labels": VALUES})
    path = tmp_path / "corrected.nii.gz"
    (problem,) = examine_corrected_label(config, case, path, None).problems
    assert "Its header has lengths in meter, and voxels of 0.001 x" in problem


def test_examine_compares_nothing_that_is_confirmed(tmp_path: Path) -> None:
    examine(tmp_path, np.zeros(SHAPE, np.uint8))
    image = str(tmp_path / "image.nii.gz")
    case = Case("a", (image,), None, Split.UNLABELLED, "a", "")
    config = Config.model_validate({"labels": VALUES})
    found = examine_corrected_label(config, case, tmp_path / "corrected.nii.gz", None)
    assert found == Findings()
