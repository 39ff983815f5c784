"""What runs is decided by content: each state in which time stamps are wrong."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.workspace import ROOT, SPLITS, Workspace, write_sheet

from hstf.commands.nnunet import Source
from hstf.config.load import load_config
from hstf.experiment.job import Job
from hstf.experiment.job_inputs import sources_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.last_run import benchmark_of, log_of
from hstf.experiment.records import recorded
from hstf.runtime.errors import HstfError
from hstf.stages.report.stage import other_settings

DAY = 86400.0
EVALUATION = {"evaluate_shard": 3, "evaluate_table": 3, "track_round": 3, "report": 1, "export": 1}


def jobs_of(workspace: Workspace) -> Jobs:
    return Jobs(load_config(workspace.folder / "config.yaml"))


def reasons(workspace: Workspace) -> dict[str, list[str]]:
    """Return why each job runs that is not up to date, without Snakemake."""
    with contextlib.chdir(workspace.folder):
        keys = Keys(jobs_of(workspace))
        states = {job.name: keys.state(job).reasons for job in keys.jobs.all()}
        return {name: because for name, because in states.items() if because}


def date_back(path: Path, seconds: float = DAY) -> None:
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def edit_sheet(workspace: Workspace, *pairs: tuple[str, str]) -> None:
    sheet = workspace.folder / "cases.csv"
    text = sheet.read_text()
    for old, new in pairs:
        text = text.replace(old, new)
    sheet.write_text(text)


# --- the same graph as the rules


def files_of_rules(workspace: Workspace) -> dict[str, dict[str, set[str]]]:
    """Return inputs, outputs and logs of each job of Snakemake, by the name of its key file."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "print_jobs.py")]
    done = subprocess.run(command, cwd=workspace.folder, capture_output=True, text=True, check=True)
    jobs = {}
    for job in json.loads(done.stderr.splitlines()[-1]):
        keys = [path for path in job["inputs"] if "/keys/" in path]
        if keys:
            inputs = set(job["inputs"]) - set(keys)
            jobs[Path(keys[0]).name] = {
                "inputs": inputs,
                "outputs": set(job["outputs"]),
                "logs": {*job["logs"], job["benchmark"]},
            }
    return jobs


PROMPTED = {
    "command": "correct {image} {label} {output}",
    "labels": {"foreground": 1},
    "prompt": "label",
    "rounds": [2],
}
EXTERNAL = {
    "one": {"command": "segment {image} {output}", "labels": {"foreground": 1}},
    "two": PROMPTED,
}


@pytest.mark.parametrize("external", [{}, EXTERNAL])
def test_jobs_name_the_files_of_the_rules(
    experiment: Workspace, external: dict[str, object]
) -> None:
    """The description of the jobs in Python has the same inputs and outputs as the rules."""
    warmup = {"seeds": 4, "fold_members": 2}
    monitor = {"on_collapse": "stop"}
    student = {"members": 2, "start": "previous_round"}
    teacher = {"external": external}
    lesions = ["foreground"] if external else []
    experiment.configure(warmup=warmup, student=student, monitor=monitor, teacher=teacher)
    experiment.configure(lesions=lesions)
    write_sheet(experiment.folder, [*SPLITS, "validation"])
    for suffix in ("", "_label"):
        (experiment.folder / f"case_009{suffix}.nii.gz").write_text("new")
    rules = files_of_rules(experiment)
    with contextlib.chdir(experiment.folder):
        jobs = jobs_of(experiment)
        for job in jobs.all():
            found = rules.pop(jobs.key(job).name)
            assert set(map(str, jobs.outputs(job))) == found["outputs"], job
            logs = {jobs.root(job) / log_of(job.name), jobs.root(job) / benchmark_of(job.name)}
            assert set(map(str, logs)) == found["logs"], job
            named = {str(source.path) for source in sources_of(jobs, job)}
            for earlier in jobs.before(job):
                files = set(map(str, jobs.outputs(earlier)))
                assert files & found["inputs"], (job, earlier)
                named |= files
            for condition in jobs.conditions(job):
                named |= set(map(str, jobs.outputs(condition)))
            results = {path for path in found["inputs"] if path.startswith("results/")}
            assert results <= named, (job, results - named)
    assert not rules


# --- nothing runs without a reason


def test_keys_run_nothing_in_a_finished_experiment(experiment: Workspace) -> None:
    assert reasons(experiment) == {}


@pytest.mark.parametrize("lost", [".snakemake", "results/few/keys", "results/few/records/x"])
def test_workflow_runs_nothing_after_hidden_files_were_lost(
    experiment: Workspace, lost: str
) -> None:
    shutil.rmtree(experiment.folder / lost, ignore_errors=True)
    assert experiment.jobs() == {}


def test_workflow_runs_nothing_after_results_were_copied_with_new_times(
    experiment: Workspace,
) -> None:
    results = experiment.folder / "results"
    shutil.copytree(results, experiment.folder / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(results)
    (experiment.folder / "copy").rename(results)
    shutil.rmtree(experiment.folder / ".snakemake", ignore_errors=True)
    for number, path in enumerate(sorted(results.rglob("*.csv"))):
        date_back(path, 100.0 * (number % 7))
    assert experiment.jobs() == {}


def test_workflow_runs_nothing_if_benchmarks_are_older_than_the_results(
    experiment: Workspace,
) -> None:
    results = experiment.folder / "results/few"
    with contextlib.chdir(experiment.folder):
        jobs = jobs_of(experiment).all()
    for job in jobs:
        benchmark = results / benchmark_of(job.name)
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text("s\tcpu_time\n1\t1\n")
        date_back(benchmark, 10 * DAY)
    shutil.rmtree(experiment.folder / ".snakemake", ignore_errors=True)
    assert experiment.jobs() == {}


def test_workflow_forgets_the_reasons_of_an_earlier_run(experiment: Workspace) -> None:
    assert experiment.jobs() == {}
    key = experiment.folder / "results/few/keys/calibrate.json"
    key.write_text(json.dumps({"job": "calibrate", "runs_because": ["an earlier reason"]}))
    assert experiment.jobs() == {}
    assert json.loads(key.read_text())["runs_because"] == []


def test_workflow_runs_nothing_after_the_output_was_renamed(experiment: Workspace) -> None:
    (experiment.folder / "results").rename(experiment.folder / "elsewhere")
    experiment.configure(output="elsewhere")
    assert experiment.jobs() == {}


def test_workflow_runs_nothing_after_a_scan_was_copied(experiment: Workspace) -> None:
    scan = experiment.folder / "case_004.nii.gz"
    content = scan.read_bytes()
    scan.unlink()
    scan.write_bytes(content)
    assert experiment.jobs() == {}


# --- results of other parameters


def test_workflow_reruns_after_an_edit_without_metadata(experiment: Workspace) -> None:
    """A killed run leaves results without Snakemake's record of their parameters."""
    shutil.rmtree(experiment.folder / ".snakemake", ignore_errors=True)
    experiment.configure(warmup={"steps": 12})
    assert experiment.jobs()["warmup_member"] == 3


def test_another_seed_trains_no_fold_and_no_other_seed(experiment: Workspace) -> None:
    experiment.configure(warmup={"seeds": 1, "seed_start": "scratch"})
    experiment.pretend()
    experiment.configure(warmup={"seeds": 2})
    because = reasons(experiment)
    assert {name for name in because if "warmup" in name} == {"warmup.round_0.seed_1"}
    assert "out_of_fold" not in because
    assert "teacher.round_1.unlabelled_0" in because


def test_steps_of_seeds_train_no_fold_again(experiment: Workspace) -> None:
    experiment.configure(warmup={"seeds": 1})
    experiment.pretend()
    experiment.configure(warmup={"seed_steps": 3})
    because = reasons(experiment)
    assert {name for name in because if "warmup" in name} == {"warmup.round_0.seed_0"}
    assert "out_of_fold" not in because


def test_another_student_trains_only_this_one(experiment: Workspace) -> None:
    experiment.configure(student={"members": 2}, rounds=1)
    because = reasons(experiment)
    assert {name for name in because if "student" in name} == {"student.round_1.seed_1"}


def test_another_cross_fitted_student_trains_all_again(experiment: Workspace) -> None:
    experiment.configure(student={"members": 2, "cross_fit": True}, rounds=1)
    experiment.pretend()
    experiment.configure(student={"members": 3})
    because = reasons(experiment)
    names = {f"student.round_1.seed_{k}" for k in range(3)}
    assert {name for name in because if "student" in name} == names


def test_keys_of_a_colleague_run_nothing_after_an_edit_was_taken_back(
    experiment: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the owner may set the time of a file. Other members of the group may replace it."""
    text = (experiment.folder / "config.yaml").read_text()
    experiment.configure(check={"affine_tolerance_mm": 0.02})
    with contextlib.chdir(experiment.folder):
        keys = Keys(jobs_of(experiment))
        path = keys.file(Job("check"))
        (output,) = keys.jobs.outputs(Job("check"))
        assert path.stat().st_mtime_ns > output.stat().st_mtime_ns
        of_colleague = path.stat().st_ino
        utime = os.utime

        def refused(file: Path, *arguments: object, **times: object) -> None:
            if Path(file).stat().st_ino == of_colleague:
                raise PermissionError(errno.EPERM, "Operation not permitted")
            utime(file, *arguments, **times)

        monkeypatch.setattr(os, "utime", refused)
        (experiment.folder / "config.yaml").write_text(text)
        keys = Keys(jobs_of(experiment))
        path = keys.file(Job("check"))
        assert path.stat().st_mtime_ns < output.stat().st_mtime_ns


def test_workflow_makes_several_files_of_a_new_experiment(experiment: Workspace) -> None:
    """Snakemake lists the folder of the keys for the first of them."""
    output = experiment.folder / "new"
    experiment.configure(output=str(output))
    files = ("preprocessed/unlabelled_0.csv", "round_0/evaluation/cases.csv")
    done = experiment.snakemake("-n", "--", *(f"{output}/few/{file}" for file in files))
    assert done.returncode == 0, done.stdout + done.stderr


def test_keys_name_the_reasons_of_now_for_a_job_without_results(experiment: Workspace) -> None:
    """An interrupted run leaves the reasons of its start: by now, earlier jobs are done."""
    with contextlib.chdir(experiment.folder):
        last = Job("export")
        jobs = jobs_of(experiment)
        for path in (*jobs.outputs(last), jobs.record(last)):
            path.unlink()
        key = Keys(jobs).file(last)
        key.write_text(json.dumps({"job": "export", "runs_because": ["plan runs"], "written": 7}))
        date_back(key)
        before = key.stat().st_mtime_ns
        Keys(jobs).file(last)
        assert json.loads(key.read_text()) == {
            "job": "export",
            "runs_because": ["it has not run yet"],
            "written": 7,
        }
        assert key.stat().st_mtime_ns == before


def test_workflow_reruns_after_the_output_was_renamed_and_edited(experiment: Workspace) -> None:
    (experiment.folder / "results").rename(experiment.folder / "elsewhere")
    experiment.configure(output="elsewhere", seed=7)
    assert experiment.jobs()["warmup_member"] == 3


def test_workflow_reruns_results_that_were_restored_from_a_copy(experiment: Workspace) -> None:
    """The restored results have another content; Snakemake knows the key file of the new ones."""
    results = experiment.folder / "results"
    shutil.copytree(results, experiment.folder / "backup")
    experiment.configure(student={"steps": 7})
    experiment.pretend()
    assert experiment.jobs() == {}
    shutil.rmtree(results)
    (experiment.folder / "backup").rename(results)
    assert experiment.jobs()["student_member"] == 2


def test_workflow_reruns_a_result_without_a_record(experiment: Workspace) -> None:
    (experiment.folder / "results/few/records/student.round_2.seed_0.json").unlink()
    jobs = experiment.jobs()
    assert jobs["student_member"] == 1
    assert "warmup_member" not in jobs


@pytest.mark.parametrize(
    ("old", "new"),
    [("case_000_label", "case_001_label"), ("case_003.nii", "case_004.nii")],
    ids=["labels", "images"],
)
def test_workflow_reruns_after_rows_were_swapped(experiment: Workspace, old: str, new: str) -> None:
    edit_sheet(experiment, (old, "X"), (new, old), ("X", new))
    date_back(experiment.folder / "cases.csv", 10 * DAY)
    assert experiment.jobs()["check"] == 1
    edit_sheet(experiment, (old, "X"), (new, old), ("X", new))
    assert experiment.jobs() == {}


def test_workflow_writes_the_report_again_after_a_site_of_an_unlabelled_case_was_edited(
    experiment: Workspace,
) -> None:
    """No stage before the report reads it."""
    header = ("case_id,image,label,split", "case_id,image,label,split,site")
    edit_sheet(experiment, header, (",unlabelled\n", ",unlabelled,A\n"))
    assert reasons(experiment) == {"report": ["sites changed"]}
    experiment.pretend()
    edit_sheet(experiment, (",unlabelled,A\n", ",unlabelled,B\n"))
    assert reasons(experiment) == {"report": ["sites changed"]}


def test_keys_run_the_evaluation_after_test_rows_changed_places(experiment: Workspace) -> None:
    """The tables of the scores have the order of the sheet."""
    sheet = experiment.folder / "cases.csv"
    *rows, first, second = sheet.read_text().splitlines()
    sheet.write_text("\n".join([*rows, second, first]) + "\n")
    because = reasons(experiment)
    assert because["evaluate.round_0.test_0"] == ["patients changed"]
    assert "check" not in because


@pytest.mark.parametrize("name", ["case_004.nii.gz", "case_001_label.nii.gz"])
def test_workflow_reruns_after_a_file_was_replaced_by_an_older_one(
    experiment: Workspace, name: str
) -> None:
    (experiment.folder / name).write_text("another scan")
    date_back(experiment.folder / name, 100 * DAY)
    jobs = experiment.jobs()
    assert jobs["check"] == 1
    assert jobs["student_member"] == 2


def test_workflow_reruns_after_an_edit_that_keeps_size_and_time(experiment: Workspace) -> None:
    path = experiment.folder / "case_004.nii.gz"
    status = path.stat()
    path.write_text(path.read_text()[::-1] if len(path.read_text()) > 1 else "9")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert experiment.jobs()["check"] == 1


def test_workflow_reruns_after_a_test_label_was_replaced_by_an_older_one(
    experiment: Workspace,
) -> None:
    path = experiment.folder / "case_007_label.nii.gz"
    path.write_text("corrected")
    date_back(path, 100 * DAY)
    assert experiment.jobs() == EVALUATION | {"evaluate_table": 3}


def test_workflow_reruns_after_a_second_correction_with_an_older_time(
    experiment: Workspace,
) -> None:
    corrected = experiment.folder / "overrides" / "round_2" / "case_003.nii.gz"
    corrected.parent.mkdir(parents=True)
    corrected.write_text("first")
    experiment.pretend()
    assert experiment.jobs() == {}
    corrected.write_text("second")
    date_back(corrected, 100 * DAY)
    jobs = experiment.jobs()
    assert jobs["labels_shard"] == 1
    assert jobs["student_member"] == 1


def test_workflow_reruns_after_names_of_classes_were_swapped(experiment: Workspace) -> None:
    experiment.configure(labels={"background": 0, "liver": 1, "spleen": 2})
    experiment.pretend()
    assert experiment.jobs() == {}
    experiment.configure(labels={"background": 0, "spleen": 1, "liver": 2})
    jobs = experiment.jobs()
    assert jobs["teacher_shard"] == 4
    assert jobs["calibrate"] == 1


def test_workflow_reruns_after_another_modality(experiment: Workspace) -> None:
    experiment.configure(modalities={"image": "us"})
    assert experiment.jobs()["warmup_member"] == 3


def test_workflow_reruns_what_follows_a_new_result(experiment: Workspace) -> None:
    """A result was made again by hand: what was made from the old one is not up to date."""
    record = experiment.folder / "results/few/records/warmup.round_0.fold_0.json"
    weights = experiment.folder / "results/few/round_0/model/fold_0/weights.pt"
    weights.write_text("other weights")
    content = json.loads(record.read_text())
    with contextlib.chdir(experiment.folder):
        record.unlink()
        jobs = jobs_of(experiment)
        with recorded(jobs, Job("warmup_member", 0, "fold_0")):
            pass
    assert json.loads(record.read_text())["key"] == content["key"]
    because = reasons(experiment)
    assert "the results of warmup.round_0.fold_0 changed" in because["out_of_fold"]
    assert "warmup.round_0.fold_0" not in because


def test_workflow_marks_what_changed_while_a_job_ran(experiment: Workspace) -> None:
    corrected = experiment.folder / "overrides" / "round_2" / "case_003.nii.gz"
    corrected.parent.mkdir(parents=True)
    corrected.write_text("first")
    with contextlib.chdir(experiment.folder):
        jobs = jobs_of(experiment)
        with recorded(jobs, Job("labels_shard", 2, "unlabelled_0")):
            corrected.write_text("second")
    assert "case_003/corrected changed" in reasons(experiment)["labels.round_2.unlabelled_0"]


# --- results that were edited where they are


@pytest.mark.parametrize(
    "name",
    ["round_1/refine.csv", "round_2/evaluation/cases.csv", "plan.json", "round_1/labels.csv"],
)
def test_workflow_names_an_edited_result(experiment: Workspace, name: str) -> None:
    path = experiment.folder / "results" / "few" / name
    path.write_text(path.read_text() + "x")
    shutil.rmtree(experiment.folder / ".snakemake", ignore_errors=True)
    message = experiment.refusal()
    assert f"{name}: was changed or damaged" in message
    path.unlink()
    assert experiment.jobs()


def test_workflow_names_an_edited_comparison(experiment: Workspace) -> None:
    with contextlib.chdir(experiment.folder):
        jobs = jobs_of(experiment)
        with recorded(jobs, Job("compare")):
            for path in jobs.outputs(Job("compare")):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("result")
        keys = Keys(jobs)
        keys.refuse_edited(jobs.with_results())
        (jobs.layout.compare / "table.csv").write_text("better")
        with pytest.raises(HstfError, match=r"table\.csv: was changed"):
            Keys(jobs).refuse_edited(jobs.with_results())


# --- the control of an experiment


def test_workflow_adds_the_jobs_of_the_control_and_the_report(experiment: Workspace) -> None:
    experiment.configure(evaluate={"control": True})
    assert reasons(experiment) == {
        "report": ["control/cases.csv changed", "control/summary.json changed"]
    }
    expected = {
        "supervised_seed_0_student_member": 2,
        "supervised_seed_0_evaluate_shard": 1,
        "supervised_seed_0_evaluate_table": 1,
        "report": 1,
    }
    assert experiment.jobs() == expected
    experiment.configure(compare={"methods": ["supervised", "hstf"], "seeds": [0]})
    assert experiment.jobs() == expected, "the same cell as that of the comparison"
    experiment.configure(method="noisy_student")
    assert not any("supervised" in name for name in experiment.jobs())


def test_workflow_scores_the_control_on_the_validation_cases(experiment: Workspace) -> None:
    sheet = experiment.folder / "cases.csv"
    head, tested, rest = sheet.read_text().partition("test")
    sheet.write_text(f"{head}validation{rest}")
    assert tested
    experiment.configure(evaluate={"control": True})
    because = reasons(experiment)["report"]
    assert "control/validation.json changed" in because
    assert experiment.jobs()["supervised_seed_0_evaluate_validation"] == 1
    assert experiment.jobs("supervised_seed_0_export")["supervised_seed_0_export"] == 1


def test_recorded_refuses_to_overwrite_an_edited_result(experiment: Workspace) -> None:
    path = experiment.folder / "results" / "few" / "round_1" / "refine.csv"
    path.write_text("a verdict was flipped")
    with contextlib.chdir(experiment.folder):
        jobs = jobs_of(experiment)
        for job in (Job("refine_table", 1), Job("labels_shard", 1, "unlabelled_0")):
            with pytest.raises(HstfError, match=r"refine\.csv: was changed"), recorded(jobs, job):
                raise AssertionError(f"{job} ran")
    assert path.read_text() == "a verdict was flipped"


# --- reports and clocks


def test_report_names_results_of_other_settings(experiment: Workspace) -> None:
    with contextlib.chdir(experiment.folder):
        assert other_settings(load_config(Path("config.yaml"))) == []
        experiment.configure(seed=3)
        (sentence,) = other_settings(load_config(Path("config.yaml")))
    assert "made from other settings or files" in sentence


def test_exports_refuse_labels_that_decisions_have_changed(experiment: Workspace) -> None:
    """A rejected pseudo-label must not leave as a DICOM SEG object or a data set."""
    with contextlib.chdir(experiment.folder):
        results = Path("results/few")
        shutil.copyfile("config.yaml", results / "config.yaml")
        assert Source.opened(results, 1, 0.25).number == 1
        experiment.decide("1,case_003,reject,Ann,2026-11-29,leaks into the stomach")
        with pytest.raises(HstfError, match=r"labels of round 1 are not up to date.*--anyway"):
            Source.opened(results, 1, 0.25)
        assert Source.opened(results, 1, 0.25, anyway=True).number == 1
        assert Source.opened(results, 0, 0.25).number == 0


def test_workflow_reruns_results_that_are_dated_in_the_future(experiment: Workspace) -> None:
    """The clock was wrong when they were made."""
    for path in (experiment.folder / "results").rglob("*.csv"):
        date_back(path, -10 * DAY)
    assert experiment.jobs() == {}
    experiment.configure(student={"steps": 7})
    assert experiment.jobs()["student_member"] == 2
    for path in (experiment.folder / "results/few/round_1").rglob("*.csv"):
        assert path.stat().st_mtime <= time.time()
