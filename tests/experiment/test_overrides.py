"""Which override is in force, and what is refused."""

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.stages import overrides_in_force

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.decisions import COLUMNS, Decision
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import Override, unused_overrides
from hstf.runtime.errors import HstfError

CASES = {"a", "b", "c"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "overrides"


def put(folder: Path, number: int, name: str) -> Path:
    path = folder / f"round_{number}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def decide(folder: Path, *rows: tuple[object, ...]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "decisions.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


def in_force(folder: Path, number: int) -> dict[str, Override]:
    return overrides_in_force(Config(overrides=str(folder), rounds=3), number, CASES)


def test_no_folder_means_no_override(folder: Path) -> None:
    assert in_force(folder, 3) == {}


def test_a_file_holds_from_its_round_on(folder: Path) -> None:
    path = put(folder, 2, "a.nii.gz")
    assert in_force(folder, 1) == {}
    assert (
        in_force(folder, 2) == in_force(folder, 3) == {"a": Override("a", 2, "replace", file=path)}
    )


def test_the_later_round_wins_whether_file_or_row(folder: Path) -> None:
    first, later = put(folder, 1, "a.nii.gz"), put(folder, 3, "b.nii.gz")
    decide(
        folder, (2, "a", "reject", "mo", "2026-01-02", "motion"), (1, "b", "accept", "mo", "", "")
    )
    assert in_force(folder, 1)["a"].file == first and in_force(folder, 1)["b"].action == "accept"
    rejection = Decision(2, "a", "reject", "mo", "2026-01-02", "motion")
    assert in_force(folder, 2)["a"] == Override("a", 2, "reject", (rejection,))
    assert in_force(folder, 3)["b"] == Override("b", 3, "replace", file=later)


@pytest.mark.parametrize("action", ["replace", "reject"])
def test_overrides_in_force_joins_a_row_with_its_file(folder: Path, action: str) -> None:
    path = put(folder, 1, "a.nii.gz")
    decide(folder, (1, "a", action, "mo", "", "leak"))
    found = in_force(folder, 1)["a"]
    assert found.action == action
    assert [decision.reviewer for decision in found.decisions] == ["mo"]
    assert found.file == (path if action == "replace" else None)


def test_overrides_in_force_refuses_an_accepted_and_corrected_label(folder: Path) -> None:
    put(folder, 1, "a.nii.gz")
    decide(folder, (1, "a", "accept", "mo", "", ""))
    with pytest.raises(HstfError, match="accepts the pseudo-label of a, but there is a corrected"):
        in_force(folder, 1)


def test_overrides_in_force_lists_all_problems(folder: Path) -> None:
    put(folder, 0, "a.nii.gz")
    put(folder, 4, "a.nii.gz")
    put(folder, 1, "stranger.nii.gz")
    put(folder, 1, "a.nrrd")
    put(folder, 1, "README.md")
    put(folder, 1, ".DS_Store")
    decide(
        folder,
        (1, "b", "replace", "mo", "", ""),
        (9, "a", "accept", "", "", ""),
        ("", "a", "accept", "", "", ""),
        (1, "nobody", "accept", "", "", ""),
        (1, "c", "approve", "", "", ""),
        (1, "c", "reject", "mo", "", "blurred", " cut"),
    )
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    text = str(error.value)
    for part in (
        "10 problems",
        "round_0: no such round",
        "round_4: no such round",
        "'stranger' is not an unlabelled case",
        "a.nrrd: is not a compressed NIfTI file",
        "round_1/b.nii.gz is missing",
        "line 3: round '9' is not one of 1 to 3",
        "line 4: round ''",
        "line 5: 'nobody' is not an unlabelled case",
        "'approve' is not one of accept, replace, reject",
        "line 7: has more cells than the header, the last are 'cut'",
    ):
        assert part in text, part


def test_overrides_in_force_names_corrections_of_no_experiment(folder: Path) -> None:
    put(folder, 1, "a.nii.gz")
    with pytest.raises(
        HstfError, match=r"overrides/round_1: belongs to no experiment.*overrides/mine"
    ):
        in_force(folder / "mine", 1)
    assert set(in_force(folder, 1)) == {"a"}


def test_layout_has_a_folder_of_overrides_for_each_experiment() -> None:
    assert Layout.of(Config(experiment="mine")).overrides == Path("overrides/mine")


def test_overrides_module_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'torch', 'nibabel', 'pandas'}"
    code = f"import sys, hstf.experiment.overrides; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_unused_overrides_names_corrections_that_are_not_used(folder: Path) -> None:
    put(folder, 1, "b.nii.gz")
    keys = {"overrides": str(folder), "rounds": 2}
    for method, is_unused in (("hstf", False), ("mean_teacher", True), ("supervised", True)):
        config = resolve_config(keys | {"method": method})
        given = {number: overrides_in_force(config, number, CASES) for number in (1, 2)}
        message = unused_overrides(config, given)
        assert (message is not None) == is_unused
        if message is not None:
            assert method in message and "corrections of b are not used" in message
    later = resolve_config(keys | {"rounds_overrides": {1: {"student": {"learns_from": "labels"}}}})
    assert (
        unused_overrides(later, {n: overrides_in_force(later, n, CASES) for n in (1, 2)}) is None
    ), "round 2 does"


# --- what has another name


@pytest.mark.parametrize(
    ("name", "correction"),
    [
        ("Round_1", "Rename the folder to round_1"),
        ("1", "Rename the folder to round_1"),
        ("01", "Rename the folder to round_1"),
        ("round1", "Rename the folder to round_1"),
        ("round_01", "Rename the folder to round_1"),
        ("round-1", "Rename the folder to round_1"),
        ("round 1", "Rename the folder to round_1"),
        ("ROUND_1", "Rename the folder to round_1"),
        ("r1", "Rename the folder to round_1"),
        ("round_1 (copy)", "are called round_1 to round_3"),
        ("round_one", "are called round_1 to round_3"),
        ("round_7", "no such round; rounds are round_1 to round_3"),
        ("corrected", "is not read here. Corrected labels are in the folders round_1 to round_3"),
    ],
)
def test_overrides_in_force_names_a_misnamed_folder(
    folder: Path, name: str, correction: str
) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "a.nii.gz").touch()
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    assert f"{folder / name}: " in str(error.value)
    assert correction in str(error.value)


@pytest.mark.parametrize(
    ("name", "correction"),
    [
        ("Decisions.csv", "rename this file"),
        ("decision.csv", "rename this file"),
        ("decisions (1).csv", "rename this file"),
        ("decisions.csv.txt", "rename this file"),
        ("Copy of decisions.csv", "rename this file"),
        ("reviews.csv", "rename this file"),
        ("decisions.xlsx", "is a spreadsheet. Save it as CSV"),
        ("DECISIONS.XLSX", "is a spreadsheet. Save it as CSV"),
        ("decisions.ods", "is a spreadsheet. Save it as CSV"),
        ("a.nii.gz", "belongs to no round. Move it to"),
        ("a.nii", "belongs to no round. Move it to"),
        ("round_1", "is a file. Corrected labels are in the folder round_1"),
        ("notes.txt", "is not read here"),
    ],
)
def test_overrides_in_force_names_a_misplaced_file(
    folder: Path, name: str, correction: str
) -> None:
    folder.mkdir()
    (folder / name).write_text("round,case_id,action,reviewer,date,reason\n")
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    assert f"{folder / name}: " in str(error.value)
    assert correction in str(error.value)


@pytest.mark.parametrize(
    ("name", "correction"),
    [
        ("a.nii", "is not a compressed NIfTI file. Save it in the editor as a.nii.gz"),
        ("a.nrrd", "is not a compressed NIfTI file. Save it in the editor as a.nii.gz"),
        ("a.NII.GZ", "is not read. Rename it to a.nii.gz"),
        ("A.nii.gz", "is not read. Rename it to a.nii.gz"),
        ("a.nii (1).gz", "'a' is not an unlabelled case of the case sheet. If it is the label"),
        ("a (1).nii.gz", "'a (1)' is not an unlabelled case of the case sheet. If it is the label"),
        ("a_new.nii.gz", "'a_new' is not an unlabelled case of the case sheet. If it is the label"),
        ("a.weight.nii.gz", "is a voxel weight"),
        (
            "abc.nii.gz",
            "'abc' is not an unlabelled case of the case sheet. If the case is in another split"
            " now, move the file out of",
        ),
        ("decisions.csv", "is not read here. The decisions of all rounds are in"),
    ],
)
def test_overrides_in_force_names_a_misnamed_label(
    folder: Path, name: str, correction: str
) -> None:
    path = put(folder, 1, name)
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    assert f"{path}: {correction}" in str(error.value)


def test_overrides_in_force_names_folders_and_links_in_place_of_files(folder: Path) -> None:
    (folder / "round_1" / "a.nii.gz").mkdir(parents=True)
    (folder / "round_1" / "b").mkdir()
    (folder / "round_1" / "c.nii.gz").symlink_to("missing.nii.gz")
    (folder / "decisions.csv").mkdir()
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    for part in (
        "a.nii.gz: is a folder; put the corrected label itself there",
        "b: is a folder. Put the corrected label itself there, as the file b.nii.gz",
        "c.nii.gz: is a link to a missing file",
        "decisions.csv: is a folder; decisions.csv is a table",
    ):
        assert part in str(error.value), part


def test_overrides_in_force_refuses_a_corrected_label_from_the_future(folder: Path) -> None:
    path = put(folder, 1, "a.nii.gz")
    dated = time.time() + 86400
    os.utime(path, (dated, dated))
    with pytest.raises(HstfError, match=r"a\.nii\.gz: is dated in the future .*touch "):
        in_force(folder, 1)


def test_overrides_in_force_refuses_a_file_in_place_of_the_folder(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(HstfError, match="is a file; the overrides of an experiment are a folder"):
        in_force(folder, 1)


def test_overrides_in_force_refuses_a_link_that_leads_nowhere(folder: Path) -> None:
    """The disk of the overrides is not connected: their corrections would be left out."""
    folder.symlink_to("disk")
    with pytest.raises(HstfError, match="is a link to disk, which cannot be found: connect"):
        in_force(folder, 1)


def test_overrides_in_force_ignores_what_systems_and_editors_leave(folder: Path) -> None:
    path = put(folder, 1, "a.nii.gz")
    for name in ("README.txt", ".DS_Store", "Thumbs.db", "~$decisions.xlsx", "decisions.csv~"):
        (folder / name).touch()
        put(folder, 1, name)
    assert in_force(folder, 1) == {"a": Override("a", 1, "replace", file=path)}


@pytest.mark.parametrize("name", ["Round_1", "1", "decisions.xlsx", "Decisions.csv", "a.nii.gz"])
def test_overrides_in_force_names_misnamed_overrides_of_no_experiment(
    folder: Path, name: str
) -> None:
    folder.mkdir()
    if name in ("Round_1", "1"):
        (folder / name).mkdir()
        (folder / name / "a.nii.gz").touch()
    else:
        (folder / name).touch()
    with pytest.raises(HstfError) as error:
        in_force(folder / "mine", 1)
    assert f"{folder / name}: " in str(error.value)


def test_overrides_in_force_names_a_folder_in_other_letter_case(tmp_path: Path) -> None:
    put(tmp_path / "Corrections" / "Mine", 1, "a.nii.gz")
    for folder in (tmp_path / "corrections" / "mine", tmp_path / "Corrections" / "mine"):
        with pytest.raises(HstfError, match=r"is not read\. Rename the folder to"):
            in_force(folder, 1)


# --- an experiment that was renamed


def in_force_of(workplace: Path, experiment: str) -> dict[str, Override]:
    config = Config(experiment=experiment, output=str(workplace / "results"), rounds=3)
    return overrides_in_force(config, 1, CASES)


def test_overrides_in_force_names_the_overrides_of_a_renamed_experiment(workplace: Path) -> None:
    put(workplace / "overrides" / "old", 1, "a.nii.gz")
    with pytest.raises(HstfError, match="overrides/new has no overrides, but overrides/old has"):
        in_force_of(workplace, "new")
    (workplace / "overrides" / "new").mkdir()
    with pytest.raises(HstfError, match="If the experiment was renamed, rename this folder too"):
        in_force_of(workplace, "new")
    (workplace / "overrides" / "new" / "README").touch()
    assert in_force_of(workplace, "new") == {}


def test_overrides_in_force_accepts_overrides_of_other_experiments(workplace: Path) -> None:
    put(workplace / "overrides" / "old", 1, "a.nii.gz")
    put(workplace / "overrides" / "common", 1, "a.nii.gz")
    (workplace / "results" / "old").mkdir(parents=True)
    (workplace / "results" / "third").mkdir()
    (workplace / "results" / "third" / "config.yaml").write_text(
        "experiment: third\noverrides: overrides/common\n"
    )
    assert in_force_of(workplace, "new") == {}


def test_overrides_in_force_names_the_folder_of_an_earlier_configuration(workplace: Path) -> None:
    """The key ``overrides`` was removed from the configuration."""
    put(workplace / "overrides" / "old", 1, "a.nii.gz")
    (workplace / "results" / "new").mkdir(parents=True)
    (workplace / "results" / "new" / "config.yaml").write_text("overrides: overrides/old\n")
    with pytest.raises(HstfError, match="overrides/new has no overrides, but overrides/old has"):
        in_force_of(workplace, "new")


def test_overrides_in_force_skips_folders_that_belong_to_another_user(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workplace / "overrides" / "old", 1, "a.nii.gz")
    scan = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "old":
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr("hstf.experiment.override_folder.os.scandir", refuse)
    assert in_force_of(workplace, "new") == {}
    with pytest.raises(HstfError, match=r"overrides/old: cannot be read \(Permission denied\)"):
        in_force_of(workplace, "old")
