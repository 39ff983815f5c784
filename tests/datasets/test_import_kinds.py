"""Imports of each kind: layouts, formats, labels and regions that public data sets have."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.import_files import L, U, copy, describe, imported, problems, rename, run_import

from hstf.cli import main
from hstf.config.experiment import Modality
from hstf.config.regions import region_problems
from hstf.datasets.importers.brats import name_labels
from hstf.datasets.importers.dataset import column_names, modality_of, natural
from hstf.datasets.importers.nnunet import read_labels
from hstf.datasets.importers.registry import IMPORTERS, find_importer
from hstf.datasets.importers.write import named_regions
from hstf.experiment.cases import read_cases
from hstf.runtime.errors import HstfError

Phantoms = Callable[..., Path]

LABEL = np.zeros((8, 8, 8), np.uint8)
LABEL[2:5, 2:5, 2:5] = 1


def write_volume(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)


def write_image(path: Path) -> None:
    """Write random values that depend on the path."""
    rng = np.random.default_rng(len(str(path)))
    write_volume(path, rng.random((8, 8, 8), np.float32))


@pytest.mark.parametrize("kind", IMPORTERS)
def test_find_importer_returns_the_function_of_the_module(kind: str) -> None:
    find = find_importer(kind)
    assert find.__module__ == f"hstf.datasets.importers.{kind}"


def test_import_brats_assigns_the_odd_label_of_2020(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("brats"), data)
    rename("BraTS20_Training_002_seg*", "W39_1998.09.19_Segm.nii.gz")(data)
    config = imported("brats", Path("data"))
    cases = {case.case_id: case for case in read_cases(config).cases}
    assert cases["BraTS20_Training_002"].reference is not None


@pytest.mark.parametrize(
    ("values", "recent", "enhancing", "cavity"),
    [
        ({0, 1, 2, 4}, False, 4, None),
        ({0, 1, 2, 3}, True, 3, None),
        ({0, 1, 2}, True, 3, None),
        ({0, 1, 2}, False, 4, None),
        ({0, 1, 2, 3, 4}, True, 3, 4),
        ({0, 1, 2, 4}, True, 3, 4),
    ],
)
def test_name_labels_finds_the_year_from_the_values(
    values: set[int],
    recent: bool,
    enhancing: int,
    cavity: int | None,
) -> None:
    labels = name_labels(values, recent)
    assert labels.values["enhancing"] == enhancing
    assert labels.values.get("resection_cavity") == cavity
    assert labels.regions["tumour_core"] == (1, enhancing)
    expected = None if cavity is None else (cavity,)
    assert labels.regions.get("resection_cavity") == expected
    foreground = list(labels.values)[1:]
    assert not region_problems(named_regions(labels), foreground)


def test_import_brats_groups_the_time_points_of_a_patient(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("brats2023"), data)
    paths = sorted(data.rglob("BraTS-GLI-00001-000*"))
    # Files come before their folder.
    for path in sorted(paths, key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.replace("00001-000", "00000-001")))
    sheet = read_cases(imported("brats", Path("data")))
    groups = {case.case_id: case.group for case in sheet.cases}
    assert groups["BraTS-GLI-00000-000"] == "BraTS-GLI-00000"
    assert groups["BraTS-GLI-00000-001"] == "BraTS-GLI-00000"


def test_import_nnunet_reads_regions_and_ignore_label(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("nnunet"), data)
    regions = {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "core": [2, 3],
        "enhancing": 3,
        "ignore": 4,
    }
    describe(labels=regions, regions_class_order=[1, 2, 3])(data)
    config = imported("nnunet", Path("data"))
    assert config.labels == {
        "background": 0,
        "whole_tumor_rest": 1,
        "core_rest": 2,
        "enhancing": 3,
        "ignore": 4,
    }
    assert config.ignore_value == 4
    assert config.structures == {
        "whole_tumor": (1, 2, 3),
        "core": (2, 3),
        "enhancing": (3,),
    }
    assert config.lesions == ("whole_tumor",)


def test_import_nnunet_trains_classes_if_regions_do_not_separate_them(
    phantoms: Phantoms,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("nnunet"), data)
    regions = {"background": 0, "liver": [1, 2, 3, 4], "lesion": 4}
    describe(labels=regions, regions_class_order=[1, 4])(data)
    config = imported("nnunet", Path("data"))
    assert config.regions == {}
    assert config.lesions == ("lesion",)
    assert config.labels == {
        "background": 0,
        "liver_rest": 1,
        "liver_rest_2": 2,
        "liver_rest_3": 3,
        "lesion": 4,
    }
    screen = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "regions not used, classes are trained instead: the classes liver_rest" in screen
    comment = Path("config/x.yaml").read_text().replace("\n#", " ")
    words = " ".join(comment.split())
    assert "the classes liver_rest, liver_rest_2 and liver_rest_3 are in the same regions" in words


def test_read_labels_reads_both_versions() -> None:
    source = Path("dataset.json")
    first = read_labels({"0": "background", "1": "liver"}, source)
    assert first.values == {"background": 0, "liver": 1}
    second = read_labels({"background": 0, "whole": [1, 2, 3], "core": [3]}, source)
    assert second.values == {
        "background": 0,
        "whole_rest": 1,
        "whole_rest_2": 2,
        "core": 3,
    }
    with pytest.raises(HstfError, match="labels is"):
        read_labels([], source)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_import_nnunet_reads_other_formats(
    suffix: str,
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("nnunet"), data)
    for path in data.rglob("*.nii.gz"):
        target = str(path).replace(".nii.gz", suffix)
        sitk.WriteImage(sitk.ReadImage(str(path)), target)
        path.unlink()
    describe(file_ending=suffix)(data)
    config = imported("nnunet", Path("data"))
    assert problems(config) == []
    first = read_cases(config).cases[0]
    assert first.images[0].suffix == suffix


def test_import_folder_reads_modalities_patients_and_sites_from_names(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("rome_p1_a", "rome_p1_b", "oslo_p2_a", "oslo_p3_a"):
        for kind in ("ct", "pet", "seg"):
            maximum = 2 if kind == "seg" else 900
            values = rng.integers(0, maximum, (8, 8, 8)).astype(np.int16)
            write_volume(Path(f"{name}_{kind}.nii.gz"), values)
    config = imported(
        "folder",
        workplace,
        "--modalities",
        "ct",
        "pet",
        "--patient",
        r"_(p\d)_",
        "--site",
        r"^([a-z]+)_",
        "--labels",
        "lesion=1",
        "--labelled",
        "2",
    )
    cases = read_cases(config).cases
    assert config.modalities == {"ct": "ct", "pet": "pet"}
    found = {(case.case_id, case.group, case.site) for case in cases}
    assert found == {
        ("rome_p1_a", "p1", "rome"),
        ("rome_p1_b", "p1", "rome"),
        ("oslo_p2_a", "p2", "oslo"),
        ("oslo_p3_a", "p3", "oslo"),
    }
    labelled_sites = {case.site for case in cases if case.split is L}
    assert labelled_sites == {"rome", "oslo"}
    assert config.lesions == ("lesion",)


def test_import_folder_ignores_the_letter_case_of_folders(workplace: Path) -> None:
    for number in range(3):
        write_image(Path(f"data/Images/c{number}.nii.gz"))
        write_volume(Path(f"data/Ground_Truth/c{number}.nii.gz"), LABEL)
    sheet = read_cases(imported("folder", Path("data")))
    found = [(case.case_id, case.split) for case in sheet.cases]
    assert found == [("c0", L), ("c1", L), ("c2", L)]


def test_import_folder_reads_a_folder_for_each_case(workplace: Path) -> None:
    for number in range(3):
        folder = Path(f"data/ward/pat{number}")
        write_image(folder / "t1.nii.gz")
        write_image(folder / "t2.nii.gz")
        if number > 0:
            write_volume(folder / "seg.nii.gz", LABEL)
    sheet = read_cases(imported("folder", Path("data"), "--modalities", "t1=mr", "t2=mr"))
    splits = {case.case_id: case.split for case in sheet.cases}
    assert splits == {"ward_pat0": U, "ward_pat1": L, "ward_pat2": L}
    names = [path.name for path in sheet.of(L)[0].images]
    assert names == ["t1.nii.gz", "t2.nii.gz"]


def test_import_folder_reports_all_invalid_label_values(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number, value in enumerate((1.5, -1, 500, 1)):
        write_image(Path(f"data/c{number}.nii.gz"))
        label = LABEL.astype(np.float32) * value
        write_volume(Path(f"data/c{number}_seg.nii.gz"), label)
    assert run_import("folder", Path("data")) == 1
    message = capsys.readouterr().err
    for number, value in enumerate(("1.5", "-1", "500")):
        assert f"c{number}_seg.nii.gz: label value {value}, expected whole" in message


def test_import_folder_refuses_empty_labels(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(4):
        write_image(Path(f"data/c{number}.nii.gz"))
        write_volume(Path(f"data/c{number}_seg.nii.gz"), 0 * LABEL)
    assert run_import("folder", Path("data")) == 1
    assert "labels are 0 everywhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("(", "is not a regular expression"),
        ("case", "needs a group in parentheses"),
    ],
)
def test_import_refuses_an_invalid_pattern(
    pattern: str,
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["import", "folder", "data", "--output", "x.yaml", "--patient", pattern]
    with pytest.raises(SystemExit, match="2"):
        main(command)
    assert expected in capsys.readouterr().err


def test_import_refuses_an_unknown_modality(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_import("folder", Path("data"), "--modalities", "t1=xray") == 1
    assert "--modalities t1=xray: expected one of mr, ct" in capsys.readouterr().err


def test_import_folder_recognises_ct_by_the_value_of_air(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("lits"), data)
    Path("images").mkdir()
    Path("labels").mkdir()
    for path in data.rglob("*-[0-9].nii"):
        folder = "labels" if path.name.startswith("seg") else "images"
        path.rename(Path(folder) / f"case_{path.stem[-1]}.nii")
    shutil.rmtree(data)
    config = imported("folder", workplace)
    assert config.modalities == {"image": "ct"}


def test_import_bids_reads_common_modalities_and_sites(
    phantoms: Phantoms,
    workplace: Path,
) -> None:
    data = workplace / "data"
    shutil.copytree(phantoms("bids", "--modalities", "T1w", "FLAIR"), data)
    rows = ["participant_id\tsite"]
    for number in range(1, 7):
        rows.append(f"sub-00{number}\tclinic{number % 2}" if number < 6 else f"sub-00{number}\tn/a")
    (data / "participants.tsv").write_text("\n".join(rows) + "\n")
    copy("sub-001_T1w.nii.gz", "sub-001/anat/sub-001_acq-fast_T2w.nii.gz")(data)
    copy("sub-001_T1w.nii.gz", "sub-001/func/sub-001_task-rest_bold.nii.gz")(data)
    config = imported("bids", Path("data"))
    assert config.modalities == {"flair": "mr", "t1w": "mr"}
    sites = {case.site for case in read_cases(config).cases}
    assert sites == {"clinic0", "clinic1", ""}


@pytest.mark.parametrize(
    ("name", "modality"),
    [
        ("CT", "ct"),
        ("T1w", "mr"),
        ("FLAIR", "mr"),
        ("MRI", "mr"),
        ("PET", "pet"),
        ("SUV", "pet"),
        ("US", "us"),
        ("noNorm", "other"),
        ("ADC", "mr"),
        ("t2f", "mr"),
        ("fat-water", "other"),
    ],
)
def test_modality_of_recognises_common_names(name: str, modality: Modality) -> None:
    assert modality_of(name) == modality


def test_column_names_are_unique_and_not_reserved() -> None:
    assert column_names(["T1 w"]) == ["image"]
    assert column_names(["T1", "t1", "label"]) == ["t1_0", "t1_1", "label_2"]


def test_natural_orders_numbers_by_value() -> None:
    names = ["volume-10", "volume-2", "Volume-1"]
    assert sorted(names, key=natural) == ["Volume-1", "volume-2", "volume-10"]


def test_nnunet_refuses_a_file_in_two_formats(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    for part in ("imagesTr", "labelsTr"):
        path = sorted(Path("data", part).glob("*001*"))[0]
        nib.save(nib.load(path), path.with_name(path.name.removesuffix(".gz")))
    assert run_import("nnunet", Path("data")) == 1
    assert capsys.readouterr().err.count("exists twice") == 2


def test_nnunet_refuses_names_of_classes_that_become_equal(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    describe(labels={"background": 0, "左肾": 1, "右肾": 2})(Path("data"))
    assert run_import("nnunet", Path("data")) == 1
    assert "左肾 and 右肾 would both be called unnamed" in capsys.readouterr().err


def test_nnunet_states_that_students_learn_from_images_without_labels(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    for path in Path("data", "labelsTs").glob("*"):
        path.unlink()
    count = len(list(Path("data", "imagesTs").glob("*_0000.nii.gz")))
    assert count
    assert run_import("nnunet", Path("data")) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"imagesTs │ {count} images have no label and are unlabelled cases" in text


def test_nnunet_reads_a_description_of_windows(phantoms: Phantoms, workplace: Path) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    path = Path("data", "dataset.json")
    path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert run_import("nnunet", Path("data")) == 0


def test_nnunet_does_not_advise_to_delete_the_description(
    phantoms: Phantoms, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    Path("data", "dataset.json").write_text("{'labels': 1}")
    assert run_import("nnunet", Path("data")) == 1
    message = capsys.readouterr().err
    assert "dataset.json: is not readable as JSON" in message
    assert "Delete" not in message
