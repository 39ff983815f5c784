"""Pre-training in the workflow: when it runs, what starts from it, and what it opens."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT, WITHHELD, Workspace

from hstf.config.load import load_config
from hstf.experiment.job import Job
from hstf.experiment.job_inputs import sources_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.last_run import benchmark_of, log_of
from hstf.models.registry import load_facts
from hstf.runtime.files import read_json


def reasons(workspace: Workspace) -> dict[str, list[str]]:
    """Return why each job runs that is not up to date, without Snakemake."""
    with contextlib.chdir(workspace.folder):
        keys = Keys(Jobs(load_config(workspace.folder / "config.yaml")))
        states = {job.name: keys.state(job).reasons for job in keys.jobs.all()}
        return {name: because for name, because in states.items() if because}


@pytest.fixture
def pretrained(experiment: Workspace) -> Workspace:
    """Finished rounds after a pre-training, from which all trainings start."""
    experiment.configure(pretrain={"task": "masked"}, student={"start": "scratch"})
    experiment.pretend()
    return experiment


def test_workflow_runs_the_pre_training_and_what_starts_from_it(experiment: Workspace) -> None:
    experiment.configure(pretrain={"task": "masked"}, student={"start": "previous_round"})
    jobs = experiment.jobs("warmup", "round_1_student")
    assert {rule: jobs[rule] for rule in ("pretrain", "warmup_member", "student_member")} == {
        "pretrain": 1,
        "warmup_member": 3,
        "student_member": 1,
    }
    assert "preprocess_shard" not in jobs
    assert experiment.jobs("pretrain") == {"pretrain": 1}


def test_jobs_name_the_files_of_the_rules(pretrained: Workspace) -> None:
    """See the test of the same name in ``test_keys.py``; here students start from it, too."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "print_jobs.py")]
    done = subprocess.run(
        command, cwd=pretrained.folder, capture_output=True, text=True, check=True
    )
    found = {}
    for job in json.loads(done.stderr.splitlines()[-1]):
        for path in job["inputs"]:
            if "/keys/" in path:
                found[Path(path).stem] = job
    with contextlib.chdir(pretrained.folder):
        jobs = Jobs(load_config(Path("config.yaml")))
        starting = Job("pretrain"), Job("warmup_member", 0, "fold_0"), Job("report")
        for job in (*starting, Job("student_member", 2, "seed_0")):
            rule = found[job.name]
            assert set(rule["outputs"]) == set(map(str, jobs.outputs(job)))
            named = {str(path) for earlier in jobs.before(job) for path in jobs.outputs(earlier)}
            named |= {str(source.path) for source in sources_of(jobs, job)}
            named.add(str(jobs.key(job)))
            assert set(rule["inputs"]) <= named, job
            before = Job("pretrain") in jobs.before(job)
            assert before == any("/pretrain/" in path for path in rule["inputs"])
            assert before == (job.rule != "pretrain")
        root = jobs.layout.root
        assert found["pretrain"]["logs"] == [str(root / log_of("pretrain"))]
        assert found["pretrain"]["benchmark"] == str(root / benchmark_of("pretrain"))


def test_keys_run_nothing_after_a_finished_pre_training(pretrained: Workspace) -> None:
    assert reasons(pretrained) == {}
    assert pretrained.jobs() == {}


EDITS: list[tuple[dict[str, object], str]] = [
    ({"pretrain": {"task": "masked", "masked": {"ratio": 0.5}}}, "pretrain"),
    ({"pretrain": {"task": "fusion"}}, "pretrain"),
    ({"network": {"dropout": 0.1}}, "pretrain"),
    ({"network": {"start_rate": 0.1}}, "warmup.round_0.fold_0"),
    ({"pretrain": {"task": "none"}}, "warmup.round_0.fold_0"),
    ({"pretrain": {"task": "masked", "checkpoint_seconds": 5}}, ""),
]
"""An edit of the configuration, and the first job that runs because of it."""


def test_keys_run_what_depends_on_an_edit(pretrained: Workspace) -> None:
    usual = {"pretrain": {"task": "masked"}, "network": {}}
    for sections, first in EDITS:
        pretrained.configure(**(usual | sections))
        found = reasons(pretrained)
        assert ("pretrain" in found) == (first == "pretrain"), sections
        if first:
            assert {"warmup.round_0.fold_0", "student.round_1.seed_0"} <= set(found), sections
        else:
            assert found == {}, sections


def test_workflow_trains_again_after_a_change_of_foreign_weights(experiment: Workspace) -> None:
    experiment.configure(network={"start": "other.pt"}, student={"start": "scratch"})
    assert "network.start: there is no file other.pt" in experiment.refusal()
    (experiment.folder / "other.pt").write_text("weights")
    assert experiment.jobs("warmup")["warmup_member"] == 3
    experiment.pretend()
    assert reasons(experiment) == {}
    record = read_json(experiment.folder / "results/few/records/warmup.round_0.fold_0.json")
    assert record["sources"]["network.start"]["path"] == "other.pt"
    (experiment.folder / "other.pt").write_text("other weights")
    found = reasons(experiment)
    assert found["warmup.round_0.fold_0"] == ["network.start changed"]
    assert found["student.round_1.seed_0"][0] == "network.start changed"


def test_comparison_runs_the_pre_training_of_a_task_once(experiment: Workspace) -> None:
    methods = ["supervised", "supervised_longer", "pretrain_masked", "pretrain_masked_hstf"]
    experiment.configure(compare={"methods": methods, "seeds": [0], "scales": []})
    jobs = experiment.jobs("compare")
    trained = {rule: n for rule, n in jobs.items() if "pretrain" in rule.rpartition("seed_0_")[2]}
    assert trained == {"warmup_masked_seed_0_pretrain": 1}
    warmups = {rule: n for rule, n in jobs.items() if rule.endswith("warmup_member")}
    assert warmups == {
        "warmup_masked_seed_0_warmup_member": 3,
        "supervised_longer_seed_0_warmup_member": 3,
    }


@pytest.mark.workflow
def test_pre_training_opens_no_withheld_file(finished: Workspace, tmp_path: Path) -> None:
    """A real run, in which the guard watches the stage; see ``test_honesty.py``."""
    workspace = finished.copy_to(tmp_path)
    section = {"task": "masked", "steps": 3, "history_every": 2, "warmup_steps": 1}
    workspace.configure(pretrain=section)
    for name in ("stages.txt", "opened.txt", "scores.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    workspace.run("pretrain")
    assert (tmp_path / WITHHELD).is_file()
    assert (tmp_path / "stages.txt").read_text().split() == ["pretrain"]
    assert not (tmp_path / "opened.txt").exists()
    assert not (tmp_path / "scores.txt").exists()
    folder = tmp_path / "results" / "tiny" / "pretrain"
    assert {path.name for path in folder.iterdir()} == {
        "weights.pt",
        "history.csv",
        "examples.png",
        "state",
    }
    assert len(load_facts(folder / "weights.pt")["images_of"]) == 7
    assert "pretrain" not in workspace.jobs()
