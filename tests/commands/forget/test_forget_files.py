"""``hstf forget`` removes all files of a case, and nothing of other cases."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.forgotten_files import CASES, all_files, files_of_case

from hstf.commands.forget import forget
from hstf.experiment import case_files
from hstf.experiment.case_files import find_traces
from hstf.experiment.review_tables import SET_ASIDE, SUGGEST
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text


@pytest.mark.parametrize("case", CASES)
def test_forget_removes_all_files_of_the_case_and_no_others(root: Path, case: str) -> None:
    before = all_files()
    assert forget(case, root, is_confirmed=True)
    expected = {f"{root}/{name}" for name in files_of_case(case)}
    expected |= {f"overrides/round_1/{case}.nii.gz"}
    expected |= {f"{root}/report/report.html", f"{root}/report/calibration.png"}
    expected |= {f"{root}/.check_cache.json"}
    assert before - all_files() == expected
    left = find_traces(root, case)
    assert left.files == [] and left.pictures == []


def test_forget_finds_cases_of_a_comparison(root: Path) -> None:
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    for name in files_of_case("p1"):
        write_text(cell / name, "x")
    forget("p1", root, is_confirmed=True)
    assert all_files(cell) == {f"{cell}/config.yaml"}


def suggest(folder: Path, cases: Sequence[str], like: str = "") -> Path:
    """Write what ``hstf suggest`` writes, with all ``cases`` suggested and set aside."""
    rows = [{"rank": rank, "case_id": case, "like": like} for rank, case in enumerate(cases, 1)]
    SUGGEST.write(folder / "suggest" / "suggest.csv", rows)
    aside = [{"case_id": case, "action": "skip", "round": 1} for case in cases]
    SET_ASIDE.write(folder / "suggest" / "set_aside.csv", aside)
    return folder / "suggest"


def test_forget_removes_suggestions_and_the_row_of_the_case_in_the_list_set_aside(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = suggest(root, ["p1", "p10", "p2"])
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    suggest(cell, ["p1"])
    removed = forget("p1", root, is_confirmed=True)
    assert {folder / "suggest.csv", cell / "suggest" / "suggest.csv"} <= set(removed)
    assert not (folder / "suggest.csv").exists()
    left = SET_ASIDE.records(folder / "set_aside.csv")
    assert [row["case_id"] for row in left] == ["p10", "p2"]
    assert SET_ASIDE.records(cell / "suggest" / "set_aside.csv") == []
    printed = capsys.readouterr().out
    assert f"which are removed; `hstf suggest` writes them again (2):\n  {folder}" in printed
    assert f"from which its row is removed (2):\n  {folder}/set_aside.csv (line 2)" in printed
    assert f"The row of the case was removed from {folder}/set_aside.csv, {cell}" in printed
    report, _, _ = printed.partition("files and folders were removed")
    _, _, of_next_run = report.partition("which the next run writes again")
    assert of_next_run and "suggest/" not in of_next_run
    traces = find_traces(root, "p1")
    assert traces.suggestions == [] and traces.set_aside == []


def test_forget_removes_suggestions_that_are_like_the_case_and_no_others(root: Path) -> None:
    folder = suggest(root, ["p10"], like="p1")
    forget("p2", root, is_confirmed=True)
    assert (folder / "suggest.csv").exists()
    forget("p1", root, is_confirmed=True)
    assert not (folder / "suggest.csv").exists()
    assert [row["case_id"] for row in SET_ASIDE.records(folder / "set_aside.csv")] == ["p10"]


def test_forget_finds_a_case_that_is_only_set_aside(root: Path) -> None:
    folder = suggest(root, ["gone", "p10"])
    (folder / "suggest.csv").unlink()
    assert forget("gone", root, is_confirmed=True) == []
    assert [row["case_id"] for row in SET_ASIDE.records(folder / "set_aside.csv")] == ["p10"]


def test_forget_removes_a_decision_that_was_not_completely_saved(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pending = Path("overrides/.history/pending.json")
    write_text(pending, json.dumps({"case_id": "p1"}))
    forget("p10", root, is_confirmed=True)
    assert pending.exists()
    forget("p1", root, is_confirmed=True)
    assert not pending.exists()
    assert "not completely saved, which are removed" in capsys.readouterr().out


def test_find_traces_looks_into_links_and_an_experiment_called_teacher(root: Path) -> None:
    outside = Path("disk").resolve()
    shutil.move(root / "round_1", outside)
    (root / "round_1").symlink_to(outside)
    (outside / "loop").symlink_to(root.resolve())
    renamed = root.rename(root.with_name("teacher"))
    (outside / "loop").unlink()
    (outside / "loop").symlink_to(renamed.resolve())
    tables = [rows.table for rows in find_traces(renamed, "p1").tables]
    tables += [rows.table for rows in find_traces(renamed, "p1").other_tables]
    assert renamed / "round_1" / "evaluation" / "cases.csv" in tables
    assert renamed / "logs" / "check.log" in find_traces(renamed, "p1").mentions


@pytest.mark.parametrize(
    "pattern", ["preprocessed/.records", "../cases.csv", "../{case}_t1.nii.gz"]
)
def test_forget_refuses_targets_that_do_not_belong_to_the_case(
    root: Path, monkeypatch: pytest.MonkeyPatch, pattern: str
) -> None:
    before = all_files()
    monkeypatch.setattr(case_files, "OVERRIDES", (pattern,))
    monkeypatch.setattr(case_files, "CASE_FILES", ("preprocessed/{case}", pattern))
    with pytest.raises(HstfError, match="does not belong to case p1"):
        forget("p1", root, is_confirmed=True)
    assert all_files() == before


def test_forget_removes_links_and_not_what_they_point_to(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "image.b2nd"
    write_text(outside, "of somebody else")
    folder = root / "preprocessed" / "p1"
    (folder / "image.b2nd").unlink()
    folder.rmdir()
    folder.symlink_to(outside.parent)
    forget("p1", root, is_confirmed=True)
    assert not folder.is_symlink()
    assert outside.is_file()
