"""The workflow on a real SLURM: a cluster of simulated nodes on this machine.

``make test-slurm`` runs all tests. With HSTF_SLURM=ci, as in continuous integration, only those
that take a few minutes run.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.recovery import Record, recovery, wait_for
from support.workspace import ROOT, TINY, Workspace, write_sheet

from hstf.runtime.files import read_json, sha256_file

HERE = Path(__file__).resolve().parent
MODE = os.environ.get("HSTF_SLURM", "")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(MODE not in ("1", "ci"), reason="starts a SLURM: make test-slurm"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("apt-get") is None,
        reason="needs root and Debian packages",
    ),
]
slow = pytest.mark.skipif(MODE == "ci", reason="takes minutes: make test-slurm")

STEPS = 400
"""Steps of a training that is interrupted: enough to interrupt it in time."""

THREADS = min(8, len(os.sched_getaffinity(0)))
"""Threads of a job that requests 8: at most as many as this machine has cores."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    done = subprocess.run([HERE / "start_slurm.sh"], capture_output=True, text=True)
    if done.returncode:
        output = done.stderr.strip() or done.stdout.strip()
        message = f"no SLURM could be started: {output[-300:]}"
        if MODE == "ci":
            pytest.skip(message)
        pytest.fail(message)
    print(done.stdout)
    yield
    subprocess.run([HERE / "stop_slurm.sh", "--purge"], check=True)


def command(*arguments: str) -> list[str]:
    """Return the command line of Snakemake on the cluster."""
    return [sys.executable, "-m", "snakemake", "--cores", "8", "--profile", "slurm", *arguments]


def jobs(*options: str) -> list[list[str]]:
    """Return the id, partition and state of the jobs that SLURM remembers."""
    queue = ["squeue", "--all", "--noheader", "--format=%i|%P|%T", *options]
    done = subprocess.run(queue, capture_output=True, text=True, check=True)
    return [line.split("|") for line in done.stdout.splitlines()]


def show_jobs(ids: list[str]) -> None:
    """Print a table of jobs. ``pytest -rP`` shows it."""
    columns = (
        "jobid:6,comment:60,partition:10,numnodes:6,numcpus:6,minmemory:9,tres-per-job:12,"
        "timeused:8,nodelist:9,state"
    )
    options = ["--all", "--states=all", "--sort=i", f"--jobs={','.join(ids)}"]
    queue = ["squeue", *options, f"--Format={columns}"]
    print(subprocess.run(queue, capture_output=True, text=True, check=True).stdout)


def submitted(output: str) -> list[str]:
    """Return the ids of the jobs that Snakemake submitted."""
    return re.findall(r"has been submitted with SLURM jobid (\d+)", output)


def describe(job: str) -> str:
    """Return all that SLURM knows about a job, on one line."""
    show = ["scontrol", "--oneliner", "show", "job", job]
    return subprocess.run(show, capture_output=True, text=True).stdout


# ---- the demo


@slow
def test_workflow_runs_the_demo_from_a_clean_clone(tmp_path: Path) -> None:
    folder = tmp_path / "hstf"
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    done = subprocess.run(
        command(), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
    show_jobs(submitted(done.stdout))
    assert (folder / "results/demo/report/report.html").is_file()
    assert 30 <= len(submitted(done.stdout)) <= 60, "32 cases, two rounds: few jobs"
    verify = subprocess.run(
        [sys.executable, "-m", "hstf", "verify", "results/demo"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert verify.returncode == 0, verify.stderr


# ---- a tiny experiment

TEACHER = "results/tiny/round_1/teacher/unlabelled_0.csv"
CELL = "results/tiny/compare/supervised_seed_0/round_1/model/seed_0/weights.pt"
PARTITIONS = "partitions:\n  cpu: {max_runtime: 2880}\n  gpu: {max_runtime: 1440, max_gpu: 2}\n"


def snakemake(workspace: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """Start the workflow of ``workspace`` on the cluster."""
    options = [*arguments, "--snakefile", str(ROOT / "Snakefile"), "--configfile", "config.yaml"]
    options += ["--slurm-init-seconds-before-status-checks", "3"]
    return subprocess.Popen(
        command(*options),
        cwd=workspace.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny experiment, from scans to the teacher of round 1, on partitions that fit each job."""
    workspace = Workspace(tmp_path_factory.mktemp("predicted"))
    splits = ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3
    write_sheet(workspace.folder, splits, "images/{}.nii.gz", "labels/{}.nii.gz")
    # The generator of the scans writes cases.csv itself.
    (workspace.folder / "cases.csv").rename(workspace.folder / "sheet.csv")
    workspace.configure(**(TINY | {"cases": "sheet.csv", "device": "auto", "rounds": 1}))
    (workspace.folder / "slurm").symlink_to(ROOT / "slurm")
    (workspace.folder / "partitions.yaml").write_text(PARTITIONS)
    run = snakemake(workspace, TEACHER, "--slurm-partition-config", "partitions.yaml")
    output = run.communicate(timeout=500)[0]
    assert run.returncode == 0, output[-6000:]
    show_jobs(submitted(output))
    assert {job[1] for job in jobs("--states=all")} == {"cpu", "gpu"}
    return workspace


def test_workflow_shows_the_log_of_a_failed_job_and_trains_a_cell_of_a_comparison(
    predicted: Workspace, tmp_path: Path
) -> None:
    workspace = predicted.copy_to(tmp_path)
    workspace.configure(compare={"methods": ["supervised"], "seeds": [0]})
    (tmp_path / "results/tiny/preprocessed/case_007/image.b2nd").write_bytes(b"damaged")
    (tmp_path / TEACHER).unlink()
    run = snakemake(workspace, TEACHER, CELL, "--retries", "0")
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 1
    show_jobs(submitted(output))
    assert "Error in rule teacher_shard" in output
    assert re.search(r"case_007: \S+image\.b2nd was changed", output), output[-6000:]
    assert (tmp_path / CELL).is_file(), output[-6000:]


# ---- interrupted jobs

WEIGHTS = Path("results/tiny/round_0/model/fold_0/weights.pt")
STATE = Path("results/tiny/round_0/state/fold_0/state.pt")
LOG = Path("results/tiny/logs/warmup/fold_0.log")


@pytest.fixture(scope="module")
def prepared(predicted: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny experiment with a warm-up that trains long enough to be interrupted."""
    workspace = predicted.copy_to(tmp_path_factory.mktemp("prepared"))
    training = {"folds": 2, "steps": STEPS, "history_every": 50, "checkpoint_seconds": 0}
    workspace.configure(device="cpu", warmup=training)
    (workspace.folder / STATE).unlink()
    return workspace


@pytest.fixture(scope="module")
def uninterrupted(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of the weights of fold_0, trained with as many threads as a job has."""
    folder = prepared.copy_to(tmp_path_factory.mktemp("uninterrupted")).folder
    arguments = ["warmup", "--config", "config.yaml", "--member", "fold_0"]
    subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS)},
        check=True,
    )
    return sha256_file(folder / WEIGHTS)


def training_job(run: subprocess.Popen[str], workspace: Workspace) -> str:
    """Return the id of the job that trains, after its training has written a checkpoint."""
    wait_for(lambda: (workspace.folder / STATE).is_file() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[0]
    return next(job[0] for job in jobs("--states=running"))


def assert_resumed(run: subprocess.Popen[str], workspace: Workspace, uninterrupted: str) -> str:
    """Check that the training resumed and has the same weights; return the output of Snakemake."""
    output = run.communicate(timeout=500)[0]
    assert run.returncode == 0, output[-6000:]
    show_jobs(submitted(output))
    assert re.search(r"resumes at step [1-9]", (workspace.folder / LOG).read_text())
    assert read_json(workspace.folder / STATE.with_name("made_by.json"))["threads"] == THREADS
    assert sha256_file(workspace.folder / WEIGHTS) == uninterrupted
    return output


@slow
def test_training_resumes_after_its_job_was_cancelled(
    prepared: Workspace, tmp_path: Path, uninterrupted: str, record_property: Record
) -> None:
    workspace = prepared.copy_to(tmp_path)
    run = snakemake(workspace, str(WEIGHTS))
    job = training_job(run, workspace)
    problem = "SLURM: `scancel` of a training"
    with recovery(record_property, problem, "by itself: `retries` of the profile"):
        subprocess.run(["scancel", job], check=True)
        output = assert_resumed(run, workspace, uninterrupted)
    assert "Trying to restart job" in output


@slow
def test_training_resumes_after_its_job_was_preempted_and_requeued(
    prepared: Workspace, tmp_path: Path, uninterrupted: str, record_property: Record
) -> None:
    workspace = prepared.copy_to(tmp_path)
    defaults = ["slurm_partition=preemptable", "mem_mb=2000", "runtime=60"]
    run = snakemake(workspace, str(WEIGHTS), "--default-resources", *defaults)
    job = training_job(run, workspace)
    size = ["--partition=cpu", "--nodes=3", "--exclusive"]
    more_urgent = ["sbatch", "--parsable", *size, "--wrap=sleep 5", "--output=/dev/null"]
    problem = "SLURM: preemption by a more urgent job"
    with recovery(record_property, problem, "by itself: `slurm-requeue`"):
        subprocess.run(more_urgent, check=True, capture_output=True, cwd=tmp_path)
        wait_for(lambda: "Restarts=1" in describe(job))
        output = assert_resumed(run, workspace, uninterrupted)
    assert "Trying to restart job" not in output, "SLURM requeued it"


@slow
def test_training_resumes_after_its_job_reached_the_time_limit(
    prepared: Workspace, tmp_path: Path, uninterrupted: str, record_property: Record
) -> None:
    """SLURM counts whole minutes: the job is paused, and its limit is set to one minute."""
    workspace = prepared.copy_to(tmp_path)
    run = snakemake(workspace, str(WEIGHTS))
    job = training_job(run, workspace)
    subprocess.run(["scancel", "--signal=STOP", "--full", job], check=True)
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)
    wait_for(lambda: [job] in [line[:1] for line in jobs("--states=timeout")])
    problem = "SLURM: time limit of a training"
    with recovery(record_property, problem, "by itself: `retries` of the profile"):
        assert_resumed(run, workspace, uninterrupted)


@slow
def test_training_on_two_gpus_runs_on_one_node(prepared: Workspace, tmp_path: Path) -> None:
    """SLURM assigns two simulated GPUs. PyTorch finds no GPU, so both ranks train on the CPU."""
    workspace = prepared.copy_to(tmp_path)
    workspace.configure(device="auto", warmup={"folds": 2, "steps": 12, "gpus": 2})
    run = snakemake(workspace, str(WEIGHTS), "--slurm-partition-config", "partitions.yaml")
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 0, output[-6000:]
    show_jobs(submitted(output))
    log = (tmp_path / LOG).read_text()
    assert "12 steps on cpu and 1 more" in log
    assert "12/12" in log
    (job,) = submitted(output)
    assert re.search(r" NumNodes=1 .*TresPerJob=gres:gpu:2", describe(job))
