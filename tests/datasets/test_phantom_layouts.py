"""Synthetic data sets in the layouts of public ones."""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.cli import main
from hstf.datasets.phantom.layouts.registry import LAYOUTS, write_layout
from hstf.datasets.phantom.options import LAYOUT_NAMES, PhantomOptions
from hstf.runtime.files import read_json

BRATS_CASE = "MICCAI_BraTS2020_TrainingData/BraTS20_Training_001/BraTS20_Training_001"
BRATS_2023_CASE = (
    "ASNR-MICCAI-BraTS2023-GLI-Challenge-TrainingData/BraTS-GLI-00000-000/BraTS-GLI-00000-000"
)
ORGANS = {0, 1, 2, 3, 4}


@dataclass(frozen=True)
class Facts:
    """Facts about a layout."""

    image: str
    label: str
    axes: str
    dtype: type
    values: set[int]
    """Values that a label may have."""


FACTS = {
    "acdc": Facts(
        "training/patient001/patient001_frame01.nii.gz",
        "training/patient001/patient001_frame01_gt.nii.gz",
        "LPS",
        np.int16,
        {0, 1, 2, 3},
    ),
    "brats": Facts(
        f"{BRATS_CASE}_t1ce.nii.gz",
        f"{BRATS_CASE}_seg.nii.gz",
        "LPS",
        np.int16,
        {0, 1, 2, 4},
    ),
    "brats2023": Facts(
        f"{BRATS_2023_CASE}-t2f.nii.gz",
        f"{BRATS_2023_CASE}-seg.nii.gz",
        "LPS",
        np.int16,
        {0, 1, 2, 3},
    ),
    "lits": Facts(
        "Training_Batch1/volume-0.nii",
        "Training_Batch1/segmentation-0.nii",
        "LPS",
        np.int16,
        {0, 1, 2},
    ),
    "msd": Facts(
        "imagesTr/phantom_000.nii.gz",
        "labelsTr/phantom_000.nii.gz",
        "RAS",
        np.float32,
        ORGANS,
    ),
    "nnunet": Facts(
        "imagesTr/phantom_000_0000.nii.gz",
        "labelsTr/phantom_000.nii.gz",
        "RAS",
        np.float32,
        ORGANS,
    ),
    "folder": Facts(
        "images/case_000.nii.gz",
        "labels/case_000.nii.gz",
        "RAS",
        np.int16,
        ORGANS,
    ),
    "bids": Facts(
        "sub-001/anat/sub-001_T1w.nii.gz",
        "derivatives/manual/sub-001/anat/sub-001_desc-manual_dseg.nii.gz",
        "RAS",
        np.int16,
        ORGANS,
    ),
}


def phantom(layout: str, folder: Path, options: str) -> int:
    """Run ``hstf phantom`` and return the exit code."""
    command = ["phantom", "--layout", layout, "--output", str(folder)]
    return main([*command, *options.split()])


def test_layouts_have_the_names_of_the_options() -> None:
    assert tuple(LAYOUTS) == LAYOUT_NAMES


@pytest.mark.parametrize("layout", LAYOUTS)
def test_write_layout_has_official_names_types_axes_and_values(
    layout: str,
    tmp_path: Path,
) -> None:
    options = "--cases 3 --labelled 2 --test 0 --size 24 24 16 --lesions 3"
    assert phantom(layout, tmp_path, options) == 0
    facts = FACTS[layout]
    image = nib.load(tmp_path / facts.image)
    label = nib.load(tmp_path / facts.label)
    assert "".join(nib.aff2axcodes(image.affine)) == facts.axes
    np.testing.assert_array_equal(image.affine, label.affine)
    assert image.get_data_dtype() == facts.dtype
    assert label.get_data_dtype() == np.uint8
    values = set(np.unique(label.dataobj))
    assert values <= facts.values
    assert len(values) >= 3


def test_write_layout_flips_the_array_and_not_the_anatomy(tmp_path: Path) -> None:
    options = PhantomOptions(
        cases=1,
        labelled=1,
        test=0,
        size=(24, 20, 16),
        noise=0.0,
    )
    layout = LAYOUTS["folder"]
    write_layout(tmp_path / "ras", replace(layout, axes=(1.0, 1.0, 1.0)), options)
    write_layout(tmp_path / "lps", replace(layout, axes=(-1.0, -1.0, 1.0)), options)
    ras = nib.load(tmp_path / "ras" / "labels" / "case_000.nii.gz")
    lps = nib.load(tmp_path / "lps" / "labels" / "case_000.nii.gz")
    canonical = nib.as_closest_canonical(lps)
    np.testing.assert_array_equal(np.asarray(canonical.dataobj), np.asarray(ras.dataobj))
    np.testing.assert_allclose(canonical.affine, ras.affine, atol=1e-4)


def test_write_layout_has_ct_in_hounsfield_units(tmp_path: Path) -> None:
    assert phantom("lits", tmp_path, "--cases 2 --labelled 2 --test 0 --size 32 32 24") == 0
    for number in range(2):
        volume_path = next(tmp_path.rglob(f"volume-{number}.nii"))
        label_path = next(tmp_path.rglob(f"segmentation-{number}.nii"))
        volume = np.asarray(nib.load(volume_path).dataobj)
        label = np.asarray(nib.load(label_path).dataobj)
        assert volume.min() == -1000
        assert 0 < np.median(volume[label == 1]) < 250


SCRIBBLES = "--cases 2 --labelled 1 --test 0 --size 12 12 12 --scribbles"


def test_write_layout_refuses_scribbles_without_an_ignore_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "lits"
    assert phantom("lits", folder, SCRIBBLES) == 1
    assert "no value for voxels to ignore. These have: nnunet" in capsys.readouterr().err
    assert not folder.exists()


def test_write_layout_writes_scribbles_with_the_ignore_value(tmp_path: Path) -> None:
    assert phantom("nnunet", tmp_path, SCRIBBLES) == 0
    description = read_json(tmp_path / "dataset.json")
    assert description["labels"]["ignore"] == 5
    label = nib.load(tmp_path / "labelsTr" / "phantom_000.nii.gz")
    ignored = np.asarray(label.dataobj) == 5
    assert ignored.mean() > 0.5
