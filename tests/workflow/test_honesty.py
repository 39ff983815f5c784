"""Only ``check`` and ``evaluate`` open test cases and withheld labels.

The tests watch the processes of a real run, in which students learn from pseudo-labels.
"""

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.workspace import ROOT, WITHHELD, Workspace, withhold, write_sheet

from hstf.experiment.round_tables import LABELS
from hstf.imaging.arrays import read_array
from hstf.models.registry import load_network

MAY_OPEN = {"phantom", "check", "evaluate"}
"""``phantom`` writes the images."""
LEARNING = {
    "plan",
    "preprocess",
    "warmup",
    "out_of_fold",
    "calibrate",
    "teacher",
    "refine",
    "labels",
    "student",
}


def opened(folder: Path, name: str = "opened.txt") -> dict[str, set[str]]:
    """Return the withheld files that the processes of each stage opened."""
    found: dict[str, set[str]] = {}
    notes = folder / name
    for line in notes.read_text().splitlines() if notes.is_file() else []:
        stage, _, path = line.partition(" ")
        found.setdefault(stage, set()).add(path)
    return found


def guarded(folder: Path, *command: str) -> None:
    """Run a command with the guard."""
    folders = [str(ROOT / "tests" / "support" / "guard"), str(ROOT)]
    guard = {
        "PYTHONPATH": os.pathsep.join(folders),
        "HSTF_WITHHELD": str(folder / WITHHELD),
    }
    subprocess.run(command, cwd=folder, env=os.environ | guard, check=True, capture_output=True)


@pytest.mark.workflow
def test_stages_open_no_withheld_file_except_check_and_evaluate(
    finished: Workspace,
) -> None:
    stages = set((finished.folder / "stages.txt").read_text().split())
    assert stages >= LEARNING | {"check", "evaluate", "report", "track", "export"}, (
        "a stage was not watched"
    )
    found = opened(finished.folder)
    assert set(found) <= MAY_OPEN, {stage: found[stage] for stage in set(found) - MAY_OPEN}
    withheld = set((finished.folder / WITHHELD).read_text().split())
    assert found["evaluate"] == withheld, "evaluate opens all withheld files"


@pytest.mark.workflow
def test_training_stages_open_no_scores_of_withheld_labels(
    finished: Workspace,
) -> None:
    found = opened(finished.folder, "scores.txt")
    assert {"evaluate", "report"} <= found.keys()
    assert not found.keys() & LEARNING


@pytest.mark.workflow
@pytest.mark.parametrize("number", [1, 2])
def test_watched_students_learn_from_pseudo_labels(finished: Workspace, number: int) -> None:
    """A run in which all pseudo-labels are rejected would show nothing."""
    folder = finished.folder / "results" / "tiny" / f"round_{number}"
    rows = LABELS.records(folder / "labels.csv")
    assert [row["source"] for row in rows] == ["automatic"] * 3
    for row in rows:
        target = read_array(folder / "labels" / row["case_id"] / "target.b2nd")
        classes, weight = target[:-1], target[-1]
        assert row["weight_mean"] > 0.01
        assert weight[classes[0] < 128].any(), "no voxel of foreground has a weight"
    _, meta = load_network(folder / "model" / "seed_0" / "weights.pt")
    assert meta["pseudo_labelled"] == 3


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Write a labelled case, an unlabelled case with a withheld label, and a test case."""
    write_sheet(tmp_path, ["labelled", "unlabelled", "test"])
    for number in range(3):
        for suffix in ("", "_label"):
            scan = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
            nib.save(scan, tmp_path / f"case_{number:03d}{suffix}.nii.gz")
    withhold(tmp_path, tmp_path / "cases.csv")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "withheld"),
    [
        ("case_000", False),
        ("case_000_label", False),
        ("case_001", False),
        ("case_001_label", True),
        ("case_002", True),
        ("case_002_label", True),
    ],
)
def test_guard_records_the_withheld_files_that_a_stage_opens(
    scans: Path, name: str, withheld: bool
) -> None:
    """Test the guard with a program that has the name of the command and reads one file."""
    program = scans / "hstf"
    program.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from hstf.imaging.volumes import read_label\n"
        "read_label(Path(sys.argv[2]))\n"
    )
    guarded(scans, sys.executable, str(program), "student", f"{name}.nii.gz")
    assert opened(scans) == ({"student": {f"{name}.nii.gz"}} if withheld else {})


def test_guard_records_files_that_child_processes_open(scans: Path) -> None:
    program = scans / "hstf"
    program.write_text(
        "import subprocess, sys\n"
        'code = \'open("case_002.nii.gz", "rb")\'\n'
        "subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    guarded(scans, sys.executable, str(program), "refine")
    assert opened(scans) == {"refine": {"case_002.nii.gz"}}
