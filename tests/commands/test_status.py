"""``hstf status``: the state of an experiment from the files in its folder."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hstf.cli import COMMANDS, main
from hstf.commands.state_document import StatusDocument
from hstf.commands.status import experiments_in, is_experiment
from hstf.experiment.job_states import Folder, JobState, Status, start_of_process
from hstf.experiment.last_run import RUN_FILE, LastRun, RunJob
from hstf.runtime.job_logs import failure, has_failed

NOW = 1_900_000_000.0
SINCE = f"on {platform.node()} since 2026-01-31 12:00:00"
HERE = f"process {os.getpid()} {SINCE}"
ELSEWHERE = "process 4711 on node3 since 2026-01-31 12:00:00"
TRAINING = "student.round_1.seed_0"
JOBS = ("check", "plan", "warmup.round_0.fold_0", TRAINING, "report")


class Results:
    """The folder of an experiment, of which a test writes the files that matter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("config.yaml", "experiment: x\n")

    def write(self, name: str, text: str, age: float = 0.0) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (NOW - age, NOW - age))

    def key(self, job: str, age: float, reasons: tuple[str, ...] = ("it has not run yet",)) -> None:
        written = int((NOW - age) * 1e9)
        content = {"job": job, "runs_because": reasons, "written": written}
        self.write(f"keys/{job}.json", json.dumps(content), age)

    def record(self, job: str, age: float, results_age: float | None = None) -> None:
        modified = int((NOW - (age if results_age is None else results_age)) * 1e9)
        outputs = {"x.csv": {"path": "x.csv", "sha256": "", "stamp": [1, modified, modified, 1]}}
        self.write(f"records/{job}.json", json.dumps({"job": job, "outputs": outputs}), age)

    def run(
        self,
        seconds: float = 100.0,
        process: int = 4711,
        machine: str = "node3",
        is_cluster: bool = False,
    ) -> None:
        run = LastRun(
            experiment="x",
            machine=machine,
            process=process,
            folder="/work",
            started="2026-01-31 12:00:00",
            is_cluster=is_cluster,
            jobs=tuple(RunJob(name=job, seconds=seconds) for job in JOBS),
        )
        self.write(str(RUN_FILE), run.model_dump_json(), age=950)

    def job(self, name: str) -> JobState:
        folder = Folder(self.root)
        folder.now = NOW
        return {job.name: job for job in folder.jobs()}[name]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path / "x")
    made.run()
    for job in JOBS:
        made.key(job, age=1000)
    for job in ("check", "plan"):
        made.record(job, age=900)
    return made


def test_jobs_are_done_or_waiting(results: Results) -> None:
    states = {job.name: job.status for job in Folder(results.root).jobs()}
    waiting = dict.fromkeys(JOBS[2:], Status.WAITING)
    assert states == {"check": Status.DONE, "plan": Status.DONE, **waiting}


def test_job_that_must_run_again_is_waiting(results: Results) -> None:
    results.key("plan", age=100, reasons=("parameters changed",))
    assert results.job("plan").status is Status.WAITING


def test_job_is_done_after_its_folder_was_copied_with_new_times(results: Results) -> None:
    """The key file is younger than the record, but not than the results when they were written."""
    results.key("plan", age=1000)
    os.utime(results.root / "keys" / "plan.json", (NOW, NOW))
    assert results.job("plan").status is Status.DONE


def test_running_job_has_step_loss_and_time_left(results: Results) -> None:
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    log = "round 1 seed_0: 120/500, 2/s, 190 s left loss 0.431\n"
    results.write("logs/student/round_1_seed_0.log", log, age=40)
    job = results.job(TRAINING)
    assert job.status is Status.RUNNING
    assert job.count is not None
    assert (job.count.done, job.count.total, job.count.note) == (120, 500, "loss 0.431")
    assert job.seconds_left == pytest.approx(190 - 40)


def test_job_is_running_after_a_dry_run_in_another_terminal(results: Results) -> None:
    """A dry run writes the key files again."""
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    results.key(TRAINING, age=100)
    results.write("logs/student/round_1_seed_0.log", "round 1 seed_0: 1/5, 2/s, 2 s left", age=40)
    assert results.job(TRAINING).status is Status.RUNNING


def test_lock_and_log_of_an_earlier_run_do_not_count(results: Results) -> None:
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=5000)
    results.write("logs/student/round_1_seed_0.log", "hstf student: out of memory", age=5000)
    assert results.job(TRAINING).status is Status.WAITING


def test_failed_job_has_its_message(results: Results) -> None:
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    log = "round 1: 5 steps\nhstf student: the loss is not finite\n  - case_7\n"
    results.write("logs/student/round_1_seed_0.log", log, age=10)
    job = results.job(TRAINING)
    assert job.status is Status.FAILED
    assert job.message == ("hstf student: the loss is not finite", "  - case_7")


def test_job_whose_process_is_gone_has_failed(results: Results) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = f"process {ended.pid} on {platform.node()} since 2026-01-31 12:00:00"
    results.write(f"records/{TRAINING}.lock", gone, age=500)
    assert results.job(TRAINING).status is Status.FAILED
    results.write(f"records/{TRAINING}.lock", HERE, age=500)
    assert results.job(TRAINING).status is Status.RUNNING


def test_job_has_failed_if_its_number_is_that_of_a_later_process(results: Results) -> None:
    """After a power cut, other processes of this machine get the numbers of the earlier ones."""
    a_day_ago = time.time() - 86400
    results.run(process=os.getpid(), machine=platform.node())
    results.write(f"records/{TRAINING}.lock", HERE)
    for name in (f"records/{TRAINING}.lock", str(RUN_FILE)):
        os.utime(results.root / name, (a_day_ago, a_day_ago))
    for key in (results.root / "keys").iterdir():
        os.utime(key, (a_day_ago - 1, a_day_ago - 1))
    folder = Folder(results.root)
    if start_of_process(os.getpid()) == 0:
        pytest.skip("the start of a process is not known here")
    assert folder.run_is_gone()
    states = {job.name: job.status for job in folder.jobs()}
    assert states[TRAINING] is Status.FAILED


def test_start_of_process_is_in_the_past() -> None:
    start = start_of_process(os.getpid())
    assert start == 0 or time.time() - 86400 < start <= time.time() + 1
    assert start_of_process(2**22 + 1) == 0


def test_job_of_a_terminal_is_not_silent_since_1970(results: Results) -> None:
    """A command of a job that a person has started writes no log."""
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    folder = Folder(results.root)
    folder.now = NOW
    assert folder.is_silent(results.job(TRAINING)) == 0
    folder.now = NOW + 1000
    assert folder.is_silent(results.job(TRAINING)) == pytest.approx(1500)


@pytest.mark.parametrize(
    ("is_cluster", "expected"), [(False, Status.FAILED), (True, Status.RUNNING)]
)
def test_job_without_a_lock_has_failed_if_its_run_is_gone(
    results: Results, is_cluster: bool, expected: Status
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    results.run(process=ended.pid, machine=platform.node(), is_cluster=is_cluster)
    results.write("logs/student/round_1_seed_0.log", "round 1 seed_0: 1/5, 2/s, 2 s left", age=40)
    assert results.job(TRAINING).status is expected


def test_warning_of_a_running_job_is_no_failure(results: Results) -> None:
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    results.write("logs/student/round_1_seed_0.log", "hstf student: warning: a file\n", age=10)
    assert results.job(TRAINING).status is Status.RUNNING


@pytest.mark.parametrize("command", COMMANDS)
def test_failure_finds_the_message_of_each_command(command: str) -> None:
    message = f"hstf {command}: a file is damaged"
    assert has_failed([message, "more"])
    assert failure(["start", message])[0] == message


def test_failure_of_an_earlier_run_does_not_count(results: Results) -> None:
    """A job without results keeps its key file when the run is started again."""
    log = "hstf student: the loss is not finite\n"
    results.write("logs/student/round_1_seed_0.log", log, age=970)
    assert results.job(TRAINING).status is Status.WAITING


def test_time_left_follows_what_was_measured(results: Results) -> None:
    for stage, seconds in (("check", 50), ("plan", 50)):
        results.write(f"benchmarks/{stage}.tsv", f"s\th:m:s\n{seconds}\t0:00:50\n")
    folder = Folder(results.root)
    left = folder.time_left(folder.jobs())
    assert left is not None
    assert left.seconds == pytest.approx(3 * 100 * 0.5)
    assert not left.is_measured


def test_status_shows_an_experiment(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    moment = time.time()
    results.write(f"records/{TRAINING}.lock", HERE)
    log = "student: warning: few labels\nround 1 seed_0: 120/500, 2/s, 190 s left loss 0.431\n"
    results.write("logs/student/round_1_seed_0.log", log)
    for path in (f"records/{TRAINING}.lock", "logs/student/round_1_seed_0.log"):
        os.utime(results.root / path, (moment, moment))
    for path in (f"keys/{TRAINING}.json", str(RUN_FILE)):
        os.utime(results.root / path, (moment - 50, moment - 50))
    results.write("rounds.csv", "round,model,dice\n0,warm-up,0.8304\n")
    assert main(["status", str(results.root)]) == 0
    text = capsys.readouterr().out
    assert "x: 2 of 5 jobs done, 1 running, about" in text
    assert "mean test Dice: round 0: 0.830" in text
    assert "student, round 1, seed_0; 120/500 loss 0.431;" in text
    assert "student, round 1, seed_0: warning: few labels" in text


def test_status_prints_json_for_programs(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "hstf student: the loss is not finite\n"
    results.write(f"records/{TRAINING}.lock", ELSEWHERE, age=500)
    results.write("logs/student/round_1_seed_0.log", log, age=10)
    assert main(["status", str(results.root), "--json"]) == 0
    printed = StatusDocument.model_validate_json(capsys.readouterr().out)
    (state,) = printed.experiments
    assert state.folder == str(results.root)
    assert not state.is_finished
    jobs = {job.name: job for job in state.jobs}
    assert jobs["plan"].status is Status.DONE
    assert jobs[TRAINING].message == ("hstf student: the loss is not finite",)
    assert (jobs[TRAINING].stage, jobs[TRAINING].round) == ("student", 1)


def test_status_prints_all_experiments_of_a_folder_as_json(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Results(results.root.parent / "y")
    other.key("check", age=1000)
    assert main(["status", str(results.root.parent), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    folders = [Path(state["folder"]).name for state in printed["experiments"]]
    assert folders == ["x", "y"]


def test_status_without_a_run_file_lists_records_and_keys(results: Results) -> None:
    (results.root / RUN_FILE).unlink()
    assert [job.name for job in Folder(results.root).jobs()] == list(JOBS)


def test_status_lists_all_experiments(
    results: Results, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (results.root.parent / "results").mkdir()
    results.root.rename(results.root.parent / "results" / "x")
    monkeypatch.chdir(results.root.parent)
    assert main(["status"]) == 0
    assert "results/x" in capsys.readouterr().out
    assert not is_experiment(Path("results"))
    assert experiments_in(Path("results")) == [Path("results/x")]


def test_status_names_a_folder_without_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path / "nowhere")]) == 1
    assert "nowhere: has no results of an experiment" in capsys.readouterr().err


def test_status_writes_nothing(results: Results) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted(results.root.rglob("*"))}
    assert main(["status", str(results.root)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in sorted(results.root.rglob("*"))}


def test_watch_ends_when_all_jobs_are_done(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    for job in JOBS:
        results.record(job, age=0)
    assert main(["status", str(results.root), "--watch", "0.1"]) == 0
    assert "5 of 5 jobs done, finished" in capsys.readouterr().out


def test_watch_ends_when_the_run_has_ended(
    results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    results.run(process=ended.pid, machine=platform.node())
    assert main(["status", str(results.root), "--watch", "0.1"]) == 0
    assert "no run is active. Start the same command again" in capsys.readouterr().out
