"""The workflow, run by Snakemake: dependencies, and a tiny experiment up to the exported model."""

import csv
import json
import re
from pathlib import Path
from unittest.mock import ANY

import pytest
from support.workspace import ROOT, Workspace, write_sheet

from hstf.runtime.files import write_csv

ROUND_2 = {
    "student_member": 1,
    "monitor_round": 1,
    "evaluate_shard": 1,
    "evaluate_table": 1,
    "track_round": 1,
    "report": 1,
    "export": 1,
}
"""What follows the labels of round 2."""
ROUNDS_1_AND_2 = {
    "student_member": 2,
    "monitor_round": 2,
    "evaluate_shard": 2,
    "evaluate_table": 2,
    "track_round": 2,
    "report": 1,
    "export": 1,
    "teacher_shard": 2,
    "refine_shard": 2,
    "refine_table": 1,
}
"""What follows the labels of round 1, up to the pseudo-labels of round 2."""


def test_workflow_has_no_jobs_for_a_finished_experiment(experiment: Workspace) -> None:
    assert experiment.jobs() == {}


def test_workflow_runs_only_an_additional_round(experiment: Workspace) -> None:
    assert experiment.jobs("--config", "rounds=3") == {
        "teacher_shard": 2,
        "refine_shard": 2,
        "refine_table": 1,
        "labels_shard": 2,
        "labels_table": 1,
        **ROUND_2,
    }


def test_workflow_reruns_what_depends_on_a_section(experiment: Workspace) -> None:
    experiment.configure(student={"steps": 7})
    labels = {"labels_shard": 2, "labels_table": 1}
    assert experiment.jobs() == ROUNDS_1_AND_2 | labels


def test_workflow_keeps_rounds_before_an_override(experiment: Workspace) -> None:
    experiment.configure(rounds_overrides={2: {"student": {"steps": 7}}})
    assert experiment.jobs() == ROUND_2


@pytest.mark.parametrize(
    "sections", [{"teacher": {"window_batch": 8}}, {"student": {"checkpoint_seconds": 5.0}}]
)
def test_workflow_reruns_nothing_after_a_change_of_speed(
    experiment: Workspace, sections: dict[str, object]
) -> None:
    experiment.configure(**sections)
    assert experiment.jobs() == {}


def test_workflow_reruns_the_shard_of_a_decision(experiment: Workspace) -> None:
    experiment.decide("2,case_005,reject,A. Reader,2026-05-01,motion")
    assert experiment.jobs() == {"labels_shard": 1, "labels_table": 1, **ROUND_2}


def test_workflow_applies_a_decision_from_its_round_on(experiment: Workspace) -> None:
    experiment.decide("1,case_005,reject,A. Reader,2026-05-01,motion")
    # Round 1: one shard; round 2 begins with the new teacher, so both of its shards follow.
    assert experiment.jobs() == ROUNDS_1_AND_2 | {"labels_shard": 3, "labels_table": 2}


def test_workflow_reruns_after_each_change_of_a_corrected_label(experiment: Workspace) -> None:
    corrected = experiment.folder / "overrides" / "round_2" / "case_003.nii.gz"
    corrected.parent.mkdir(parents=True)
    expected = {"labels_shard": 1, "labels_table": 1, **ROUND_2}
    corrected.write_text("first")
    assert experiment.jobs() == expected
    experiment.pretend()
    assert experiment.jobs() == {}
    corrected.write_text("second")
    assert experiment.jobs() == expected
    experiment.pretend()
    corrected.unlink()
    assert experiment.jobs() == expected


def test_workflow_reports_invalid_overrides_before_it_runs(experiment: Workspace) -> None:
    experiment.decide("1,case_999,reject,,,", "9,case_003,keep,,,")
    message = experiment.refusal()
    assert "'case_999' is not an unlabelled case" in message
    assert "'keep' is not one of accept, replace, reject" in message


def test_workflow_reruns_only_evaluation_after_a_change_of_test_cases(
    experiment: Workspace,
) -> None:
    (experiment.folder / "case_007_label.nii.gz").write_text("a corrected test label")
    (experiment.folder / "case_004_label.nii.gz").write_text("a corrected withheld label")
    jobs = experiment.jobs()
    assert jobs == {
        "evaluate_shard": 3,
        "evaluate_table": 3,
        "track_round": 3,
        "report": 1,
        "export": 1,
    }


def test_workflow_checks_a_changed_image(experiment: Workspace) -> None:
    (experiment.folder / "case_004.nii.gz").write_text("scanned again")
    jobs = experiment.jobs()
    assert jobs["check"] == jobs["plan"] == 1
    assert jobs["preprocess_shard"] == 4


def test_workflow_adds_a_new_case_to_the_last_shard(experiment: Workspace) -> None:
    write_sheet(
        experiment.folder, ["labelled"] * 3 + ["unlabelled"] * 4 + ["test"] * 2 + ["unlabelled"]
    )
    for suffix in ("", "_label"):
        (experiment.folder / f"case_009{suffix}.nii.gz").write_text("new")
    assert experiment.jobs("round_1_teacher")["teacher_shard"] == 3


def test_workflow_has_a_target_for_each_stage_and_round(experiment: Workspace) -> None:
    targets = set(experiment.snakemake("--list-target-rules").stdout.split())
    of_a_round = {"teacher", "refine", "labels", "student", "evaluate", "track"}
    assert {
        "all",
        "check",
        "plan",
        "preprocess",
        "warmup",
        "out_of_fold",
        "calibrate",
        "report",
        "export",
    } | of_a_round <= targets
    assert {f"round_{number}_{stage}" for number in (1, 2) for stage in of_a_round} <= targets
    assert {"round_0_evaluate", "round_0_track"} <= targets


def test_workflow_runs_only_what_a_target_needs(experiment: Workspace) -> None:
    experiment.configure(plan={"stages": 3})
    assert experiment.jobs("round_1_refine") == {
        "plan": 1,
        "preprocess_shard": 4,
        "warmup_member": 3,
        "out_of_fold": 1,
        "calibrate": 1,
        "monitor_round": 1,
        "teacher_shard": 2,
        "refine_shard": 2,
        "refine_table": 1,
        "round_1_refine": 1,
    }


def test_workflow_runs_warmup_seeds(
    experiment: Workspace,
) -> None:
    experiment.configure(warmup={"seeds": 2})
    assert experiment.jobs("warmup") == {"warmup_member": 2, "warmup": 1}, "the folds are there"


def test_workflow_does_not_read_the_demo_for_own_cases(experiment: Workspace) -> None:
    demo = experiment.folder / "config" / "config.yaml"
    demo.parent.mkdir()
    demo.write_text(
        "experiment: other\ncases: nowhere.csv\nstudent: {steps: 5}\n"
        "labels: {liver: 1, spleen: 2}\n"
    )
    assert experiment.jobs() == {}


def test_workflow_keeps_own_scans_with_the_section_of_the_demo(tmp_path: Path) -> None:
    """Snakemake deletes the outputs of a rule before it runs, also those that are there."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    folder = tmp_path / "mine"
    folder.mkdir()
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 2 + ["test"])
    scans = [*(f"case_{k:03d}.nii.gz" for k in range(5)), "case_000_label.nii.gz"]
    for name in scans:
        (folder / name).write_text("a scan")
    text = (ROOT / "config" / "config.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(text.replace("config/demo/cases.csv", "mine/cases.csv"))
    workspace = Workspace(tmp_path, "mine.yaml")
    done = workspace.snakemake("check")
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert "phantom: the workflow makes synthetic scans" in output
    assert "case_000: mine/case_000.nii.gz" in output
    assert "Traceback" not in output
    assert sorted(path.name for path in folder.iterdir()) == sorted([*scans, "cases.csv"])


def test_workflow_adds_a_file_without_cases_to_the_demo(tmp_path: Path) -> None:
    (tmp_path / "config").symlink_to(ROOT / "config")
    (tmp_path / "more.yaml").write_text("rounds: 1\nstudent: {members: 3}\n")
    jobs = Workspace(tmp_path, "more.yaml").jobs()
    assert jobs["student_member"] == 3
    assert jobs["phantom"] == 1


def test_workflow_runs_the_demo_by_default(tmp_path: Path) -> None:
    for name in ("config", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    demo = Workspace(tmp_path, None)
    assert demo.jobs() == demo.jobs("--profile", "slurm")
    written = {path.parent.name for path in tmp_path.rglob("results/**/*") if path.is_file()}
    assert written <= {"keys"}, "a dry run writes key files only"


def test_workflow_reports_unknown_keys(experiment: Workspace) -> None:
    message = experiment.refusal("--config", "rouns=3", "student={step: 5}")
    assert "rouns: unknown key. Did you mean 'rounds'?" in message
    assert "student.step: unknown key. Did you mean 'steps'?" in message


def test_rules_have_resources_and_nothing_of_one_cluster() -> None:
    text = "".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    rules = re.findall(r"^ *rule \w+:\n((?:(?: +.*)?\n)+)", text, re.MULTILINE)
    assert len(rules) >= 16
    for body in rules:
        for directive in ("log", "benchmark", "threads", "mem_mb", "runtime", "message", "shell"):
            assert directive in body, body
    assert not re.search(r"\brun:|\bscript:|checkpoint \w+:|lambda|slurm|\bgres\b", text)
    assert len((ROOT / "Snakefile").read_text().splitlines()) < 60


@pytest.mark.workflow
def test_workflow_runs_a_tiny_experiment(finished: Workspace) -> None:
    results = finished.folder / "results" / "tiny"
    rounds = list(csv.DictReader((results / "rounds.csv").open()))
    assert [row["round"] for row in rounds] == ["0", "1", "2"]
    assert {"model.json", "README.md"} <= {path.name for path in (results / "export").iterdir()}
    assert (results / "report" / "report.html").stat().st_size > 10_000
    assert json.loads((results / "round_2" / "track.json").read_text())["logged"]
    labels = {
        row["case_id"]: row for row in csv.DictReader((results / "round_1" / "labels.csv").open())
    }
    assert set(labels) == {"case_006", "case_007", "case_008"}
    assert not list((results / "preprocessed").glob("case_00[45]")), "a test case was preprocessed"
    assert finished.jobs() == {}


@pytest.mark.workflow
def test_workflow_shows_the_time_of_the_control(finished: Workspace, tmp_path: Path) -> None:
    """The control is an experiment of its own: its jobs are not among those of the run."""
    workspace = finished.copy_to(tmp_path)
    workspace.configure(evaluate={"control": True, "bootstrap": 100})
    done = workspace.snakemake("--dry-run")
    assert done.returncode == 0
    assert re.search(r"\d+ jobs of the control take about ", done.stdout + done.stderr)


@pytest.mark.workflow
def test_workflow_makes_pseudo_labels_from_a_single_labelled_patient(
    finished: Workspace, tmp_path: Path
) -> None:
    """The folds hold out scans of this patient, and the calibration has no other patient."""
    workspace = finished.copy_to(tmp_path)
    sheet = tmp_path / "sheet.csv"
    with sheet.open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        row["group"] = "only" if row["split"] == "labelled" else row["case_id"]
    write_csv(sheet, rows, list(rows[0]))
    workspace.run("round_1_refine")
    results = tmp_path / "results" / "tiny"
    warned = [row["found"] for row in csv.DictReader((results / "check.csv").open())]
    assert any("labelled cases of 1 patients" in text for text in warned)
    calibration = json.loads((results / "round_0/calibration.json").read_text())
    assert calibration["interval"] == {"half_width": ANY, "method": "guess", "patients": 0}
    assert (results / "round_1" / "refine.csv").is_file()


@pytest.mark.workflow
def test_workflow_repeats_only_the_corrected_case_and_its_student(
    finished: Workspace, tmp_path: Path
) -> None:
    workspace = finished.copy_to(tmp_path)
    corrected = tmp_path / "overrides" / "round_2" / "case_007.nii.gz"
    corrected.parent.mkdir(parents=True)
    corrected.write_bytes((tmp_path / "labels" / "case_007.nii.gz").read_bytes())
    workspace.decide("2,case_007,replace,A. Reader,2026-05-01,leak into the bowel")
    weights = tmp_path / "results/tiny/round_1/model/seed_0/weights.pt"
    before = weights.stat().st_mtime_ns
    workspace.run("round_2_student")
    log = (tmp_path / "results/tiny/logs/labels/round_2_unlabelled_0.log").read_text()
    assert "1 computed, 2 up to date" in log
    rows = {
        row["case_id"]: row
        for row in csv.DictReader((tmp_path / "results/tiny/round_2/labels.csv").open())
    }
    assert (rows["case_007"]["source"], rows["case_007"]["reviewer"]) == ("corrected", "A. Reader")
    assert weights.stat().st_mtime_ns == before, "round 1 was changed"


def test_demo_sheet_equals_the_sheet_of_the_generator(tmp_path: Path) -> None:
    from hstf.config.load import load_config
    from hstf.datasets.phantom.dataset import write_dataset
    from hstf.datasets.phantom.options import PhantomOptions

    config = load_config(ROOT / "config" / "config.yaml")
    assert config.phantom is not None
    options = config.phantom.model_dump(exclude={"folder", "size"})
    sheet = write_dataset(tmp_path, PhantomOptions(**options, size=(8, 8, 8)))
    made = list(csv.DictReader(sheet.open()))
    listed = list(csv.DictReader((ROOT / config.cases).open()))
    prefix = f"../../{config.phantom.folder}/"
    for row in listed:
        for key, value in row.items():
            row[key] = value.removeprefix(prefix)
    assert listed == made
