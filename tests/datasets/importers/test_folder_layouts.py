"""Folders as people have them: images, labels and splits are recognised without options."""

import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from support.folder_files import Pair, found, numbered, pairs_of, write, write_pairs
from support.import_files import L, U, imported, run_import, splits

from hstf.cli import main
from hstf.datasets.importers.folder import find
from hstf.datasets.importers.options import Options
from hstf.experiment.cases import read_cases
from hstf.runtime.errors import HstfError

Layout = dict[str, Pair]

LAYOUTS: dict[str, Layout] = {
    "train, unlabelled and test": {
        **numbered("train/images/c{}.nii.gz", "train/labels/c{}.nii.gz"),
        **numbered("unlabelled/u{}.nii.gz", "", "unlabelled", "u{}"),
        **numbered("test/images/t{}.nii.gz", "test/labels/t{}.nii.gz", "test", "t{}"),
    },
    "numbers that start again": {
        **numbered("train/img/{}.nii.gz", "train/gt/{}.nii.gz", "", "train_{}"),
        **numbered("test/img/{}.nii.gz", "test/gt/{}.nii.gz", "test", "test_{}"),
        **numbered("unlabeled/{}.nii.gz", "", "unlabelled", "unlabeled_{}"),
    },
    "split below the role": {
        **numbered("images/train/a{}.nii.gz", "labels/train/a{}.nii.gz", "", "a{}"),
        **numbered("images/test/b{}.nii.gz", "labels/test/b{}.nii.gz", "test", "b{}"),
    },
    "train and validation": {
        **numbered("train/images/a{}.nii.gz", "train/masks/a{}.nii.gz", "", "a{}"),
        **numbered("val/images/b{}.nii.gz", "val/masks/b{}.nii.gz", "test", "b{}"),
    },
    "mask": numbered("image/c{}.nii.gz", "mask/c{}.nii.gz"),
    "masks with a suffix": numbered("Scans/c{}.nii.gz", "Masks/c{}_mask.nii.gz"),
    "ground truth": numbered("vols/c{}.nii", "GroundTruth/c{}-gt.nii.gz"),
    "annotations": numbered("data/c{}.nii.gz", "annotations/c{}.nii.gz"),
    "words in longer names": numbered("CT_images/c{}.nii.gz", "CT_liver_segs/c{}.nii.gz"),
    "img and label": numbered("img/img000{}.nii.gz", "label/label000{}.nii.gz", "", "img000{}"),
    "channel number": numbered("images/F_{}_0000.nii.gz", "labels/F_{}.nii.gz", "", "F_{}"),
    "patient, any label": numbered("P{}/T2.nii.gz", "P{}/liver-seg-final.nii.gz", "", "P{}"),
    "patient, other names": numbered("P{}/9{}7.nii.gz", "P{}/Segmentation_{}.nii.gz", "", "P{}"),
    "patient, no word": numbered("P{}/ct.nii.gz", "P{}/liver.nii.gz", "", "P{}"),
    "patient, lesion": numbered("P{}/flair.nii.gz", "P{}/flair_lesion.nii.gz", "", "P{}"),
    "sub, anat and seg": numbered("sub-{}/anat/T1.nii.gz", "sub-{}/seg/any.nii.gz", "", "sub-{}"),
    "folders without words": numbered("CTs/c{}.nii.gz", "vessels/c{}.nii.gz"),
    "prefix": numbered("case{}.nii.gz", "seg_case{}.nii.gz", "", "case{}"),
    "suffix": numbered("c{}.nii.gz", "c{}_segmentation.nii.gz"),
    "upper case": numbered("c{}.nii.gz", "c{}_GT.nii.gz"),
    "word in all names": numbered("seg_c{}.nii.gz", "seg_c{}_mask.nii.gz", "", "seg_c{}"),
    "image and label in names": numbered(
        "ct_{}_image.nii.gz", "ct_{}_label.nii.gz", "", "ct_{}_image"
    ),
    "imagesUn": {
        **numbered("imagesTr/c{}_0000.nii.gz", "labelsTr/c{}.nii.gz"),
        **numbered("imagesUn/u{}_0000.nii.gz", "", "unlabelled", "u{}"),
    },
    "labelled, unlabelled": {
        **numbered("labeled/image/c{}.nii.gz", "labeled/label/c{}.nii.gz"),
        **numbered("unlabeled/image/d{}.nii.gz", "", "unlabelled", "d{}"),
    },
    "segmentation of Slicer": numbered("images/c{}.nii.gz", "labels/c{}.seg.nrrd"),
    "label map of Slicer": numbered("c{}.nrrd", "c{}-label.nrrd"),
    "Slicer, one folder each": numbered(
        "{}/{} Series.nii.gz", "{}/Segmentation.seg.nrrd", "", "{}"
    ),
    "sites": {
        **numbered("rome/images/{}.nii.gz", "rome/labels/{}.nii.gz", "", "rome_{}"),
        **numbered("oslo/images/{}.nii.gz", "oslo/labels/{}.nii.gz", "", "oslo_{}"),
    },
    "time points": {
        **numbered("P{}/scan1.nii.gz", "P{}/scan1_gt.nii.gz", "", "P{}_scan1"),
        **numbered("P{}/scan2.nii.gz", "P{}/scan2_gt.nii.gz", "", "P{}_scan2"),
    },
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_find_recognises_the_layout(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    write_pairs(tmp_path, layout)
    dataset = found(tmp_path)
    assert pairs_of(tmp_path, dataset.cases) == layout
    assert dataset.left_out == []


MODALITIES: dict[str, list[str]] = {
    "ends of names": ["{}/{}_t1.nii.gz", "{}/{}_t2.nii.gz"],
    "names": ["{}/T1w.nii.gz", "{}/FLAIR.nii.gz"],
    "folders": ["images/T1/{}.nii.gz", "images/T2/{}.nii.gz"],
    "channels": ["imagesTr/P{}_0000.nii.gz", "imagesTr/P{}_0001.nii.gz"],
}


@pytest.mark.parametrize("name", MODALITIES)
def test_find_recognises_modalities(name: str, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        for pattern in MODALITIES[name]:
            path = pattern.replace("{}", str(number))
            write(tmp_path / path, "image")
            label = "labelsTr/P{}.nii.gz" if name == "channels" else "{}/seg.nii.gz"
            if name == "folders":
                label = "labels/{}.nii.gz"
            write(tmp_path / label.replace("{}", str(number)), "label")
    dataset = found(tmp_path)
    assert len(dataset.cases) == 3
    for case in dataset.cases:
        assert len(case.images) == 2
        assert case.label is not None


@pytest.mark.parametrize("names", [("0001", "0002"), ("early", "late"), ("a", "b")])
def test_find_does_not_take_scans_for_modalities(names: tuple[str, str], tmp_path: Path) -> None:
    for number in (1, 2, 3):
        for name in names:
            write(tmp_path / f"images/P{number}_{name}.nii.gz", "image")
            write(tmp_path / f"labels/P{number}_{name}.nii.gz", "label")
    dataset = found(tmp_path)
    assert len(dataset.cases) == 6
    assert list(dataset.modalities) == ["image"]
    assert len(dataset.questions) == 1


def test_import_reads_all_formats_and_names_them(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("scans/c{}.nii.gz", "mask/c{}.nii"))
    write(Path("d/scans/c4.mha"), "image")
    config = imported("folder", Path("d"))
    assert splits(config) == {L: 3, U: 1}
    output = capsys.readouterr().out
    assert ".mha (1 files)" in output
    assert "No test cases: nothing will be scored" in output
    assert "nothing will be scored" in " ".join(Path("config/x.yaml").read_text().split())


def test_import_dry_run_shows_pairs_and_writes_nothing(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), LAYOUTS["img and label"])
    assert run_import("folder", Path("d"), "--dry-run") == 0
    output = capsys.readouterr().out
    for number in (1, 2, 3):
        row = next(line for line in output.splitlines() if f" img000{number} " in line)
        assert f"img/img000{number}.nii.gz" in row
        assert f"label/label000{number}.nii.gz" in row
    assert "3 of 3 labels matched by" in output
    assert not Path("config").exists()


def test_import_without_output_is_only_possible_as_a_dry_run(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), LAYOUTS["mask"])
    assert main(["import", "folder", "d", "--dry-run"]) == 0
    assert main(["import", "folder", "d"]) == 1
    assert "--output config/NAME.yaml is missing" in capsys.readouterr().err


def test_find_leaves_out_test_images_without_labels(tmp_path: Path) -> None:
    write_pairs(tmp_path, LAYOUTS["mask"])
    write(tmp_path / "test/t1.nii.gz", "image")
    dataset = found(tmp_path)
    assert len(dataset.cases) == 3
    assert "1 cases in a folder of test cases, for example t1" in dataset.left_out[0].what
    assert "training does not use test cases" in dataset.left_out[0].why


def test_import_withholds_labels_of_a_folder_of_unlabelled_scans(workplace: Path) -> None:
    write_pairs(Path("d"), LAYOUTS["labelled, unlabelled"])
    write(Path("d/unlabeled/label/d1.nii.gz"), "label")
    config = imported("folder", Path("d"))
    assert splits(config) == {L: 3, U: 3}
    case = next(case for case in read_cases(config).cases if case.case_id == "d1")
    assert case.reference is not None


def test_import_keeps_validation_cases_as_labelled_cases_beside_test_cases(tmp_path: Path) -> None:
    for name in ("train", "val", "test"):
        write_pairs(
            tmp_path, numbered(f"{name}/images/{name}{{}}.nii.gz", f"{name}/seg/{name}{{}}.nii.gz")
        )
    dataset = found(tmp_path)
    official = {case.case_id: case.official for case in dataset.cases}
    assert official["val1"] is None
    assert official["test1"] is not None
    assert any(note.what == "validation" for note in dataset.rules)


# --- refusals


@pytest.mark.parametrize("pattern", ["p{}.nii.gz", "mask{}.nii.gz", "images/p{}.nii.gz"])
def test_import_refuses_label_maps_as_scans(
    pattern: str,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(11):
        write(Path("d", pattern.replace("{}", str(number))), "label")
    assert run_import("folder", Path("d")) == 1
    message = capsys.readouterr().err
    assert "looks like a label map and not like a scan: only the values 0, 1, 2" in message
    assert not Path("config").exists()


def test_import_refuses_one_label_map_among_scans(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), LAYOUTS["mask"])
    write(Path("d/image/c4.nii.gz"), "label")
    assert run_import("folder", Path("d")) == 1
    assert "d/image/c4.nii.gz: looks like a label map" in capsys.readouterr().err
    assert run_import("folder", Path("d"), "--leave-out-invalid", "--dry-run") == 0
    assert run_import("folder", Path("d"), "--accept-few-values") == 0


@pytest.mark.parametrize("label", ["seg", "liver"])
@pytest.mark.parametrize("prior", ["prior", "mask", "lesion"])
@pytest.mark.parametrize("start", ["c{}_", "c{}/"])
def test_import_accepts_a_mask_as_input(
    label: str,
    prior: str,
    start: str,
    workplace: Path,
) -> None:
    for number in (1, 2, 3):
        write(Path(f"d/{start.format(number)}ct.nii.gz"), "image")
        write(Path(f"d/{start.format(number)}{prior}.nii.gz"), "1")
        write(Path(f"d/{start.format(number)}{label}.nii.gz"), "label")
    config = imported("folder", Path("d"), "--modalities", "ct", f"{prior}=mask")
    assert config.modalities == {"ct": "ct", prior: "mask"}
    assert splits(config) == {L: 3}


def test_import_shows_what_was_found_and_other_ways(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("pictures/a{}.nii.gz", "labels/z9{}.nii.gz"))
    assert run_import("folder", Path("d")) == 1
    message = capsys.readouterr().err
    assert "d/labels/z91.nii.gz: a label without its image z91" in message
    assert "pictures/a#.nii.gz (3 volumes, for example pictures/a1.nii.gz)" in message
    assert "Nearest rule: 3 images and 3 labels are recognised by their names" in message
    assert "--images GLOB --labels GLOB [--match REGEX] --dry-run" in message
    assert "write the case sheet yourself" in message


@pytest.mark.parametrize(
    ("layout", "kind"),
    [("acdc", "acdc"), ("brats", "brats"), ("lits", "lits"), ("nnunet", "nnunet")],
)
def test_import_names_the_kind_that_suits(
    layout: str,
    kind: str,
    phantoms: Callable[..., Path],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(phantoms(layout), "d")
    assert run_import("bids", Path("d")) == 1
    assert f"hstf import {kind} d" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("image", "label", "questions"),
    [
        ("images/d_{}.nii.gz", "labels/c_{}.nii.gz", 1),
        ("images/vol_{}.nii.gz", "labels/organ_{}.nii.gz", 0),
        ("images/c{}_T1w.nii.gz", "labels/c{}.nii.gz", 0),
    ],
)
def test_find_questions_pairs_with_different_names(
    image: str,
    label: str,
    questions: int,
    tmp_path: Path,
) -> None:
    write_pairs(tmp_path, numbered(image, label))
    dataset = found(tmp_path)
    assert all(case.label for case in dataset.cases)
    assert len(dataset.questions) == questions
    assert not questions or "Do d_1.nii.gz and c_1.nii.gz belong together?" in dataset.questions[0]


def test_find_questions_images_of_several_modalities(tmp_path: Path) -> None:
    for number, name in enumerate(("ct", "mr", "ct")):
        write(tmp_path / f"P{number}/{name}.nii.gz", "image")
        write(tmp_path / f"P{number}/seg.nii.gz", "label")
    assert "names of several modalities: ct (2), mr (1)" in found(tmp_path).questions[0]


def test_find_refuses_labels_without_images(tmp_path: Path) -> None:
    write(tmp_path / "mask/c1.nii.gz", "label")
    with pytest.raises(HstfError, match="only labels were recognised by their names"):
        find(tmp_path, Options())


def test_find_refuses_a_label_that_could_belong_to_several_images(tmp_path: Path) -> None:
    for number in (1, 2):
        for name in ("early", "late", "seg"):
            content = "label" if name == "seg" else "image"
            write(tmp_path / f"P{number}" / f"{name}.nii.gz", content)
    dataset = find(tmp_path, Options())
    assert "its folder has 2 images. Images of one case are named with --modalities" in str(
        dataset.problems
    )


def test_import_reads_the_folder_in_which_it_writes_the_case_sheet(workplace: Path) -> None:
    write_pairs(Path("d"), numbered("images/c{}.nii.gz", "labels/c{}.nii.gz"))
    for _ in range(2):
        assert main(["import", "folder", "d", "--output", "d.yaml", "--force"]) == 0
        assert Path("d/cases.csv").read_text().count("labelled") == 3


def test_find_matches_accents_of_macos(tmp_path: Path) -> None:
    for number in (1, 2):
        name = f"M\u00fcnchen{number}"
        write(tmp_path / f"{name}_t1.nii.gz", "image")
        write(tmp_path / f"{unicodedata.normalize('NFD', name)}_flair.nii.gz", "image")
        write(tmp_path / f"{unicodedata.normalize('NFD', name)}_seg.nii.gz", "label")
    dataset = find(tmp_path, Options())
    assert dataset.problems == [] and dataset.questions == []
    assert [sorted(case.images) for case in dataset.cases] == [["flair", "t1"]] * 2
    assert all(case.label for case in dataset.cases)
