"""Imports of damaged folders: each problem is described, and nothing is written."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.import_files import (
    Damage,
    L,
    U,
    copy,
    describe,
    imported,
    problems,
    remove,
    rename,
    reshape,
    run_import,
    splits,
)

from hstf.datasets.phantom.layouts.registry import LAYOUTS

SAME_GRID = "all files of a case must have the same grid"
THREE_AXES = "expected three axes"


def empty(folder: Path) -> None:
    """Delete all files."""
    shutil.rmtree(folder)
    folder.mkdir()


def dicom(folder: Path) -> None:
    """Replace all files by a DICOM file."""
    empty(folder)
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM")


def archive(folder: Path) -> None:
    """Replace all files by an archive."""
    empty(folder)
    (folder / "data.zip").write_bytes(b"PK")


def break_link(folder: Path) -> None:
    """Add a link to a missing file."""
    (folder / "scan.nii.gz").symlink_to("nowhere.nii.gz")


def remove_folder(name: str) -> Damage:
    """Delete a folder."""

    def change(folder: Path) -> None:
        shutil.rmtree(folder / name)

    return change


def swap_labels(folder: Path) -> None:
    """Exchange the labels of two cases in ``dataset.json``."""
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    first, second = content["training"][:2]
    first["label"], second["label"] = second["label"], first["label"]
    path.write_text(json.dumps(content))


def remove_images(folder: Path) -> None:
    """Delete all modalities of a case of BraTS."""
    for path in folder.rglob("*_002_[tf]*"):
        path.unlink()


def move_image(folder: Path) -> None:
    """Move a modality of a case of BraTS to the folder of another case."""
    image = next(folder.rglob("*1-000-t2w*"))
    other = next(folder.rglob("*2-000"))
    image.rename(other / "BraTS-GLI-00001-000-t2w.nii.gz")


DAMAGES: dict[str, list[tuple[Damage, str]]] = {
    "acdc": [
        (
            remove("patient002_frame01.nii.gz"),
            "patient002_frame01_gt.nii.gz: a label without its image",
        ),
        (
            rename("patient002_frame09.nii.gz", "patient002_ES.nii.gz"),
            "is not named as in ACDC",
        ),
        (
            copy("patient002_frame01.nii.gz", "training/patient001/patient002_frame01.nii.gz"),
            "two patients mixed",
        ),
        (
            copy(
                "patient001_frame01_gt.nii.gz", "corrected/patient001/patient001_frame01_gt.nii.gz"
            ),
            "exists twice",
        ),
        (
            remove("patient003_frame09*"),
            "patient003_frame09 is missing, which Info.cfg names as the ES frame",
        ),
        (
            reshape("patient003_frame01.nii.gz", 16, 16, 8, 3),
            "has shape (16, 16, 8, 3), expected three axes",
        ),
        (
            reshape("patient003_frame01_gt.nii.gz", 16, 16, 7),
            "but patient003_frame01.nii.gz has (16, 16, 8)",
        ),
        (
            empty,
            "contains no volumes",
        ),
        (
            break_link,
            "scan.nii.gz: a link to nowhere.nii.gz, which is missing: fix or remove the link",
        ),
        (
            dicom,
            "dcm2niix -z y",
        ),
        (
            archive,
            "Unpack it first",
        ),
    ],
    "brats": [
        (
            remove("BraTS20_Training_002_t1ce*"),
            "BraTS20_Training_002: modality t1ce is missing",
        ),
        (
            remove_images,
            "a label without its images",
        ),
        (
            rename("*_002_t2.nii.gz", "BraTS20_Training_002_dwi.nii.gz"),
            "is not named as in BraTS",
        ),
        (
            rename("*_001_t2.nii.gz", "BraTS20_Training_002_t2.nii.gz"),
            "BraTS20_Training_002: t2 exists twice",
        ),
        (
            reshape("*_002_t1.nii.gz", 16, 16, 8, 2),
            THREE_AXES,
        ),
        (
            reshape("*_002_t1.nii.gz", 9, 9, 9),
            SAME_GRID,
        ),
        (
            rename("*_001_t2.nii.gz", "BraTS20_Training_001-t2f.nii.gz"),
            "names of 2023 and later are mixed",
        ),
        (
            empty,
            "contains no volumes",
        ),
    ],
    "brats2023": [
        (
            remove("*-00001-000-t2w*"),
            "BraTS-GLI-00001-000: modality t2w is missing",
        ),
        (
            move_image,
            "two cases mixed: a file of BraTS-GLI-00001-000 in folder BraTS-GLI-00002-000",
        ),
    ],
    "lits": [
        (
            remove("volume-2.nii"),
            "segmentation-2.nii: a label without its image volume-2",
        ),
        (
            rename("volume-1.nii", "vol1.nii"),
            "is not named as in LiTS",
        ),
        (
            copy("volume-1.nii", "again/volume-1.nii"),
            "volume-1: volume-1 exists twice",
        ),
        (
            reshape("volume-1.nii", 16, 16),
            "has shape (16, 16), expected three axes",
        ),
        (
            reshape("segmentation-1.nii", 16, 16, 9),
            SAME_GRID,
        ),
        (
            empty,
            "contains no volumes",
        ),
    ],
    "msd": [
        (
            remove("dataset.json"),
            "dataset.json: missing",
        ),
        (
            remove("imagesTr/*001*"),
            "phantom_001.nii.gz: dataset.json names it, but it is missing",
        ),
        (
            copy("labelsTr/*001*", "labelsTr/other.nii.gz"),
            "other.nii.gz: a label without its image",
        ),
        (
            swap_labels,
            "two cases mixed: dataset.json assigns it the label",
        ),
        (
            describe(modality=None),
            "modality is None, expected",
        ),
        (
            describe(modality={"0": "FLAIR", "1": "T1w"}),
            "expected four axes, 2 on the last",
        ),
        (
            describe(training=[], test=[]),
            "'training' names no case",
        ),
        (
            describe(training=[{"label": "x"}]),
            "names no image",
        ),
        (
            reshape("imagesTr/*001*", 16, 16, 8, 2),
            THREE_AXES,
        ),
        (
            empty,
            "dataset.json: missing",
        ),
    ],
    "nnunet": [
        (
            remove("imagesTr/*001_0000*"),
            "phantom_001.nii.gz: a label without its image",
        ),
        (
            describe(channel_names={"0": "T1", "1": "T2"}),
            "modality phantom_000_0001 (t2) is missing",
        ),
        (
            copy("imagesTr/*001_0000*", "imagesTr/phantom_001_0003.nii.gz"),
            "phantom_001_0003.nii.gz belongs to no channel",
        ),
        (
            rename("phantom_001_0000.nii.gz", "phantom_001.nii.gz"),
            "is not named as in nnU-Net",
        ),
        (
            describe(file_ending=".png"),
            "file_ending is '.png'",
        ),
        (
            describe(labels={"liver": "one"}),
            "expected whole numbers or lists of them",
        ),
        (
            describe(labels=None),
            "labels is None",
        ),
        (
            reshape("labelsTr/*001*", 16, 16, 9),
            SAME_GRID,
        ),
        (
            reshape("imagesTr/*001_0000*", 16, 16),
            THREE_AXES,
        ),
        (
            copy("imagesTr/*001_0000*", "imagesTs/phantom_001_0000.nii.gz"),
            "phantom_001: exists twice",
        ),
        (
            empty,
            "dataset.json: missing",
        ),
    ],
    "folder": [
        (
            copy("*001.nii.gz", "labels/case_001_seg.nii.gz"),
            "case_001: has two labels",
        ),
        (
            copy("*001.nii.gz", "images/case_001_roi.nii.gz"),
            "case_001: has two labels",
        ),
        (
            remove("images/case_001*"),
            "a label without its image case_001",
        ),
        (
            remove_folder("images"),
            "only labels were recognised by their names",
        ),
        (
            copy("images/case_001*", "images/more/case_001.nii.gz"),
            "case_001: exists twice",
        ),
        (
            reshape("images/case_001*", 16, 16),
            THREE_AXES,
        ),
        (
            empty,
            "contains no volumes",
        ),
    ],
    "bids": [
        (
            remove("sub-002_T1w.nii.gz"),
            "a label without its image: no scan of sub-002",
        ),
        (
            rename("sub-002_T1w.nii.gz", "T1.nii.gz"),
            "is not named as in BIDS",
        ),
        (
            rename("sub-002_T1w.nii.gz", "sub-009_T1w.nii.gz"),
            "two patients mixed",
        ),
        (
            copy("sub-002_T1w.nii.gz", "sub-002/anat/sub-002_acq-fast_T1w.nii.gz"),
            "choose one with --filter acq=",
        ),
        (
            rename("sub-002_T1w.nii.gz", "sub-002_T2w.nii.gz"),
            "no modality is in all of 6 sessions",
        ),
        (
            reshape("sub-002_T1w.nii.gz", 16, 16, 8, 4),
            THREE_AXES,
        ),
        (
            empty,
            "contains no volumes",
        ),
    ],
}


def cases() -> list[object]:
    """Return all damages as parameters of a test."""
    parameters = []
    for layout, damages in DAMAGES.items():
        for damage, expected in damages:
            name = f"{layout}-{expected[:30]}"
            parameters.append(pytest.param(layout, damage, expected, id=name))
    return parameters


@pytest.fixture
def refusal(
    phantoms: Callable[..., Path],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Return a function that imports a damaged data set and returns the error message."""

    def refuse(
        layout: str,
        *damages: Damage,
        options: Sequence[str] = (),
    ) -> str:
        shutil.copytree(phantoms(layout, *options), "data")
        for damage in damages:
            damage(Path("data"))
        kind = LAYOUTS[layout].kind or layout
        assert run_import(kind, Path("data"), *options) == 1
        message = capsys.readouterr().err
        assert "Traceback" not in message
        assert not Path("config").exists()
        return message

    return refuse


@pytest.mark.parametrize(("layout", "damage", "expected"), cases())
def test_import_describes_the_problem_of_a_damaged_folder(
    layout: str,
    damage: Damage,
    expected: str,
    refusal: Callable[..., str],
) -> None:
    assert expected in refusal(layout, damage)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            remove("images/case_001_pet*"),
            "case_001: modality pet is missing",
        ),
        (
            rename("case_001_pet.nii.gz", "case_001_spect.nii.gz"),
            "has no modality in its name: expected <case>_ and one of",
        ),
        (
            reshape("images/case_001_pet*", 9, 9, 9),
            SAME_GRID,
        ),
    ],
)
def test_import_describes_the_problem_of_one_of_two_modalities(
    damage: Damage,
    expected: str,
    refusal: Callable[..., str],
) -> None:
    assert expected in refusal("folder", damage, options=["--modalities", "ct", "pet"])


def test_import_reports_all_problems_and_can_leave_out_the_cases(
    refusal: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(
        "brats",
        remove("BraTS20_Training_002_t1.nii.gz"),
        reshape("BraTS20_Training_003_t2.nii.gz", 9, 9, 9),
    )
    assert "2 problems" in message
    assert "Training_002" in message
    assert "Training_003" in message
    config = imported("brats", Path("data"), "--leave-out-invalid")
    assert splits(config) == {L: 2, U: 2}
    assert problems(config) == []
    assert "modality t1 is missing" in capsys.readouterr().out
