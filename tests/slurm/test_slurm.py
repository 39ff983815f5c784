"""The workflow on a real SLURM: a cluster of pretended nodes on this machine.

``make test-slurm`` runs all of it; with HSTF_SLURM=ci, as the continuous integration has it, what takes a few minutes.
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
HOW = os.environ.get("HSTF_SLURM", "")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(HOW not in ("1", "ci"), reason="starts a SLURM: make test-slurm"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("apt-get") is None,
        reason="needs root and Debian packages",
    ),
]
whole = pytest.mark.skipif(HOW == "ci", reason="takes minutes: make test-slurm")
STEPS = 400  # of a training that is interrupted: long enough to be caught
THREADS = min(
    8, len(os.sched_getaffinity(0))
)  # of a job that asks for 8; no more than there really are


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    done = subprocess.run([HERE / "start_slurm.sh"], capture_output=True, text=True)
    if done.returncode:
        told = f"no SLURM could be started: {(done.stderr.strip() or done.stdout.strip())[-300:]}"
        pytest.skip(told) if HOW == "ci" else pytest.fail(told)
    print(done.stdout)
    yield
    subprocess.run([HERE / "stop_slurm.sh", "--purge"], check=True)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "8", "--profile", "slurm", *arguments]


def jobs(*options: str) -> list[list[str]]:
    """Id, partition and state of the jobs that SLURM remembers."""
    done = subprocess.run(
        ["squeue", "--all", "--noheader", "--format=%i|%P|%T", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("|") for line in done.stdout.splitlines()]


def show_jobs(submitted: list[str]) -> None:
    """Print the list of ``submitted`` jobs (``pytest -rP`` shows it)."""
    columns = "jobid:6,comment:60,partition:10,numnodes:6,numcpus:6,minmemory:9,tres-per-job:12,timeused:8,nodelist:9,state"
    options = [
        "--all",
        "--states=all",
        "--sort=i",
        f"--jobs={','.join(submitted)}",
        f"--Format={columns}",
    ]
    print(subprocess.run(["squeue", *options], capture_output=True, text=True, check=True).stdout)


def submitted(told: str) -> list[str]:
    return re.findall(r"has been submitted with SLURM jobid (\d+)", told)


# ---- the demo


@whole
def test_the_demo_from_a_clean_clone(tmp_path: Path) -> None:
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
def taught(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny experiment, from scans to the teacher of round 1, each job on a partition that fits it."""
    workspace = Workspace(tmp_path_factory.mktemp("taught"))
    splits = ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3
    write_sheet(workspace.folder, splits, "images/{}.nii.gz", "labels/{}.nii.gz")
    (workspace.folder / "cases.csv").rename(workspace.folder / "sheet.csv")
    workspace.configure(**(TINY | {"cases": "sheet.csv", "device": "auto", "rounds": 1}))
    (workspace.folder / "slurm").symlink_to(ROOT / "slurm")
    (workspace.folder / "partitions.yaml").write_text(PARTITIONS)
    run = snakemake(workspace, TEACHER, "--slurm-partition-config", "partitions.yaml")
    told = run.communicate(timeout=500)[0]
    assert run.returncode == 0, told[-6000:]
    show_jobs(submitted(told))
    assert {job[1] for job in jobs("--states=all")} == {"cpu", "gpu"}
    return workspace


def test_a_failed_job_shows_its_log_and_a_cell_of_a_comparison_is_a_job(
    taught: Workspace, tmp_path: Path
) -> None:
    workspace = taught.copy_to(tmp_path)
    workspace.configure(compare={"methods": ["supervised"], "seeds": [0]})
    (tmp_path / "results/tiny/preprocessed/case_007/image.b2nd").write_bytes(b"damaged")
    (tmp_path / TEACHER).unlink()
    run = snakemake(workspace, TEACHER, CELL, "--retries", "0")
    told = run.communicate(timeout=300)[0]
    assert run.returncode == 1
    show_jobs(submitted(told))
    assert "Error in rule teacher_shard" in told
    assert re.search(r"case_007: \S+image\.b2nd was changed", told), told[-6000:]
    assert (tmp_path / CELL).is_file(), told[-6000:]


# ---- what happens to jobs

WEIGHTS = Path("results/tiny/round_0/model/fold_0/weights.pt")
STATE = Path("results/tiny/round_0/state/fold_0/state.pt")
LOG = Path("results/tiny/logs/warmup/fold_0.log")


@pytest.fixture(scope="module")
def prepared(taught: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The tiny experiment with a warm-up that trains for a while."""
    workspace = taught.copy_to(tmp_path_factory.mktemp("prepared"))
    training = {"folds": 2, "steps": STEPS, "history_every": 50, "checkpoint_seconds": 0}
    workspace.configure(device="cpu", warmup=training)
    (workspace.folder / STATE).unlink()
    return workspace


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of the weights of fold_0, trained with as many threads as a job has."""
    folder = prepared.copy_to(tmp_path_factory.mktemp("undisturbed")).folder
    arguments = ["warmup", "--config", "config.yaml", "--member", "fold_0"]
    subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": str(THREADS)},
        check=True,
    )
    return sha256_file(folder / WEIGHTS)


def running(run: subprocess.Popen[str], workspace: Workspace) -> str:
    """Id of the job that trains, once its training has a state to go on from."""
    wait_for(lambda: (workspace.folder / STATE).is_file() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[0]
    return next(job[0] for job in jobs("--states=running"))


def ends_like_an_undisturbed_one(
    run: subprocess.Popen[str], workspace: Workspace, undisturbed: str
) -> str:
    told = run.communicate(timeout=500)[0]
    assert run.returncode == 0, told[-6000:]
    show_jobs(submitted(told))
    assert re.search(r"resumes at step [1-9]", (workspace.folder / LOG).read_text())
    assert read_json(workspace.folder / STATE.with_name("made_by.json"))["threads"] == THREADS
    assert sha256_file(workspace.folder / WEIGHTS) == undisturbed
    return told


@whole
def test_a_job_that_is_cancelled_goes_on(
    prepared: Workspace, tmp_path: Path, undisturbed: str, record_property: Record
) -> None:
    workspace = prepared.copy_to(tmp_path)
    run = snakemake(workspace, str(WEIGHTS))
    job = running(run, workspace)
    with recovery(
        record_property, "SLURM: `scancel` of a training", "by itself: `retries` of the profile"
    ):
        subprocess.run(["scancel", job], check=True)
        told = ends_like_an_undisturbed_one(run, workspace, undisturbed)
    assert "Trying to restart job" in told


@whole
def test_a_job_that_is_preempted_is_requeued_and_goes_on(
    prepared: Workspace, tmp_path: Path, undisturbed: str, record_property: Record
) -> None:
    workspace = prepared.copy_to(tmp_path)
    preemptable = [
        "--default-resources",
        "slurm_partition=preemptable",
        "mem_mb=2000",
        "runtime=60",
    ]
    run = snakemake(workspace, str(WEIGHTS), *preemptable)
    job = running(run, workspace)
    size = ["--partition=cpu", "--nodes=3", "--exclusive"]
    more_urgent = ["sbatch", "--parsable", *size, "--wrap=sleep 5", "--output=/dev/null"]
    restarts = ["scontrol", "--oneliner", "show", "job", job]
    with recovery(
        record_property, "SLURM: preemption by a more urgent job", "by itself: `slurm-requeue`"
    ):
        subprocess.run(more_urgent, check=True, capture_output=True, cwd=tmp_path)
        wait_for(
            lambda: "Restarts=1" in subprocess.run(restarts, capture_output=True, text=True).stdout
        )
        told = ends_like_an_undisturbed_one(run, workspace, undisturbed)
    assert "Trying to restart job" not in told, "SLURM did it"


@whole
def test_a_job_that_runs_out_of_time_goes_on(
    prepared: Workspace, tmp_path: Path, undisturbed: str, record_property: Record
) -> None:
    """SLURM counts minutes: the job is stopped in its tracks and its limit is set to one."""
    workspace = prepared.copy_to(tmp_path)
    run = snakemake(workspace, str(WEIGHTS))
    job = running(run, workspace)
    subprocess.run(["scancel", "--signal=STOP", "--full", job], check=True)
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)
    wait_for(lambda: [job] in [line[:1] for line in jobs("--states=timeout")])
    with recovery(
        record_property, "SLURM: time limit of a training", "by itself: `retries` of the profile"
    ):
        ends_like_an_undisturbed_one(run, workspace, undisturbed)


@whole
def test_a_training_on_two_gpus_of_a_node(prepared: Workspace, tmp_path: Path) -> None:
    """With a GPU for each rank: SLURM gives them, torch sees none of them and trains on the CPUs."""
    workspace = prepared.copy_to(tmp_path)
    workspace.configure(device="auto", warmup={"folds": 2, "steps": 12, "gpus": 2})
    run = snakemake(workspace, str(WEIGHTS), "--slurm-partition-config", "partitions.yaml")
    told = run.communicate(timeout=300)[0]
    assert run.returncode == 0, told[-6000:]
    show_jobs(submitted(told))
    log = (tmp_path / LOG).read_text()
    assert "12 steps on cpu and 1 more" in log and "12/12" in log
    (job,) = submitted(told)
    shown = subprocess.run(
        ["scontrol", "--oneliner", "show", "job", job], capture_output=True, text=True
    )
    assert re.search(r" NumNodes=1 .*TresPerJob=gres:gpu:2", shown.stdout)
