"""What the next run computes, its start, and its progress."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.audit_desk import Browser

from hstf.audit import children, rerun
from hstf.audit.desk import Desk
from hstf.audit.progress import progress_of
from hstf.experiment.job import Job
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import RUN_FILE, LastRun, RunJob, log_of
from hstf.experiment.round_tables import HISTORY
from hstf.runtime.files import write_text
from hstf.runtime.locks import take
from hstf.runtime.run_lock import RUN_LOCK

ARGUMENTS = ("--cores", "2", "--configfile", "config.yaml")


def note_run(desk: Desk, arguments: tuple[str, ...] = ARGUMENTS, **facts: Any) -> None:
    """Write what the last run was about to do: 60 seconds for each job, two students at once."""
    jobs = []
    for job in Jobs(desk.config).all():
        at_once = 2 if job.stage == "student" else 1
        jobs.append(RunJob(name=job.name, seconds=60, side_by_side=at_once))
    values = {
        "experiment": "demo",
        "machine": "elsewhere",
        "process": 1,
        "folder": str(Path.cwd()),
        "started": "2026-01-31 12:00:00",
        "is_cluster": False,
        "arguments": arguments,
        "jobs": tuple(jobs),
    }
    LastRun(**values | facts).save(desk.layout.root / RUN_FILE)


@pytest.fixture(autouse=True)
def _no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_started", {})


def test_rerun_lists_jobs_in_words_and_the_command(desk: Desk) -> None:
    note_run(desk)
    found = Browser(desk).get("/api/rerun").json()
    counts = {job["text"]: job["count"] for job in found["jobs"]}
    jobs = Jobs(desk.config).all()
    expected = len(jobs)
    assert sum(counts.values()) == expected, "nothing has a record"
    assert counts["Make the labels of the student, round 1"] == 2  # the shard and the table
    assert counts["Score the model, warm-up"] >= 1 and counts["Write the report"] == 1
    assert found["command"] == "snakemake --cores 2 --configfile config.yaml"
    assert found["can_start"] and not found["running"]
    students = sum(job.stage == "student" for job in jobs)
    assert found["minutes"] == pytest.approx(expected - students / 2)


def test_rerun_takes_measured_times(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    note_run(desk)
    to_run = [Job("report"), Job("labels_table", 1)]
    monkeypatch.setattr(rerun, "jobs_to_run", lambda jobs: to_run)
    write_text(desk.layout.root / "benchmarks" / "report.tsv", "s\th:m:s\n600.0\t0:10:00\n")
    found = Browser(desk).get("/api/rerun").json()
    assert found["minutes"] == pytest.approx(10 + 1), "the report took ten minutes, labels are new"
    assert [job["text"] for job in found["jobs"]] == [
        "Write the report",
        "Make the labels of the student, round 1",
    ]


def test_rerun_of_an_unknown_run_shows_a_command_and_starts_nothing(desk: Desk) -> None:
    browser = Browser(desk)
    found = browser.get("/api/rerun").json()
    assert found["minutes"] is None and not found["can_start"]
    assert found["command"] == "snakemake --cores 8 --configfile <your configuration>"
    refused = browser.post("/api/rerun")
    assert refused.status_code == 409 and "not known" in refused.json()["error"]


def test_rerun_states_what_is_wrong_with_the_overrides(desk: Desk) -> None:
    note_run(desk)
    write_text(desk.layout.overrides / "round_1" / "nobody.nii.gz", "")
    answer = Browser(desk).get("/api/rerun")
    assert answer.status_code == 400 and "nobody" in answer.json()["error"]


def test_rerun_starts_snakemake_with_a_list_of_arguments(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = ("--cores", "1", "--config", "experiment=$(touch owned); touch owned")
    note_run(desk, hostile)
    monkeypatch.setattr(sys, "executable", _recorder(Path.cwd()))
    browser = Browser(desk)
    assert browser.post("/api/rerun").json() == {"running": True}
    again = browser.post("/api/rerun")
    assert again.status_code == 409 and "active" in again.json()["error"]
    assert browser.get("/api/rerun").json()["running"]
    (process,) = children._started.values()
    assert process.wait(30) == 0
    words = json.loads(Path("arguments.json").read_text())
    assert words == ["-m", "snakemake", *hostile] and not Path("owned").exists()
    assert "started" in (desk.layout.root / rerun.RUN_LOG).read_text()
    assert not browser.get("/api/rerun").json()["running"]
    shown = browser.get("/api/progress").json()
    assert shown["log_tail"] == ["started"] and shown["state"] == "waiting"


def _recorder(folder: Path) -> str:
    """Write a program that notes its arguments and ends after a while."""
    program = folder / "recorder"
    program.write_text(
        f"#!{sys.executable}\n"
        "import json, sys, time\n"
        "open('arguments.json', 'w').write(json.dumps(sys.argv[1:]))\n"
        "print('started', flush=True)\n"
        "time.sleep(2)\n"
    )
    program.chmod(0o755)
    return str(program)


def test_rerun_needs_the_header_against_other_sites(desk: Desk) -> None:
    note_run(desk)
    assert Browser(desk).client.post("/api/rerun", json={}).status_code == 403


def test_is_running_sees_a_run_of_a_terminal(desk: Desk) -> None:
    note_run(desk)
    RUN_LOCK.parent.mkdir()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import fcntl, time; f = open({str(RUN_LOCK)!r}, 'w');"
            " fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)",
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        assert rerun.is_running(desk)
    finally:
        holder.kill()
        holder.wait()
        assert holder.stdout is not None
        holder.stdout.close()
    assert not rerun.is_running(desk)


def test_progress_shows_step_losses_and_time_left(desk: Desk) -> None:
    root = desk.layout.root
    jobs = Jobs(desk.config)
    training = jobs.model(1)[0].name
    note_run(desk)
    time.sleep(0.01)
    lines = [
        "round 1 seed_0: 20/200, 2.0/s, 90 s left loss 0.900",
        "student: warning: slow disk",
        "round 1 seed_0: 120/200, 2.0/s, 40 s left loss 0.400",
    ]
    write_text(root / log_of(training), "\n".join(lines) + "\n")
    found = progress_of(root, runs=True)
    assert found["state"] == "running" and found["stage"] == "student, round 1, seed_0"
    assert (found["step"], found["steps"]) == (120, 200)
    assert found["losses"] == [(20, 0.9), (120, 0.4)]
    students = sum(job.stage == "student" for job in jobs.all())
    left = 60 * (len(jobs.all()) - students) + 60 * (students - 1) / 2 + 40 / 2
    assert found["seconds_left"] == pytest.approx(left, abs=5)
    assert found["jobs_total"] == len(jobs.all()) and found["jobs_done"] == 0
    assert not found["finished"] and not found["failed"]


def test_progress_shows_the_losses_of_the_last_training_and_failures(desk: Desk) -> None:
    root = desk.layout.root
    training = Jobs(desk.config).model(1)[0]
    note_run(desk)
    write_text(root / "records" / f"{training.name}.json", "{}")
    rows = [{"step": 10, "learning_rate": 0.1, "loss": 0.5}]
    HISTORY.write(desk.layout.history(1, training.part), rows)
    time.sleep(0.01)
    write_text(root / log_of("report"), "hstf report: config.yaml is missing.\n")
    found = progress_of(root, runs=False)
    assert found["state"] == "failed" and found["losses"] == [(10, 0.5)]
    assert found["failed"][0]["job"] == "report"
    assert found["failed"][0]["message"] == ["hstf report: config.yaml is missing."]


def test_progress_of_an_experiment_without_a_run(tmp_path: Path) -> None:
    found = progress_of(tmp_path, runs=False)
    assert found["state"] == "finished" and found["jobs_total"] == 0 and not found["finished"]


def test_take_is_what_a_run_does(desk: Desk) -> None:
    RUN_LOCK.parent.mkdir()
    descriptor = take(RUN_LOCK)
    assert descriptor > 0
