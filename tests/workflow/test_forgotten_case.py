"""After ``hstf forget`` and the next run, an experiment has nothing of a case."""

from pathlib import Path

import pytest
from support.workspace import Workspace

from hstf.cli import main
from hstf.experiment.case_files import find_traces
from hstf.runtime.files import read_csv

CASE = "case_007"
RESULTS = Path("results/tiny")


@pytest.mark.workflow
def test_workflow_goes_on_without_a_forgotten_case(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = finished.copy_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["forget", CASE, "--results", str(RESULTS), "--yes"]) == 0
    names = {path.name for path in RESULTS.rglob("*")}
    assert not any(name.startswith(CASE) for name in names), "a place is not known to forget"
    assert "case_006.nii.gz" in names
    sheet = Path("sheet.csv")
    lines = [line for line in sheet.read_text().splitlines() if not line.startswith(f"{CASE},")]
    sheet.write_text("\n".join(lines) + "\n")
    workspace.run()
    left = find_traces(RESULTS, CASE)
    assert left.keys, "the case was a reason of the run"
    assert left.targets == left.keys
    assert main(["forget", CASE, "--results", str(RESULTS), "--yes"]) == 0
    assert find_traces(RESULTS, CASE).is_empty
    assert [row["case_id"] for row in read_csv(RESULTS / "round_2" / "labels.csv")] == [
        "case_006",
        "case_008",
    ]
    assert workspace.jobs() == {}
