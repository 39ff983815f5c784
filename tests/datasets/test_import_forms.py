"""Importers: the forms that data of a kind come in (labels, regions, formats, sites, sessions), and what is made of them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.import_files import L, T, U, copy, describe, imported, problems, rename
from support.workspace import ROOT

from hstf.cli import main
from hstf.config.load import load_config
from hstf.config.regions import region_problems
from hstf.datasets.importers.brats import name_labels
from hstf.datasets.importers.dataset import column_names, modality_of, natural
from hstf.datasets.importers.nnunet import read_labels
from hstf.datasets.importers.write import named_regions
from hstf.experiment.cases import read_cases
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv


def test_the_odd_label_of_brats_2020(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("brats"), "data")
    rename("BraTS20_Training_002_seg*", "W39_1998.09.19_Segm.nii.gz")(Path("data"))
    config = imported("brats", Path("data"))
    (case,) = (c for c in read_cases(config).cases if c.case_id == "BraTS20_Training_002")
    assert case.reference is not None


@pytest.mark.parametrize(
    ("values", "recent", "enhancing", "cavity"),
    [({0, 1, 2, 4}, False, 4, None), ({0, 1, 2, 3}, True, 3, None), ({0, 1, 2}, True, 3, None),
     ({0, 1, 2}, False, 4, None), ({0, 1, 2, 3, 4}, True, 3, 4)],
)  # fmt: skip
def test_labels_of_brats(
    values: set[int], recent: bool, enhancing: int, cavity: int | None
) -> None:
    labels = name_labels(values, recent)
    assert labels.values["enhancing"] == enhancing
    assert labels.values.get("resection_cavity") == cavity
    assert labels.regions["tumour_core"] == (1, enhancing)
    assert labels.regions.get("resection_cavity") == ((cavity,) if cavity else None)
    assert not region_problems(named_regions(labels), list(labels.values)[1:])


def test_timepoints_and_sites_of_brats(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("brats2023"), "data")
    for path in sorted(Path("data").rglob("BraTS-GLI-00001-000*"), key=lambda p: -len(p.parts)):
        path.rename(path.with_name(path.name.replace("00001-000", "00000-001")))
    sheet = read_cases(imported("brats", Path("data")))
    groups = {case.case_id: case.group for case in sheet.cases}
    assert groups["BraTS-GLI-00000-000"] == groups["BraTS-GLI-00000-001"] == "BraTS-GLI-00000"


def test_regions_and_ignore_label_of_nnunet(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    regions = {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "core": [2, 3],
        "enhancing": 3,
        "ignore": 4,
    }
    describe(labels=regions, regions_class_order=[1, 2, 3])(Path("data"))
    config = imported("nnunet", Path("data"))
    assert config.labels == {
        "background": 0, "whole_tumor_rest": 1, "core_rest": 2, "enhancing": 3, "ignore": 4
    }  # fmt: skip
    assert config.ignore_value == 4
    assert config.structures == {"whole_tumor": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}
    assert config.lesions == ("whole_tumor",)


def test_regions_of_nnunet_that_cannot_tell_classes_apart(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    regions = {"background": 0, "liver": [1, 2, 3, 4], "lesion": 4}
    describe(labels=regions, regions_class_order=[1, 4])(Path("data"))
    config = imported("nnunet", Path("data"))
    assert config.regions == {} and config.lesions == ("lesion",)
    assert config.labels == {
        "background": 0,
        "liver_rest": 1,
        "liver_rest_2": 2,
        "liver_rest_3": 3,
        "lesion": 4,
    }
    told = " ".join(Path("config/x.yaml").read_text().replace("\n#", " ").split())
    assert (
        "the classes liver_rest, liver_rest_2 and liver_rest_3 are in the same regions (liver)"
        in told
    )


def test_labels_of_nnunet() -> None:
    source = Path("dataset.json")
    assert read_labels({"0": "background", "1": "liver"}, source).values == {
        "background": 0,
        "liver": 1,
    }
    both = read_labels({"background": 0, "whole": [1, 2, 3], "core": [3]}, source).values
    assert both == {"background": 0, "whole_rest": 1, "whole_rest_2": 2, "core": 3}
    with pytest.raises(HstfError, match="labels is"):
        read_labels([], source)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_nnunet_in_other_formats(
    suffix: str, phantoms: Callable[..., Path], workplace: Path
) -> None:
    shutil.copytree(phantoms("nnunet"), "data")
    for path in Path("data").rglob("*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", suffix))
        path.unlink()
    describe(file_ending=suffix)(Path("data"))
    config = imported("nnunet", Path("data"))
    assert problems(config) == []
    assert read_cases(config).cases[0].images[0].suffix == suffix


def test_a_flat_folder_with_modalities_patients_and_sites(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("rome_p1_a", "rome_p1_b", "oslo_p2_a", "oslo_p3_a"):
        for kind in ("ct", "pet", "seg"):
            data = rng.integers(0, 2 if kind == "seg" else 900, (8, 8, 8)).astype(np.int16)
            nib.save(nib.Nifti1Image(data, np.eye(4)), f"{name}_{kind}.nii.gz")
    config = imported("folder", workplace, "--modalities", "ct", "pet", "--patient", r"_(p\d)_", "--site", r"^([a-z]+)_",
                      "--labels", "lesion=1", "--labelled", "2")  # fmt: skip
    cases = read_cases(config).cases
    assert config.modalities == {"ct": "ct", "pet": "pet"}
    assert {(case.case_id, case.group, case.site) for case in cases} == {
        ("rome_p1_a", "p1", "rome"), ("rome_p1_b", "p1", "rome"), ("oslo_p2_a", "p2", "oslo"), ("oslo_p3_a", "p3", "oslo")
    }  # fmt: skip
    assert {case.site for case in cases if case.split is L} == {"rome", "oslo"}
    assert config.lesions == ("lesion",)


def several_sites() -> None:
    """Three patients of rome and four of oslo; the last of each has no label."""
    rng = np.random.default_rng(0)
    for name in ("rome_p1", "rome_p2", "rome_p3", "oslo_p4", "oslo_p5", "oslo_p6", "oslo_p7"):
        endings = [""] if name in ("rome_p3", "oslo_p7") else ["", "_seg"]
        for ending in endings:
            data = rng.integers(0, 2 if ending else 900, (8, 8, 8)).astype(np.int16)
            nib.save(nib.Nifti1Image(data, np.eye(4)), f"{name}{ending}.nii.gz")


SITES = ("--modalities", "mr", "--labels", "organ=1", "--site", r"^([a-z]+)_")


def write_scan(path: Path, values: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = (
        np.random.default_rng(len(str(path))).random((8, 8, 8), np.float32)
        if values is None
        else values
    )
    nib.save(nib.Nifti1Image(data, np.eye(4)), path)


LABEL = np.zeros((8, 8, 8), np.uint8)
LABEL[2:5, 2:5, 2:5] = 1


def test_folders_of_any_letter_case_and_a_folder_for_each_case(workplace: Path) -> None:
    for k in range(3):
        write_scan(Path(f"large/Images/c{k}.nii.gz"))
        write_scan(Path(f"large/Ground_Truth/c{k}.nii.gz"), LABEL)
        for name in ("t1", "t2", *(["seg"] if k else [])):
            write_scan(Path(f"each/ward/pat{k}/{name}.nii.gz"), LABEL if name == "seg" else None)
    large = read_cases(imported("folder", Path("large")))
    assert [(case.case_id, case.split) for case in large.cases] == [(f"c{k}", L) for k in range(3)]
    each = read_cases(imported("folder", Path("each"), "--modalities", "t1=mr", "t2=mr", "--force"))
    assert {case.case_id: case.split for case in each.cases} == {
        "ward_pat0": U,
        "ward_pat1": L,
        "ward_pat2": L,
    }
    assert [path.name for path in each.of(L)[0].images] == ["t1.nii.gz", "t2.nii.gz"]


def test_labels_that_cannot_be_are_all_named(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for k, value in enumerate((1.5, -1, 500, 1)):
        write_scan(Path(f"data/c{k}.nii.gz"))
        write_scan(Path(f"data/c{k}_seg.nii.gz"), LABEL.astype(np.float32) * value)
    command = ["import", "folder", "data", "--output", "config/x.yaml"]
    assert main(command) == 1
    told = capsys.readouterr().err
    assert all(
        f"c{k}_seg.nii.gz: label value {v}, expected whole" in told
        for k, v in enumerate(("1.5", "-1", "500"))
    )
    for k in range(4):
        write_scan(Path(f"data/c{k}_seg.nii.gz"), 0 * LABEL)
    assert main(command) == 1
    assert "labels are 0 everywhere" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pattern", "told"),
    [("(", "is no regular expression"), ("case", "needs a group in parentheses")],
)
def test_a_pattern_that_finds_no_patient_is_refused(
    pattern: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["import", "folder", "data", "--output", "x.yaml", "--patient", pattern])
    assert told in capsys.readouterr().err


def test_a_site_is_left_out_for_testing(workplace: Path) -> None:
    several_sites()
    config = imported("folder", workplace, *SITES, "--labelled", "2", "--test-site", "rome")
    cases = read_cases(config).cases
    assert {case.case_id for case in cases if case.split is T} == {"rome_p1", "rome_p2"}
    assert {case.site for case in cases if case.split is not T} == {"oslo"}
    assert len(cases) == 6, "nothing is known of the third scan of rome"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["bergen"], "no case is of it. Sites are oslo, rome"),
        (["rome", "--test", "1"], "leave --test and --split out"),
    ],
)
def test_sites_that_cannot_be_left_out(
    workplace: Path, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    several_sites()
    command = [
        "import",
        "folder",
        str(workplace),
        "--output",
        "config/x.yaml",
        *SITES,
        "--test-site",
        *options,
    ]
    assert main(command) == 1
    assert told in capsys.readouterr().err


def test_ct_is_told_by_its_air(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("lits"), "data")
    Path("images").mkdir()
    Path("labels").mkdir()
    for path in Path("data").rglob("*-[0-9].nii"):
        target = Path("labels" if path.name.startswith("seg") else "images")
        path.rename(target / f"case_{path.stem[-1]}.nii")
    shutil.rmtree("data")
    assert imported("folder", workplace).modalities == {"image": "ct"}


def test_a_bids_session_with_two_modalities(phantoms: Callable[..., Path], workplace: Path) -> None:
    shutil.copytree(phantoms("bids", "--modalities", "T1w", "FLAIR"), "data")
    Path("data/participants.tsv").write_text(
        "participant_id\tsite\n" + "".join(f"sub-00{k}\tclinic{k % 2}\n" for k in range(1, 7))
    )
    copy("sub-001_T1w.nii.gz", "sub-001/anat/sub-001_acq-fast_T2w.nii.gz")(Path("data"))
    copy("sub-001_T1w.nii.gz", "sub-001/func/sub-001_task-rest_bold.nii.gz")(Path("data"))
    config = imported("bids", Path("data"))
    assert config.modalities == {"flair": "mr", "t1w": "mr"}
    assert {case.site for case in read_cases(config).cases} == {"clinic0", "clinic1"}


def test_thick_slices_are_not_turned_out_of_their_plane(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    config = imported("acdc", phantoms("acdc"))
    assert config.student.augmentation.rotation_degrees == (0, 0, 15)
    assert config.warmup.augmentation.rotation_degrees == (0, 0, 15)


def test_data_below_the_working_directory_are_named_relative_to_the_sheet(
    phantoms: Callable[..., Path], workplace: Path
) -> None:
    imported("acdc", phantoms("acdc"))
    assert Path(read_csv(Path("config/x/cases.csv"))[0]["image"]).is_absolute()
    Path("data").symlink_to(phantoms("acdc"))  # as data often are
    config = imported("acdc", Path("data"), "--force")
    assert read_csv(Path("config/x/cases.csv"))[0]["image"].startswith(
        "../../data/training/patient"
    )
    assert problems(config) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [("CT", "ct"), ("T1w", "mr"), ("FLAIR", "mr"), ("MRI", "mr"), ("PET", "pet"), ("SUV", "pet"), ("US", "us"),
     ("noNorm", "other"), ("ADC", "mr"), ("t2f", "mr"), ("fat-water", "other")],
)  # fmt: skip
def test_kinds_of_modalities(name: str, kind: str) -> None:
    assert modality_of(name) == kind


def test_columns_are_names_of_their_own() -> None:
    assert column_names(["T1 w"]) == ["image"]
    assert column_names(["T1", "t1", "label"]) == ["t1_0", "t1_1", "label_2"]


def test_natural_order() -> None:
    assert sorted(["volume-10", "volume-2", "Volume-1"], key=natural) == [
        "Volume-1",
        "volume-2",
        "volume-10",
    ]


@pytest.mark.parametrize(
    ("layout", "labelled"), [("brats", "config/brats.yaml"), ("lits", "config/lits.yaml")]
)
def test_ready_configurations_suit_their_data(
    layout: str,
    labelled: str,
    phantoms: Callable[..., Path],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sheet that the import writes for a configuration of the repository makes it run."""
    ready = ROOT / labelled
    shutil.copytree(
        ready.parent, "config", ignore=lambda folder, names: [n for n in names if "." not in n]
    )
    sheet = load_config(Path(labelled)).cases
    assert f"--output {labelled} --sheet {sheet}" in ready.read_text()
    arguments = [
        "import",
        layout,
        str(phantoms(layout)),
        "--output",
        labelled,
        "--sheet",
        sheet,
        "--test",
        "1",
    ]
    assert main(arguments) == 0
    assert problems(load_config(Path(labelled))) == []
    assert Path(labelled).read_text() == ready.read_text()
    assert f"--config cases={sheet}" in capsys.readouterr().out


def test_a_sheet_is_not_written_for_a_configuration_of_other_data(
    phantoms: Callable[..., Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ready = ROOT / "config" / "brats.yaml"
    arguments = [
        "import",
        "brats",
        str(phantoms("brats2023")),
        "--output",
        str(ready),
        "--sheet",
        "s.csv",
    ]
    assert main(arguments) == 1
    told = capsys.readouterr().err
    assert (
        "modality flair is not there" in told and "label value 3 (enhancing) is not known" in told
    )
    assert not Path("s.csv").exists()
