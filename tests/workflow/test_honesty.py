"""Test cases and withheld labels are opened by ``check`` and ``evaluate`` alone, as the processes of a real run show."""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.workspace import ROOT, WITHHELD, Workspace, withhold, write_sheet

MAY_OPEN = {"phantom", "check", "evaluate"}
"""``phantom`` makes the scans."""
LEARNING = {"plan", "preprocess", "warmup", "calibrate", "teacher", "refine", "labels", "student"}


def opened(folder: Path, name: str = "opened.txt") -> dict[str, set[str]]:
    """By stage, the withheld files that its processes opened."""
    found: dict[str, set[str]] = {}
    notes = folder / name
    for line in notes.read_text().splitlines() if notes.is_file() else []:
        stage, _, path = line.partition(" ")
        found.setdefault(stage, set()).add(path)
    return found


def guarded(folder: Path, *command: str) -> None:
    """Run a command with the guard on."""
    guard = {
        "PYTHONPATH": str(ROOT / "tests" / "support" / "guard"),
        "HSTF_WITHHELD": str(folder / WITHHELD),
    }
    subprocess.run(command, cwd=folder, env=os.environ | guard, check=True, capture_output=True)


@pytest.mark.workflow
def test_nothing_that_plans_learns_refines_or_selects_opens_a_withheld_file(
    finished: Workspace,
) -> None:
    stages = set((finished.folder / "stages.txt").read_text().split())
    assert stages >= LEARNING | {"check", "evaluate", "report", "track", "export"}, (
        "all of them were watched"
    )
    found = opened(finished.folder)
    assert set(found) <= MAY_OPEN, {stage: found[stage] for stage in set(found) - MAY_OPEN}
    withheld = set((finished.folder / WITHHELD).read_text().split())
    assert found["evaluate"] == withheld, "the guard sees what is opened: all of them, by evaluate"


@pytest.mark.workflow
def test_nothing_that_learns_opens_what_was_scored_with_withheld_labels(
    finished: Workspace,
) -> None:
    found = opened(finished.folder, "scores.txt")
    assert {"evaluate", "report"} <= found.keys()
    assert not found.keys() & LEARNING


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Scans of which case_000's is labelled, case_001's label is withheld, and case_002 is a test case."""
    write_sheet(tmp_path, ["labelled", "unlabelled", "test"])
    for number in range(3):
        for suffix in ("", "_label"):
            scan = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
            nib.save(scan, tmp_path / f"case_{number:03d}{suffix}.nii.gz")
    withhold(tmp_path, tmp_path / "cases.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "withheld"),
    [("case_000", False), ("case_000_label", False), ("case_001", False), ("case_001_label", True),
     ("case_002", True), ("case_002_label", True)],
)  # fmt: skip
def test_the_guard_notes_what_a_stage_opens(scans: Path, name: str, withheld: bool) -> None:
    """The guard is tested itself: by a program called like the command, which reads one file."""
    program = scans / "hstf"
    program.write_text(
        "import sys; from pathlib import Path; from hstf.imaging.volumes import read_label; read_label(Path(sys.argv[2]))"
    )
    guarded(scans, sys.executable, str(program), "student", f"{name}.nii.gz")
    assert opened(scans) == ({"student": {f"{name}.nii.gz"}} if withheld else {})


def test_the_guard_watches_the_processes_of_a_stage_too(scans: Path) -> None:
    program = scans / "hstf"
    program.write_text(
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'open(\"case_002.nii.gz\", \"rb\")'], check=True)"
    )
    guarded(scans, sys.executable, str(program), "refine")
    assert opened(scans) == {"refine": {"case_002.nii.gz"}}
