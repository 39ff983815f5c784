"""The workflow on a real SLURM: a cluster of pretended nodes on this machine. Run it with ``make test-slurm``."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "tests"))
from conftest import TINY, Workspace, write_sheet  # noqa: E402

from hstf.files import sha256_file  # noqa: E402

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif("HSTF_SLURM" not in os.environ, reason="starts a SLURM: make test-slurm"),
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("apt-get") is None, reason="needs root and Debian packages"
    ),
]
STEPS = 400  # of a training that is interrupted: long enough to be caught


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    subprocess.run([HERE / "start_slurm.sh"], check=True)
    yield
    subprocess.run([HERE / "stop_slurm.sh", "--purge"], check=True)


def clone(folder: Path) -> Path:
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "snakemake", "--cores", "8", "--profile", "slurm", *arguments]


def jobs(*options: str) -> list[list[str]]:
    """Id, partition and state of the jobs that SLURM remembers."""
    done = subprocess.run(
        ["squeue", "--all", "--noheader", "--format=%i|%P|%T", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("|") for line in done.stdout.splitlines()]


def wait_for(condition: object, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.2)


# ---- the demo


def test_the_demo_from_a_clean_clone(tmp_path: Path) -> None:
    folder = clone(tmp_path / "hstf")
    done = subprocess.run(command(), cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    assert (folder / "results/demo/report/report.html").is_file()
    submitted = re.findall(r"has been submitted with SLURM jobid (\d+)", done.stdout + done.stderr)
    assert 30 <= len(submitted) <= 60, "32 cases, two rounds: few jobs"
    verify = subprocess.run(
        [sys.executable, "-m", "hstf", "verify", "results/demo"], cwd=folder, capture_output=True, text=True
    )
    assert verify.returncode == 0, verify.stderr


# ---- what happens to jobs


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A tiny experiment up to the warm-up, whose members train for a while; the profile is at its place."""
    workspace = Workspace(tmp_path_factory.mktemp("prepared"))
    write_sheet(
        workspace.folder,
        ["labelled"] * 4 + ["test"] * 2 + ["unlabelled"] * 3,
        "images/{}.nii.gz",
        "labels/{}.nii.gz",
    )
    (workspace.folder / "cases.csv").rename(workspace.folder / "sheet.csv")
    training = {"folds": 2, "steps": STEPS, "history_every": 50, "checkpoint_seconds": 0}
    workspace.configure(**(TINY | {"cases": "sheet.csv", "warmup": training}))
    (workspace.folder / "slurm").symlink_to(ROOT / "slurm")
    workspace.run("preprocess")
    return workspace


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """SHA-256 of the weights of fold_0, trained with as many threads as a job has."""
    workspace = prepared.copy_to(tmp_path_factory.mktemp("undisturbed"))
    workspace.snakemake("check", "--quiet")  # writes the configuration that hstf reads
    arguments = ["warmup", "--config", "results/tiny/config.yaml", "--member", "fold_0"]
    subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        cwd=workspace.folder,
        env=os.environ | {"OMP_NUM_THREADS": "8"},
        check=True,
    )
    return sha256_file(workspace.folder / WEIGHTS)


WEIGHTS = Path("results/tiny/round_0/model/fold_0/weights.pt")
STATE = Path("results/tiny/round_0/state/fold_0/state.pt")
LOG = Path("results/tiny/logs/warmup/fold_0.log")


def start(workspace: Workspace, *arguments: str) -> subprocess.Popen[str]:
    """Train one member of the warm-up on the cluster."""
    options = [
        str(WEIGHTS),
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--configfile",
        "config.yaml",
        *arguments,
    ]
    return subprocess.Popen(
        command(*options), cwd=workspace.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def running(run: subprocess.Popen[str], workspace: Workspace) -> str:
    """Id of the job that trains, once its training has a state to go on from."""
    wait_for(lambda: (workspace.folder / STATE).is_file() or run.poll() is not None)
    assert run.poll() is None, run.communicate()[0]
    return next(job[0] for job in jobs("--states=running"))


def ends_like_an_undisturbed_one(run: subprocess.Popen[str], workspace: Workspace, undisturbed: str) -> str:
    told = run.communicate(timeout=500)[0]
    assert run.returncode == 0, told[-6000:]
    assert re.search(r"resumes at step [1-9]", (workspace.folder / LOG).read_text())
    made_by = (workspace.folder / STATE.with_name("made_by.json")).read_text()
    assert sha256_file(workspace.folder / WEIGHTS) == undisturbed, made_by
    return told


def test_a_job_that_is_cancelled_goes_on(prepared: Workspace, tmp_path: Path, undisturbed: str) -> None:
    workspace = prepared.copy_to(tmp_path)
    run = start(workspace)
    job = running(run, workspace)
    subprocess.run(["scancel", job], check=True)
    told = ends_like_an_undisturbed_one(run, workspace, undisturbed)
    assert "Trying to restart job" in told


def test_a_job_that_is_preempted_is_requeued_and_goes_on(
    prepared: Workspace, tmp_path: Path, undisturbed: str
) -> None:
    workspace = prepared.copy_to(tmp_path)
    run = start(workspace, "--default-resources", "slurm_partition=preemptable", "mem_mb=2000", "runtime=60")
    job = running(run, workspace)
    more_urgent = [
        "sbatch",
        "--parsable",
        "--partition=cpu",
        "--nodes=3",
        "--exclusive",
        "--wrap=sleep 5",
        "--output=/dev/null",
    ]
    subprocess.run(more_urgent, check=True, capture_output=True, cwd=tmp_path)
    restarts = ["scontrol", "--oneliner", "show", "job", job]
    wait_for(lambda: "Restarts=1" in subprocess.run(restarts, capture_output=True, text=True).stdout)
    told = ends_like_an_undisturbed_one(run, workspace, undisturbed)
    assert "Trying to restart job" not in told, "SLURM did it"


def test_a_job_that_runs_out_of_time_goes_on(prepared: Workspace, tmp_path: Path, undisturbed: str) -> None:
    """SLURM counts minutes: the job is stopped in its tracks and its limit is set to one."""
    workspace = prepared.copy_to(tmp_path)
    run = start(workspace)
    job = running(run, workspace)
    subprocess.run(["scancel", "--signal=STOP", "--full", job], check=True)
    subprocess.run(["scontrol", "update", f"JobId={job}", "TimeLimit=1"], check=True)
    wait_for(lambda: [job] in [line[:1] for line in jobs("--states=timeout")])
    ends_like_an_undisturbed_one(run, workspace, undisturbed)


def test_the_log_of_a_failed_job_is_shown(prepared: Workspace, tmp_path: Path) -> None:
    workspace = prepared.copy_to(tmp_path)
    weights = tmp_path / "results/tiny/preprocessed/case_000/image.b2nd"
    weights.write_bytes(b"damaged")
    run = start(workspace, "--retries", "0")
    told = run.communicate(timeout=300)[0]
    assert run.returncode == 1
    assert "case_000/image.b2nd" in told and "is damaged" in told
