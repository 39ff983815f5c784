"""Importers: broken folders become sentences, and nothing is written."""

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
    splits,
)

from hstf.cli import main
from hstf.datasets.phantom.layouts import LAYOUTS


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def dicom(folder: Path) -> None:
    empty(folder)
    (folder / "IM0001").write_bytes(bytes(128) + b"DICM")


def archive(folder: Path) -> None:
    empty(folder)
    (folder / "data.zip").write_bytes(b"PK")


def dangle(folder: Path) -> None:
    (folder / "scan.nii.gz").symlink_to("nowhere.nii.gz")


def swap_labels(folder: Path) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    first, second = content["training"][:2]
    first["label"], second["label"] = second["label"], first["label"]
    path.write_text(json.dumps(content))


BROKEN: list[tuple[str, Damage, str]] = [
    (
        "acdc",
        remove("patient002_frame01.nii.gz"),
        "patient002_frame01_gt.nii.gz: a label without its image",
    ),
    ("acdc", rename("patient002_frame09.nii.gz", "patient002_ES.nii.gz"), "is no name of ACDC"),
    (
        "acdc",
        copy("patient002_frame01.nii.gz", "training/patient001/patient002_frame01.nii.gz"),
        "two patients mixed",
    ),
    (
        "acdc",
        remove("patient003_frame09*"),
        "patient003_frame09 is missing, which Info.cfg names as the ES frame",
    ),
    (
        "acdc",
        reshape("patient003_frame01.nii.gz", 16, 16, 8, 3),
        "has shape (16, 16, 8, 3), expected three axes",
    ),
    (
        "acdc",
        reshape("patient003_frame01_gt.nii.gz", 16, 16, 7),
        "but patient003_frame01.nii.gz has (16, 16, 8)",
    ),
    ("acdc", empty, "holds no volumes"),
    ("acdc", dangle, "1 links lead to nothing"),
    ("folder", copy("*001.nii.gz", "labels/case_001_seg.nii.gz"), "case_001: has two labels"),
    ("folder", copy("*001.nii.gz", "images/case_001_roi.nii.gz"), "looks like a label of case_001"),
    ("acdc", dicom, "dcm2niix -z y"),
    ("acdc", archive, "Unpack it first"),
    (
        "brats",
        remove("BraTS20_Training_002_t1ce*"),
        "BraTS20_Training_002: modality t1ce is missing",
    ),
    (
        "brats",
        lambda f: [p.unlink() for p in f.rglob("*_002_[tf]*")] and None,
        "a label without its images",
    ),
    ("brats", rename("*_002_t2.nii.gz", "BraTS20_Training_002_dwi.nii.gz"), "is no name of BraTS"),
    (
        "brats",
        rename("*_001_t2.nii.gz", "BraTS20_Training_002_t2.nii.gz"),
        "BraTS20_Training_002: t2 is there twice",
    ),
    ("brats", reshape("*_002_t1.nii.gz", 16, 16, 8, 2), "expected three axes"),
    ("brats", reshape("*_002_t1.nii.gz", 9, 9, 9), "they must lie on one grid"),
    ("brats", rename("*_001_t2.nii.gz", "BraTS20_Training_001-t2f.nii.gz"), "of 2023 on are mixed"),
    ("brats", empty, "holds no volumes"),
    ("brats2023", remove("*-00001-000-t2w*"), "BraTS-GLI-00001-000: modality t2w is missing"),
    (
        "brats2023",
        lambda f: next(f.rglob("*1-000-t2w*")).rename(
            next(f.rglob("*2-000")) / "BraTS-GLI-00001-000-t2w.nii.gz"
        ),
        "two cases mixed: a file of BraTS-GLI-00001-000 in folder BraTS-GLI-00002-000",
    ),
    ("lits", remove("volume-2.nii"), "segmentation-2.nii: a label without its image volume-2"),
    ("lits", rename("volume-1.nii", "vol1.nii"), "is no name of LiTS"),
    ("lits", copy("volume-1.nii", "again/volume-1.nii"), "volume-1: volume-1 is there twice"),
    ("lits", reshape("volume-1.nii", 16, 16), "has shape (16, 16), expected three axes"),
    ("lits", reshape("segmentation-1.nii", 16, 16, 9), "they must lie on one grid"),
    ("lits", empty, "holds no volumes"),
    ("msd", remove("dataset.json"), "dataset.json: missing"),
    (
        "msd",
        remove("imagesTr/*001*"),
        "phantom_001.nii.gz: dataset.json names it, but it is missing",
    ),
    (
        "msd",
        copy("labelsTr/*001*", "labelsTr/other.nii.gz"),
        "other.nii.gz: a label without its image",
    ),
    ("msd", swap_labels, "two cases mixed: dataset.json gives it the label"),
    ("msd", describe(modality=None), "modality is None, expected"),
    ("msd", describe(modality={"0": "FLAIR", "1": "T1w"}), "expected four axes, 2 on the last"),
    ("msd", describe(training=[], test=[]), "'training' names no case"),
    ("msd", describe(training=[{"label": "x"}]), "names no image"),
    ("msd", reshape("imagesTr/*001*", 16, 16, 8, 2), "expected three axes"),
    ("msd", empty, "dataset.json: missing"),
    ("nnunet", remove("imagesTr/*001_0000*"), "phantom_001.nii.gz: a label without its image"),
    (
        "nnunet",
        describe(channel_names={"0": "T1", "1": "T2"}),
        "modality phantom_000_0001 (t2) is missing",
    ),
    (
        "nnunet",
        copy("imagesTr/*001_0000*", "imagesTr/phantom_001_0003.nii.gz"),
        "phantom_001_0003.nii.gz is of no channel",
    ),
    ("nnunet", rename("phantom_001_0000.nii.gz", "phantom_001.nii.gz"), "is no name of nnU-Net"),
    ("nnunet", describe(file_ending=".png"), "file_ending is '.png'"),
    ("nnunet", describe(labels={"liver": "one"}), "expected whole numbers or lists of them"),
    ("nnunet", describe(labels=None), "labels is None"),
    ("nnunet", reshape("labelsTr/*001*", 16, 16, 9), "they must lie on one grid"),
    ("nnunet", reshape("imagesTr/*001_0000*", 16, 16), "expected three axes"),
    (
        "nnunet",
        copy("imagesTr/*001_0000*", "imagesTs/phantom_001_0000.nii.gz"),
        "phantom_001: is there twice",
    ),
    ("nnunet", empty, "dataset.json: missing"),
    ("folder", remove("images/case_001*"), "a label without its image case_001"),
    (
        "folder",
        rename("images", "pictures"),
        "has labels, but no folder of images: expected images",
    ),
    ("folder", copy("images/case_001*", "images/more/case_001.nii.gz"), "case_001: is there twice"),
    ("folder", reshape("images/case_001*", 16, 16), "expected three axes"),
    ("folder", empty, "holds no volumes"),
    ("bids", remove("sub-002_T1w.nii.gz"), "a label without its image: no scan of sub-002"),
    ("bids", rename("sub-002_T1w.nii.gz", "T1.nii.gz"), "is no name of BIDS"),
    ("bids", rename("sub-002_T1w.nii.gz", "sub-009_T1w.nii.gz"), "two patients mixed"),
    (
        "bids",
        copy("sub-002_T1w.nii.gz", "sub-002/anat/sub-002_run-2_T1w.nii.gz"),
        "sub-002: T1w is there twice",
    ),
    (
        "bids",
        rename("sub-002_T1w.nii.gz", "sub-002_T2w.nii.gz"),
        "no modality is in all of 6 sessions",
    ),
    ("bids", reshape("sub-002_T1w.nii.gz", 16, 16, 8, 4), "expected three axes"),
    ("bids", empty, "holds no volumes"),
]


@pytest.fixture
def refusal(
    phantoms: Callable[..., Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What the import of a damaged data set says; nothing is written."""

    def of(layout: str, *damages: Damage, options: Sequence[str] = ()) -> str:
        shutil.copytree(phantoms(layout, *options), "data")
        for damage in damages:
            damage(Path("data"))
        kind = LAYOUTS[layout].kind or layout
        assert main(["import", kind, "data", "--output", "config/x.yaml", *options]) == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert not Path("config").exists()
        return told

    return of


@pytest.mark.parametrize(
    ("layout", "damage", "said"), BROKEN, ids=[f"{b[0]}-{b[2][:30]}" for b in BROKEN]
)
def test_a_broken_folder_is_a_sentence(
    layout: str, damage: Damage, said: str, refusal: Callable[..., str]
) -> None:
    assert said in refusal(layout, damage)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove("images/case_001_pet*"), "case_001: modality pet is missing"),
        (
            rename("case_001_pet.nii.gz", "case_001_spect.nii.gz"),
            "names no modality: expected <case>_ and one of",
        ),
        (reshape("images/case_001_pet*", 9, 9, 9), "they must lie on one grid"),
    ],
)
def test_a_broken_folder_of_two_modalities(
    damage: Damage, said: str, refusal: Callable[..., str]
) -> None:
    assert said in refusal("folder", damage, options=["--modalities", "ct", "pet"])


def test_all_faults_are_told_and_faulty_cases_can_be_left_out(
    refusal: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    told = refusal(
        "brats",
        remove("BraTS20_Training_002_t1.nii.gz"),
        reshape("BraTS20_Training_003_t2.nii.gz", 9, 9, 9),
    )
    assert "2 faults" in told and "Training_002" in told and "Training_003" in told
    config = imported("brats", Path("data"), "--leave-out-faulty")
    assert splits(config) == {L: 2, U: 2}
    assert problems(config) == []
    assert "modality t1 is missing" in capsys.readouterr().out
