"""``hstf forget`` asks first, refuses names of no case, and waits for no other run."""

import io
import sys
from pathlib import Path

import pytest
from support.forgotten_files import all_files
from support.processes import in_another_process

from hstf.cli import main
from hstf.commands.forget import _confirms, forget
from hstf.experiment.case_files import find_traces
from hstf.runtime.errors import HstfError

NO_CASES = ["", " ", ".", "..", "../..", "p1/", "/", "p1/../p2", "*", "p?", "p1\n", ".p1", "-p1"]


@pytest.mark.parametrize("case", [*NO_CASES, "p1.", "p1.weight", "p1.nii.gz", "p" * 129])
def test_forget_refuses_names_that_no_case_can_have(root: Path, case: str) -> None:
    before = all_files(Path("..").resolve())
    with pytest.raises(HstfError, match="is not the name of a case"):
        forget(case, root, is_confirmed=True)
    with pytest.raises(HstfError, match="is not the name of a case"):
        find_traces(root, case)
    assert all_files(Path("..").resolve()) == before


def test_confirms_never_accepts_an_empty_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO("\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert not _confirms("", 1)


@pytest.mark.parametrize("answer", ["", "y", "p10", "p1"])
def test_forget_asks_before_it_removes(
    root: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    before = all_files()
    terminal = io.StringIO(f"{answer}\n")
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", terminal)
    assert main(["forget", "p1", "--results", str(root)]) == 0
    assert (all_files() == before) is (answer != "p1")


def test_forget_without_a_terminal_needs_yes(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = all_files()
    monkeypatch.setattr(sys, "stdin", io.StringIO("p1\n"))
    assert main(["forget", "p1", "--results", str(root)]) == 1
    assert all_files() == before
    assert "Add --yes to remove" in capsys.readouterr().err
    assert main(["forget", "p1", "--results", str(root), "--yes"]) == 0
    assert all_files() != before


def test_forget_refuses_unknown_cases_and_folders(root: Path, tmp_path: Path) -> None:
    for name in ("p", "10", "p3", "voxels"):
        with pytest.raises(HstfError, match="has nothing of case"):
            forget(name, root, is_confirmed=True)
    with pytest.raises(HstfError, match=r"has no config\.yaml"):
        forget("p1", tmp_path, is_confirmed=True)


def test_forget_waits_for_no_running_workflow(root: Path) -> None:
    before = all_files(root)
    Path(".snakemake").mkdir()
    code = "take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = in_another_process(code, Path(".snakemake/hstf.lock").resolve())
    with pytest.raises(HstfError, match=rf"a workflow is running.*process {process.pid}"):
        forget("p1", root, is_confirmed=True)
    assert all_files(root) == before
    process.kill()
    process.wait()
    assert forget("p1", root, is_confirmed=True)


def test_forget_waits_for_a_run_in_another_folder(root: Path) -> None:
    code = "lock_results(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = in_another_process(code, root)
    with pytest.raises(HstfError, match=rf"writes these results.*process {process.pid}"):
        forget("p1", root, is_confirmed=True)
    process.kill()
    process.wait()
