"""External teachers in the workflow: which jobs run, and a run with a command that crashes."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.external_files import SCRIPT, make_external
from support.fast_workflow import shared_server
from support.workspace import ROOT, WITHHELD, Workspace

from hstf.config.load import config_text, load_config
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.round_tables import EXTERNAL
from hstf.method.external_weights import ExternalWeights

FOLLOWING = {
    "refine_shard",
    "refine_table",
    "labels_shard",
    "labels_table",
    "student_member",
    "monitor_round",
    "evaluate_shard",
    "evaluate_table",
    "teacher_shard",
    "report",
    "export",
    "track_round",
}
"""Rules that run again after a pseudo-label has changed."""
EXTERNAL_RULES = {"external_shard", "external_weights", "calibrate_round"}


def teacher(**keys: Any) -> dict[str, Any]:
    plain = {"command": "segment {image} {output}", "labels": {"foreground": 5}}
    return {"external": {"other": plain | keys}}


def rules_that_run(workspace: Workspace) -> dict[str, set[int | None]]:
    """Return the rounds of each rule whose results are not up to date."""
    with contextlib.chdir(workspace.folder):
        jobs = Jobs(load_config(Path("config.yaml")))
        keys = Keys(jobs, sets_times=False)
        running: dict[str, set[int | None]] = {}
        for job in jobs.all():
            if keys.state(job).reasons:
                running.setdefault(job.rule, set()).add(job.round)
        return running


def test_first_teacher_runs_neither_trainings_of_round_0_nor_the_ensemble(
    experiment: Workspace,
) -> None:
    experiment.configure(teacher=teacher())
    running = rules_that_run(experiment)
    assert set(running) == EXTERNAL_RULES | FOLLOWING
    assert running["teacher_shard"] == {2}
    assert running["calibrate_round"] == {1, 2}


def test_edit_of_the_command_runs_the_external_teacher_and_what_follows(
    experiment: Workspace,
) -> None:
    experiment.configure(teacher=teacher())
    experiment.pretend()
    assert rules_that_run(experiment) == {}
    experiment.configure(teacher=teacher(timeout=7, gpu=False))
    assert rules_that_run(experiment) == {}
    experiment.configure(teacher=teacher(command="segment --fast {image} {output}"))
    running = rules_that_run(experiment)
    assert set(running) == EXTERNAL_RULES | FOLLOWING
    assert running["teacher_shard"] == {2}


def test_edit_of_a_script_that_the_command_names_is_noticed(experiment: Workspace) -> None:
    script = experiment.folder / "segment.py"
    script.write_text("one")
    experiment.configure(teacher=teacher(command="python segment.py {image} {output}"))
    experiment.pretend()
    assert rules_that_run(experiment) == {}
    script.write_text("another")
    assert set(rules_that_run(experiment)) >= EXTERNAL_RULES


def test_prediction_that_was_made_later_is_noticed(experiment: Workspace) -> None:
    (experiment.folder / "nnunet").mkdir()
    keys = {"command": "", "files": "nnunet/{case}.nii.gz"}
    experiment.configure(teacher=teacher(**keys))
    experiment.pretend()
    assert rules_that_run(experiment) == {}
    (experiment.folder / "nnunet" / "case_003.nii.gz").write_text("new")
    assert "external_shard" in rules_that_run(experiment)


def test_workflow_refuses_a_wrong_label_map_before_the_warm_up(experiment: Workspace) -> None:
    names = experiment.folder / "dataset.json"
    names.write_text('{"labels": {"background": 0, "spleen": 5}}', encoding="utf-8")
    named = {"labels": {"foreground": "liver"}, "label_map": "dataset.json"}
    experiment.configure(teacher=teacher(**named))
    message = experiment.refusal()
    assert "teacher.external.other: dataset.json: has no name 'liver'" in message
    command = [sys.executable, "-m", "hstf", "config", "--check", "--config", "config.yaml"]
    checked = subprocess.run(command, cwd=experiment.folder, capture_output=True, text=True)
    assert checked.returncode == 1
    assert "dataset.json: has no name 'liver'" in checked.stderr
    names.write_text('{"labels": {"background": 0, "liver": 5}}', encoding="utf-8")
    assert "external_weights" in experiment.jobs()


def test_teacher_of_round_2_changes_nothing_before_it(experiment: Workspace) -> None:
    experiment.configure(teacher=teacher(rounds=[2]))
    running = rules_that_run(experiment)
    assert running["refine_shard"] == running["calibrate_round"] == {2}
    assert running["student_member"] == {2}
    assert "teacher_shard" not in running


def test_jobs_of_prompted_teachers_name_their_files(experiment: Workspace) -> None:
    experiment.configure(
        teacher=teacher(command="correct {image} {label} {output}", prompt="label", rounds=[2])
    )
    with contextlib.chdir(experiment.folder):
        jobs = Jobs(load_config(Path("config.yaml")))
        labelled = jobs.before(Job("external_shard", part="labelled_0"))
        assert Job("out_of_fold") in labelled and Job("external_weights") not in labelled
        (prompted,) = {job.round for job in jobs.all() if job.rule == "external_prompted_shard"}
        assert prompted == 2
        before = jobs.before(Job("external_prompted_shard", 2, "unlabelled_0"))
        assert Job("teacher_shard", 2, "unlabelled_0") in before


# --- honesty


def test_external_stage_opens_no_withheld_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither labels of unlabelled cases nor test cases, and the program gets none of them."""
    monkeypatch.chdir(tmp_path)
    config = make_external(tmp_path)
    sheet = Path("cases.csv")
    sheet.write_text(f"{sheet.read_text()}case_9,case_9.nii.gz,case_9_l.nii.gz,test\n")
    Path("config.yaml").write_text(config_text(config))
    withheld = ["case_3_l.nii.gz", "case_4_l.nii.gz", "case_9.nii.gz", "case_9_l.nii.gz"]
    for name in withheld:
        Path(name).touch()
    Path(WITHHELD).write_text("\n".join(withheld) + "\n")
    folders = [str(ROOT / "tests" / "support" / "guard"), str(ROOT)]
    guard = {"PYTHONPATH": os.pathsep.join(folders), "HSTF_WITHHELD": str(tmp_path / WITHHELD)}
    program = tmp_path / "hstf"
    program.write_text(
        "import sys\n"
        "from hstf.cli import main\n"
        "words = sys.argv[1:]\n"
        "for more in (['--shard', 'labelled_0'], [], ['--shard', 'unlabelled_0']):\n"
        "    assert main([*words, *more]) == 0\n"
        "sys.exit(main(['refine', *words[1:], '--round', '1', '--shard', 'unlabelled_0']))\n"
    )
    command = [sys.executable, str(program), "external", "--config", "config.yaml"]
    done = subprocess.run(command, env=os.environ | guard, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert Path("stages.txt").read_text().split()[0] == "external", "it was watched"
    assert not Path("opened.txt").exists()
    given = Path("arguments.txt").read_text().split()
    assert {Path(word).name for word in given if word.endswith("gz")} == {
        f"case_{number}.nii.gz" for number in range(5)
    }


# --- a run


@pytest.mark.workflow
def test_run_with_a_command_that_crashes_on_one_case(finished: Workspace, tmp_path: Path) -> None:
    workspace = finished.copy_to(tmp_path)
    folder = workspace.folder
    script = folder / "foreign.sh"
    script.write_text(SCRIPT.replace("case_4", "case_007"))
    script.chmod(0o755)
    (folder / "good").mkdir()
    for label in (folder / "labels").glob("*.nii.gz"):
        (folder / "good" / label.name).write_bytes(label.read_bytes())
    other = {"command": "./foreign.sh {image} {output} crash", "labels": {"liver": 1, "spleen": 2}}
    settings = load_config(folder / "config.yaml").teacher.model_dump(mode="json")
    workspace.configure(teacher=settings | {"external": {"other": other}})
    words = ["--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "--cores", "2"]
    done = shared_server().snakemake(folder, *words, "round_1_refine")
    assert done.returncode == 0, done.stdout[-4000:]
    results = folder / "results" / "tiny"
    rows = EXTERNAL.records(results / "external" / "other" / "unlabelled_0.csv")
    missing = {row["case_id"]: row["missing"] for row in rows}
    assert missing == {
        "case_006": "",
        "case_007": "exit code 3: weights.bin is damaged",
        "case_008": "",
    }
    weights = ExternalWeights.load(results / "external" / "weights.json").teachers["other"]
    assert weights.groups["liver"].weight > 0
    assert (results / "round_1" / "calibration.json").is_file()
    assert workspace.jobs("round_1_refine") == {}
