"""Decisions of reviewers in the workflow: an acceptance counts for what was looked at only."""

import csv
from pathlib import Path

import pytest
from support.workspace import Workspace

from hstf.runtime.files import sha256_file

ACCEPTED = "1,case_005,accept,A. Reader,2026-05-01,fine"


def labels_row(workspace: Workspace, case_id: str) -> dict[str, str]:
    path = workspace.folder / "results" / "tiny" / "round_1" / "labels.csv"
    with path.open() as stream:
        rows = {row["case_id"]: row for row in csv.DictReader(stream)}
    return rows[case_id]


def test_workflow_binds_a_decision_when_it_first_reads_it(experiment: Workspace) -> None:
    folder = experiment.folder / "results" / "few" / "round_1" / "pseudo_labels"
    label = folder / "case_005.nii.gz"
    label.write_text("looked at")
    version = sha256_file(label)
    experiment.decide(ACCEPTED)
    assert experiment.jobs("round_1_labels")["labels_shard"] == 1
    label.write_text("made since then")
    experiment.jobs("round_1_labels")
    seen = (experiment.folder / "overrides" / "decisions_seen.csv").read_text().splitlines()
    assert seen[1:] == [f"{ACCEPTED},{version}"]


@pytest.mark.parametrize("name", ["Round_1", "decisions (1).csv", "decisions.xlsx"])
def test_workflow_names_overrides_that_it_would_ignore(experiment: Workspace, name: str) -> None:
    (experiment.folder / "overrides" / name).mkdir(parents=True)
    assert f"overrides/{name}: is not read" in experiment.refusal()


@pytest.mark.workflow
def test_workflow_opens_an_acceptance_when_the_pseudo_label_changes(
    finished: Workspace, tmp_path: Path
) -> None:
    workspace = finished.copy_to(tmp_path)
    workspace.decide(ACCEPTED.replace("case_005", "case_007"))
    output = workspace.run("round_1_labels")
    assert "not in the present version" not in output
    assert labels_row(workspace, "case_007")["source"] == "accepted"
    workspace.configure(refine={"minimum_predicted_dice": 0.0, "keep_components": False})
    workspace.run("round_1_labels")
    assert labels_row(workspace, "case_007")["review"] == "open"
    output = workspace.run("round_1_labels", "--forcerun", "labels_table")
    assert "the pseudo-label of case_007 was accepted, but not in the present version" in output
    workspace.decide(ACCEPTED.replace("case_005", "case_007").replace("05-01", "05-02"))
    workspace.run("round_1_labels")
    assert labels_row(workspace, "case_007")["source"] == "accepted"


def test_wrong_override_stops_no_other_job_of_a_cluster(experiment: Workspace) -> None:
    """A reviewer may save a file while a run is active: each job of a cluster reads the rules."""
    override = experiment.folder / "overrides" / "round_1" / "case_003_corrected.nii.gz"
    override.parent.mkdir(parents=True, exist_ok=True)
    override.touch()
    assert "case_003_corrected.nii.gz" in experiment.refusal("check")
    on_node = experiment.snakemake("check", "-n", "--mode", "remote")
    assert on_node.returncode == 0, on_node.stdout + on_node.stderr
