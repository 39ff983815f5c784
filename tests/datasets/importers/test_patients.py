"""Patients that names show: the rule is stated, and doubtful results are questioned."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.folder_files import found, numbered, write, write_pairs
from support.import_files import U, imported, run_import, splits

from hstf.datasets.importers.dataset import DataSet, FoundCase, Image
from hstf.datasets.importers.options import PATIENT, Options
from hstf.datasets.importers.patients import assign_patients
from hstf.experiment.cases import Split, read_cases
from hstf.runtime.files import read_csv, write_csv


def grouped(names: Sequence[str], options: Options | None = None) -> DataSet:
    dataset = DataSet("", {}, lambda values: None)  # type: ignore[arg-type,return-value]
    for name in names:
        dataset.add(FoundCase(name, {"image": Image(Path(name))}))
    assign_patients(dataset, options or Options(), {})
    return dataset


def patients(names: Sequence[str], options: Options | None = None) -> list[str]:
    return [case.patient for case in grouped(names, options).cases]


def expand(pattern: str, count: int = 4) -> list[str]:
    return [pattern.format(number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("00{}_baseline", "00{}_followup"),
        ("00{}_baseline", "00{}_follow-up"),
        ("00{}", "00{}_fu1"),
        ("AB{}-pre", "AB{}-post"),
        ("P{}_visit_1", "P{}_visit_2"),
        ("P{}_m0", "P{}_m12"),
        ("tp1_P{}", "tp2_P{}"),
        ("P{}_20200131", "P{}_20210204"),
        ("P{}_2020-01-31_ct", "P{}_2021-02-04_ct"),
        ("P{}_scan1", "P{}_scan2"),
        ("smith{}_pre_op", "smith{}_post_op"),
        ("patient{}_frame01", "patient{}_frame12"),
        ("sub-{}_ses-a_T1w", "sub-{}_ses-b_T1w"),
        ("ward_pat{}", "ward_pat{}_late"),
    ],
)
def test_assign_patients_joins_the_scans_of_a_patient(first: str, second: str) -> None:
    names = [*expand(first), *expand(second)]
    dataset = grouped(names)
    found = [case.patient for case in dataset.cases]
    assert found[:4] == found[4:]
    assert len(set(found)) == 4
    assert any("→" in note.why for note in dataset.rules)
    assert dataset.questions == []


@pytest.mark.parametrize(
    "pattern",
    [
        "M0{}_scanA",
        "ABC_V0{}",
        "dept1_scan{}",
        "case_{}",
        "adapt{}",
        "rupt{}_a",
        "study_scan{}",
        "img000{}",
        "script{}",
    ],
)
def test_assign_patients_keeps_other_names_apart(pattern: str) -> None:
    names = expand(pattern)
    assert patients(names) == names


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["dept1_scanA", "dept1_scanB", "dept2_scanA", "dept2_scanB"], "dept1_scanA and dept1_s"),
        (["dept1_scanA", "dept1_scanB", "dept1_scanC"], "dept1_scanA and dept1_scanB"),
        ([*expand("P{}_0001"), *expand("P{}_0002")], "P1_0001 and P1_0002"),
        ([*expand("00{}_a"), *expand("00{}_b")], "001_a and 001_b"),
        ([*expand("X{}_1"), *expand("X{}_2")], "X1_1 and X1_2"),
        ([*expand("left_P{}"), *expand("right_P{}")], "left_P1 and right_P1"),
        (["pat1_a", "pat1_b", "pat1_c"], "Do all 3 scans show one patient, pat1?"),
        ([*(f"sub-1_{n}" for n in range(20)), "sub-2_1"], "Do 20 of 21 scans show one patient"),
    ],
)
def test_assign_patients_questions_doubtful_patients(names: list[str], expected: str) -> None:
    questions = grouped(names).questions
    assert len(questions) == 1
    assert expected in questions[0]
    assert "--patient" in questions[0]


@pytest.mark.parametrize(
    "names",
    [
        expand("case_{}"),
        expand("img000{}"),
        [*expand("c{}"), *expand("u{}"), *expand("t{}")],
        [*expand("rome_0{}"), *expand("oslo_0{}")],
        expand("LUNG1-00{}"),
        expand("hippocampus_{}"),
    ],
)
def test_assign_patients_does_not_question_plain_names(names: list[str]) -> None:
    assert grouped(names).questions == []


def test_assign_patients_uses_the_pattern_of_the_user() -> None:
    names = ["001_baseline", "001_followup", "002_baseline"]
    assert patients(names, Options(patient="")) == names
    options = Options(patient=r"^(\d+)")
    assert patients(names, options) == ["001", "001", "002"]
    dataset = grouped([*names, "other"], options)
    assert "--patient does not match 1 names: other" in dataset.questions[0]


def test_assign_patients_questions_a_patient_in_two_splits() -> None:
    dataset = DataSet("", {}, lambda values: None)  # type: ignore[arg-type,return-value]
    for name, split in (("pat1_a", None), ("pat1_b", Split.TEST), ("pat2_a", None)):
        dataset.add(FoundCase(name, {"image": Image(Path(name))}, official=split))
    assign_patients(dataset, Options(), {})
    assert "1 patients occur among the test cases and elsewhere: pat1" in dataset.questions[0]


def test_pattern_of_patients_needs_the_start_of_a_word() -> None:
    options = Options(patient=PATIENT)
    assert options.patient_of("dept1_scanA") == ""
    assert options.patient_of("ward_pt1_scanA") == "pt1"
    assert options.patient_of("sub-verse004_ct") == "sub-verse004"


def test_import_shows_patients_and_the_question(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for time in ("baseline", "followup"):
        write_pairs(
            Path("d"), numbered(f"images/00{{}}_{time}.nii.gz", f"seg/00{{}}_{time}.nii.gz")
        )
    config = imported("folder", Path("d"))
    output = capsys.readouterr().out
    assert "6 cases of 3 patients" in output
    assert "001_baseline, 001_followup → 001" in output
    assert {case.group for case in read_cases(config).cases} == {"001", "002", "003"}


def test_import_writes_questions_into_the_configuration(workplace: Path) -> None:
    for name in "ab":
        write_pairs(Path("d"), numbered(f"images/P{{}}{name}.nii.gz", f"seg/P{{}}{name}.nii.gz"))
    imported("folder", Path("d"))
    comments = Path("config/x.yaml").read_text().replace("\n# ", " ")
    assert "Question: Do P1a and P1b show one patient?" in comments


def test_import_explains_that_all_scans_show_one_patient(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_pairs(Path("d"), numbered("images/pat1_{}.nii.gz", "seg/pat1_{}.nii.gz"))
    assert run_import("folder", Path("d")) == 1
    message = capsys.readouterr().err
    assert "1 labelled patients, expected at least 2" in message
    assert "Do all 3 scans show one patient, pat1?" in message


def test_import_keeps_the_group_of_a_sheet(
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The column ``group`` counts more than what names show."""
    for time in ("a", "b"):
        write_pairs(
            Path("d"), numbered(f"images/pat{{}}_{time}.nii.gz", f"seg/pat{{}}_{time}.nii.gz")
        )
    imported("folder", Path("d"))
    rows = read_csv(Path("config/x/cases.csv"))
    people = {"pat1_a": "anna", "pat1_b": "bert", "pat2_a": "anna"}
    for row in rows:
        row["group"] = people.get(row["case_id"], row["group"])
    write_csv(Path("sheet.csv"), rows, list(rows[0]))
    shutil.rmtree("config")
    config = imported("folder", Path("d"), "--split", "sheet.csv")
    groups = {case.case_id: case.group for case in read_cases(config).cases}
    assert groups == people | {"pat2_b": "pat2", "pat3_a": "pat3", "pat3_b": "pat3"}
    assert "3 scans have the group of sheet.csv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("images/P{}/10{}{}.nii.gz", {"P1", "P2"}),
        ("images/batch7/P{}/10{}{}.nii.gz", {"P1", "P2"}),
        ("P{}/2020-0{}-0{}/images/scan.nii.gz", {"P1", "P2"}),
        ("images/pat0{}/10{}{}.nii.gz", {"pat01", "pat02"}),
        ("site{}/images/10{}{}.nii.gz", {"1011", "1012", "1021", "1022"}),
    ],
)
def test_find_takes_the_folder_of_a_patient(
    path: str,
    expected: set[str],
    tmp_path: Path,
) -> None:
    for patient in (1, 2):
        for number in (1, 2):
            image = path.format(patient, patient, number)
            write(tmp_path / image, "image")
            write(tmp_path / image.replace("images", "labels"), "label")
    dataset = found(tmp_path)
    assert {case.patient for case in dataset.cases} == expected


def test_import_takes_a_folder_of_a_patient_with_several_scans_as_one_patient(
    workplace: Path,
) -> None:
    for number in (1, 2, 3):
        for name in ("scan1", "scan2"):
            write(Path(f"d/P{number}/{name}.nii.gz"), "image")
            write(Path(f"d/P{number}/{name}_seg.nii.gz"), "label")
    config = imported("folder", Path("d"))
    assert {case.group for case in read_cases(config).cases} == {"P1", "P2", "P3"}


def test_import_nnunet_joins_the_frames_of_a_patient(
    phantoms: Callable[..., Path],
    workplace: Path,
) -> None:
    shutil.copytree(phantoms("nnunet"), "d")
    for path in Path("d").rglob("phantom_00[01]*"):
        number = path.name[10]
        path.rename(path.with_name(path.name.replace(f"00{number}", f"001_frame0{number}", 1)))
    config = imported("nnunet", Path("d"), "--patient", r"(phantom_\d+)")
    groups = {case.case_id: case.group for case in read_cases(config).cases}
    assert groups["phantom_001_frame00"] == groups["phantom_001_frame01"] == "phantom_001"


def test_import_nnunet_reads_images_without_labels(
    phantoms: Callable[..., Path],
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Folders such as imagesUn, which nnU-Net itself does not have, hold unlabelled images."""
    shutil.copytree(phantoms("nnunet"), "d")
    before = splits(imported("nnunet", Path("d")))
    write(Path("d/imagesUn/u_1_0000.nii.gz"), "image")
    write(Path("d/elsewhere/u_2_0000.nii.gz"), "image")
    after = splits(imported("nnunet", Path("d"), "--force"))
    assert after[U] == before[U] + 1
    assert "1 volumes, for example elsewhere/u_2_0000.nii.gz" in capsys.readouterr().out


def test_assign_patients_ignores_the_letter_case_of_patients() -> None:
    names = ["Patient01_pre", "patient01_post", "Patient02_pre", "patient02_post"]
    assert patients(names) == ["Patient01", "Patient01", "Patient02", "Patient02"]
