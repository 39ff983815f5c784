"""Records of jobs: when they are written, and what they refuse."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest
from support.training_files import write_experiment

from hstf.experiment.job import Job, job_of_command
from hstf.experiment.job_inputs import sources_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.keys import Keys
from hstf.experiment.records import (
    CHANGED,
    JobRecord,
    read_record,
    recorded,
    results_now,
    source_digests,
)
from hstf.experiment.round_tables import LABELS
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.runtime.shards import CaseWork, run_shard
from hstf.runtime.stamps import hash_file, remember, stamp_of

CHECK = Job("check")
PLAN = Job("plan")


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    """Return the jobs of an experiment whose check and plan are a few bytes."""
    monkeypatch.chdir(tmp_path)
    config, _ = write_experiment(tmp_path, output="results")
    jobs = Jobs(config)
    for source in sources_of(jobs, CHECK):
        source.path.parent.mkdir(parents=True, exist_ok=True)
        source.path.write_text(source.name)
    write_results(jobs, CHECK)
    write_results(jobs, PLAN)
    return jobs


def write_results(jobs: Jobs, job: Job, text: str = "result") -> None:
    with recorded(jobs, job):
        for path in jobs.outputs(job):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def test_recorded_describes_inputs_and_results(jobs: Jobs) -> None:
    record = read_record(jobs.record(PLAN))
    assert record is not None
    assert record.outputs.keys() == {"fingerprint.json", "plan.json"}
    check = read_record(jobs.record(CHECK))
    assert check is not None
    assert record.before == {"check": check.digest}
    assert record.facts["parameters"]["plan"]["memory_gb"] == jobs.config.plan.memory_gb


def test_recorded_leaves_no_record_of_a_job_that_failed(jobs: Jobs) -> None:
    with pytest.raises(RuntimeError), recorded(jobs, PLAN):
        raise RuntimeError("the job failed")
    assert read_record(jobs.record(PLAN)) is None
    assert Keys(jobs).state(PLAN).reasons == ["it has not run yet"]


def test_recorded_removes_what_a_killed_job_left(jobs: Jobs) -> None:
    files = [jobs.record(PLAN), *jobs.outputs(PLAN)]
    leftovers = [path.with_name(f".tmp-0123abcd-{path.name}") for path in files]
    for path in leftovers:
        path.write_text("half")
    with recorded(jobs, PLAN):
        assert not any(path.exists() for path in leftovers)


def test_recorded_has_no_record_while_the_job_runs(jobs: Jobs) -> None:
    with recorded(jobs, PLAN):
        assert not jobs.record(PLAN).exists()


def test_recorded_refuses_damaged_results_of_earlier_jobs(jobs: Jobs) -> None:
    path = jobs.layout.check
    status = path.stat()
    path.write_text("resulu")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(HstfError, match=r"check\.csv: was changed"), recorded(jobs, PLAN):
        raise AssertionError("the job ran")


def test_recorded_waits_for_a_job_of_a_killed_run(jobs: Jobs) -> None:
    """Jobs on a cluster may outlive the run that submitted them."""
    lock = jobs.record(PLAN).with_suffix(".lock")
    order = []
    with lock.open("r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        new = threading.Thread(target=lambda: order.append(write_results(jobs, PLAN, "new")))
        new.start()
        time.sleep(0.3)
        assert new.is_alive()
        assert jobs.layout.plan.read_text() == "result"
    new.join(10)
    assert jobs.layout.plan.read_text() == "new"
    assert Keys(jobs).state(PLAN).reasons == []


def test_keys_name_the_changed_parameter(jobs: Jobs) -> None:
    section = jobs.config.plan.model_copy(update={"memory_gb": 3})
    edited = Jobs(jobs.config.model_copy(update={"plan": section}))
    assert Keys(edited).state(PLAN).reasons == ["parameters changed"]


def test_keys_run_a_job_whose_result_is_missing(jobs: Jobs) -> None:
    jobs.layout.plan.unlink()
    assert Keys(jobs).state(PLAN).reasons == ["plan.json missing"]


def test_keys_take_a_damaged_record_for_none(jobs: Jobs) -> None:
    jobs.record(PLAN).write_text("{")
    assert Keys(jobs).state(PLAN).reasons == ["it has not run yet"]


def test_source_digests_mark_files_that_changed_while_the_job_ran() -> None:
    assert source_digests({"case_0/label": None}) == {"case_0/label": CHANGED}


def test_hash_file_uses_a_known_digest_until_the_stamp_changes(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_text("one")
    stamp = stamp_of(path)
    assert stamp is not None
    remember(path, stamp, "known")
    known = hash_file(path)
    assert known is not None
    assert known.sha256 == "known"
    path.write_text("two")
    edited = hash_file(path)
    assert edited is not None
    assert edited.sha256 != "known"
    assert hash_file(tmp_path / "missing") is None


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("check", None, ""), "check"),
        (("preprocess", None, "labelled_0"), "preprocess.labelled_0"),
        (("warmup", None, "fold_1"), "warmup.round_0.fold_1"),
        (("warmup", None, "seed_0"), "warmup.round_0.seed_0"),
        (("refine", 2, "unlabelled_0"), "refine.round_2.unlabelled_0"),
        (("refine", 2, ""), "refine_table.round_2"),
        (("student", 1, "seed_0"), "student.round_1.seed_0"),
        (("evaluate", 0, "test_0"), "evaluate.round_0.test_0"),
        (("evaluate", 0, ""), "evaluate_table.round_0"),
        (("evaluate", 1, "", True), "evaluate_scales.round_1"),
        (("track", 1, ""), "track_round.round_1"),
        (("export", None, ""), "export"),
    ],
)
def test_job_of_command_names_the_job(command: tuple, name: str) -> None:
    assert job_of_command(*command).name == name


@pytest.mark.parametrize(
    "job", [Job("student_member", 9, "seed_0"), Job("teacher_shard", 1, "unlabelled_9")]
)
def test_jobs_do_not_have_unknown_rounds_and_shards(jobs: Jobs, job: Job) -> None:
    assert not jobs.has(job)


@pytest.mark.parametrize("ending", [".nii.gz", ".weight.nii.gz"])
def test_results_now_accepts_files_that_the_job_of_another_shard_has_written(
    tmp_path: Path, ending: str
) -> None:
    """After an edit of the case sheet a case may be in another shard."""
    name = f"round_1/labels/a{ending}"
    path = tmp_path / name
    write_text(path, "first")
    old = hash_file(path)
    assert old is not None
    record = JobRecord.model_construct(outputs={name: old.model_copy(update={"path": name})})

    def write() -> dict[str, object]:
        write_text(path, "of the other shard")
        assert results_now(tmp_path, record).edited == [], "also while the file is written"
        return {"source": "automatic"}

    work = CaseWork("a", {"label": "2"}, [path], write)
    run_shard(LABELS, path.parent / "unlabelled_0.csv", {}, [work], "labels")
    now = results_now(tmp_path, record)
    assert (now.edited, now.missing, now.rewritten) == ([], [], [name])
    write_text(path, "edited by a person")
    now = results_now(tmp_path, record)
    assert len(now.edited) == 1 and "was changed after it was written" in now.edited[0]


def test_results_now_without_records_of_cases_finds_edited_files(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_text(path, "first")
    old = hash_file(path)
    record = JobRecord.model_construct(outputs={path.name: old})
    write_text(path, "edited by a person")
    assert len(results_now(tmp_path, record).edited) == 1
