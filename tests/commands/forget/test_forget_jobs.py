"""``hstf forget`` removes what belongs to jobs that no longer exist without a case."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from support.forgotten_files import all_files, table, write_sheet

from hstf.commands.forget import forget
from hstf.config.load import load_config
from hstf.experiment.case_files import find_traces
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import log_of
from hstf.runtime.files import write_text


def write_jobs(folder: Path, jobs: Jobs, names: Sequence[str]) -> dict[str, set[str]]:
    """Write a table, record, key and log of jobs. Each record names the cases of the shard.

    Args:
        folder: the folder of the experiment.
        jobs: the jobs of the experiment.
        names: names of jobs of shards.

    Returns:
        The files of each job.
    """
    written = {}
    for job in jobs.with_results():
        if job.name not in names:
            continue
        (path,) = jobs.outputs(job)
        output = path.relative_to(jobs.layout.root)
        cases = [case.case_id for case in jobs.shards[job.part]]
        table(folder / output, cases)
        record = {"sources": cases, "outputs": {str(output): {}}}
        notes = [f"records/{job.name}.json", f"keys/{job.name}.json", str(log_of(job.name))]
        for name, content in zip(notes, (record, {"job": job.name}, {}), strict=True):
            write_text(folder / name, json.dumps(content))
        written[job.name] = {f"{folder}/{name}" for name in (str(output), *notes)}
    assert len(written) == len(names)
    return written


UNLABELLED = ["u0", "u1", "u2", "u3"]
SHARD_JOBS = ("preprocess.{}", "teacher.round_1.{}", "refine.round_1.{}", "labels.round_1.{}")


def in_shards_of_three(folder: Path, cases: Sequence[str]) -> Jobs:
    """Write a case sheet, and let the jobs of an experiment have three cases each."""
    write_sheet(["l0", *cases, "t0"])
    path = folder / "config.yaml"
    config = load_config(path).model_copy(update={"shard_size": 3})
    write_text(path, yaml.safe_dump(config.model_dump(mode="json")))
    return Jobs(config)


@pytest.mark.parametrize("is_removed_first", [False, True])
def test_forget_removes_what_belongs_to_jobs_that_no_longer_exist(
    root: Path, capsys: pytest.CaptureFixture[str], is_removed_first: bool
) -> None:
    jobs = in_shards_of_three(root, UNLABELLED)
    first = [name.format("unlabelled_0") for name in SHARD_JOBS]
    last = [name.format("unlabelled_1") for name in SHARD_JOBS]
    write_jobs(root, jobs, [*first, "evaluate.round_1.test_0"])
    gone = write_jobs(root, jobs, last)
    if is_removed_first:
        write_sheet(["l0", *UNLABELLED[:-1], "t0"])
    write_text(root / "provenance.json", "{}")
    before = all_files()
    forget("u3", root, is_confirmed=True)
    expected = set().union(*gone.values())
    assert before - all_files() == expected | {f"{root}/provenance.json"}, "it lists the tables"
    assert find_traces(root, "u3").gone_jobs == []
    printed = capsys.readouterr().out
    assert f"do not exist without it, which are removed ({len(expected)}):\n  {root}" in printed
    assert "which the next run writes again" not in printed


def test_forget_keeps_tables_of_jobs_that_still_exist(root: Path) -> None:
    jobs = in_shards_of_three(root, [*UNLABELLED, "u4"])
    last = [name.format("unlabelled_1") for name in SHARD_JOBS]
    tables = {name for files in write_jobs(root, jobs, last).values() for name in files}
    before = all_files()
    assert forget("u3", root, is_confirmed=True) == []
    assert all_files() == before
    traces = find_traces(root, "u3")
    assert {str(rows.table) for rows in traces.tables} < tables
    assert traces.gone_jobs == traces.other_tables == []


def test_forget_keeps_what_jobs_that_no_longer_exist_have_of_other_cases(root: Path) -> None:
    jobs = in_shards_of_three(root, UNLABELLED)
    write_jobs(root, jobs, [name.format("unlabelled_1") for name in SHARD_JOBS])
    write_sheet(["l0", "u1", "u2", "t0"])
    table(root / "check.csv", ["u1"])
    before = all_files()
    forget("u1", root, is_confirmed=True)
    assert all_files() == before


def test_forget_removes_keys_of_jobs_that_ran_because_of_the_case(root: Path) -> None:
    keys = {"plan": "u9", "check": "u90", "report": "u9.b", "export": "xu9"}
    external = {"job": "lesions.round_1", "runs_because": ["sam/u9 changed"]}
    write_text(root / "keys" / "lesions.round_1.json", json.dumps(external))
    for job, case in keys.items():
        content = {"job": job, "runs_because": ["cases changed", f"{case}/image_0 changed"]}
        write_text(root / "keys" / f"{job}.json", json.dumps(content))
    write_text(root / "keys" / "calibrate.json", "{")
    assert forget("u9", root, is_confirmed=True) == [
        root / "keys" / f"{name}.json" for name in ("lesions.round_1", "plan")
    ]
    assert find_traces(root, "u9").is_empty


def test_forget_keeps_results_of_removed_rounds_that_have_no_row_of_the_case(root: Path) -> None:
    outputs = {f"round_9/{name}": {} for name in ("model/seed_0/history.csv", "track.json")}
    for name in outputs:
        write_text(root / name, "step 12 of p1")
    record = {"facts": "p1", "outputs": outputs}
    write_text(root / "records" / "student.round_9.seed_0.json", json.dumps(record))
    assert find_traces(root, "p1").gone_jobs == []


def test_forget_removes_the_log_of_a_shard_that_never_finished(root: Path) -> None:
    in_shards_of_three(root, UNLABELLED)
    key = root / "keys" / "teacher.round_1.unlabelled_1.json"
    log = root / log_of(key.stem)
    write_text(key, "{}")
    write_text(log, "u3: no file")
    write_text(root / "preprocessed" / "u3" / "image.b2nd", "voxels")
    assert set(forget("u3", root, is_confirmed=True)) == {root / "preprocessed" / "u3", key, log}


def test_forget_finds_jobs_of_a_comparison_that_no_longer_exist(root: Path) -> None:
    cell = root / "compare" / "supervised_0"
    write_text(cell / "config.yaml", (root / "config.yaml").read_text())
    jobs = in_shards_of_three(cell, UNLABELLED)
    gone = write_jobs(cell, jobs, ["labels.round_1.unlabelled_1"])
    removed = forget("u3", root, is_confirmed=True)
    assert [{str(path) for path in removed}] == list(gone.values())
