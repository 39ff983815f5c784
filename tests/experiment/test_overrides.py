"""Which override is in force, and what is refused."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
from support.stages import overrides_in_force

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.layout import Layout
from hstf.experiment.overrides import COLUMNS, Override, unused_overrides
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
    assert in_force(folder, 2)["a"] == Override("a", 2, "reject", "mo", "2026-01-02", "motion")
    assert in_force(folder, 3)["b"] == Override("b", 3, "replace", file=later)


@pytest.mark.parametrize(
    ("action", "expected"), [("replace", "replace"), ("accept", "replace"), ("reject", "reject")]
)
def test_overrides_in_force_joins_a_row_with_its_file(
    folder: Path, action: str, expected: str
) -> None:
    path = put(folder, 1, "a.nii.gz")
    decide(folder, (1, "a", action, "mo", "", "leak"))
    found = in_force(folder, 1)["a"]
    assert (found.action, found.reviewer, found.reason) == (expected, "mo", "leak")
    assert found.file == (path if expected == "replace" else None)


def test_overrides_in_force_uses_the_last_of_two_rows(folder: Path) -> None:
    decide(folder, (1, "a", "reject", "", "", ""), (1, "a", "accept", "", "", ""))
    assert in_force(folder, 1)["a"].action == "accept"


def test_overrides_in_force_accepts_commas_and_extra_columns(folder: Path) -> None:
    folder.mkdir()
    (folder / "decisions.csv").write_text(
        '\ufeffround,case_id,action,reviewer,date,reason,ticket\n1,a,reject,mo,,"blurred, cut",7\n',
        "utf-8",
    )
    assert in_force(folder, 1)["a"].reason == "blurred, cut"


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
        (1, "c", "reject"),
        (1, "c", "reject", "mo", "", "blurred", " cut"),
    )
    with pytest.raises(HstfError) as error:
        in_force(folder, 1)
    text = str(error.value)
    for part in (
        "11 problems",
        "round_0: no such round",
        "round_4: no such round",
        "'stranger' is not an unlabelled case",
        "a.nrrd: not a label",
        "round_1/b.nii.gz is missing",
        "line 3: round '9' is not one of 1 to 3",
        "line 4: round ''",
        "line 5: 'nobody' is not an unlabelled case",
        "'approve' is not one of accept, replace, reject",
        "line 7: does not have the 6 cells",
        "line 8: does not have the 6 cells",
    ):
        assert part in text, part


def test_overrides_in_force_refuses_semicolons(folder: Path) -> None:
    folder.mkdir()
    (folder / "decisions.csv").write_text("round;case_id;action\n1;a;accept\n")
    with pytest.raises(HstfError, match="lacks the columns round, case_id"):
        in_force(folder, 1)


def test_overrides_in_force_refuses_bytes_that_are_no_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "decisions.csv").write_bytes(b"round,case_id\n\xff\xfe,a\n")
    with pytest.raises(HstfError, match="not readable as comma-separated UTF-8"):
        in_force(folder, 1)


def test_overrides_in_force_names_corrections_of_no_experiment(folder: Path) -> None:
    put(folder, 1, "a.nii.gz")
    with pytest.raises(
        HstfError, match=r"overrides/round_1: belongs to no experiment.*overrides/mine"
    ):
        in_force(folder / "mine", 1)
    assert set(in_force(folder, 1)) == {"a"}


def test_layout_has_a_folder_of_overrides_for_each_experiment() -> None:
    assert Layout.of(Config(experiment="mine")).overrides == Path("overrides/mine")


def test_overrides_in_force_names_a_missing_header(folder: Path) -> None:
    decide(folder)
    (folder / "decisions.csv").write_text("1,a,reject,mo,2026-01-02,motion\n")
    with pytest.raises(HstfError, match="its first line lacks the columns round, case_id"):
        in_force(folder, 1)


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
