"""After an interruption there is a clear message and no unfinished file is used.

The next run has the same results as a run without the interruption.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.check_files import Data
from support.damage import flip_bit
from support.processes import in_another_process
from support.recovery import Record, copy_or_die, recovery
from support.stages import check, members
from support.teacher_files import save_weights
from support.training_files import write_experiment
from support.workspace import ROOT, Workspace

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array, write_array
from hstf.imaging.volumes import Volume, write_like
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json, sha256_file, write_csv, write_text
from hstf.runtime.shards import CaseWork, run_shard
from hstf.runtime.tables import Column, Table
from hstf.training.state import TrainingState

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
"""Sums of floating-point numbers depend on the number of threads."""

COPIES = Table(
    "copies",
    "copies.csv",
    "A copied case.",
    [
        Column("case_id", "text", "Case."),
        Column("files", "list", "Files of the case."),
        Column("sha256", "list", "SHA-256 of each file."),
    ],
)

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system")


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files of ``folder`` that match."""
    found = sorted(
        {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    )
    assert found
    return {str(path.relative_to(folder)): sha256_file(path) for path in found}


def provenance(folder: Path) -> dict[str, Any]:
    """The provenance of the experiment in ``folder``: a difference names what differs."""
    return read_json(folder / RESULTS / "provenance.json")


def wait_until(
    condition: Callable[[], object], process: subprocess.Popen, seconds: float = 300
) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "the process ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


# ---- training


def warmup(path: Path) -> int:
    return main(["warmup", "--config", str(path), "--member", "seed_0"])


def trained(config: Config) -> dict[str, str]:
    return digests(Layout.of(config).model(0), "seed_0/*")


KEYS = {"warmup": {"seeds": 1, "steps": 6}}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """SHA-256 of the files of a training without an interruption."""
    config, path = write_experiment(tmp_path_factory.mktemp("undisturbed"), **KEYS)
    assert warmup(path) == 0
    return trained(config)


@pytest.mark.parametrize("damage", ["truncated checkpoint", "flipped bit in a checkpoint"])
def test_warmup_starts_again_from_a_damaged_checkpoint(
    tmp_path: Path,
    damage: str,
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    config, path = write_experiment(tmp_path, **KEYS)
    assert warmup(path) == 0
    layout = Layout.of(config)
    state = layout.training_state(0, "seed_0") / "state.pt"
    if damage == "truncated checkpoint":
        state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    else:
        flip_bit_of_the_optimiser(state)
    layout.weights(0, "seed_0").unlink()
    capsys.readouterr()
    with recovery(record_property, damage, "the training starts again and reports it"):
        assert warmup(path) == 0
    assert f"starts at step 0: {state} is damaged" in capsys.readouterr().out
    assert trained(config) == uninterrupted


def flip_bit_of_the_optimiser(state: Path) -> None:
    """Flip a bit of the running mean of the gradient of some weights."""
    optimiser = torch.load(state, weights_only=True)["optimizer"]["state"]
    values = max((entry["exp_avg"] for entry in optimiser.values()), key=torch.Tensor.numel)
    start = state.read_bytes().index(values.numpy().tobytes())
    flip_bit(state, 8 * start + 22)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_teacher_refuses_damaged_weights(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = write_experiment(tmp_path)
    for seed, member in enumerate(members(config, 0)):
        save_weights(Layout.of(config).weights(0, member), member, seed)
    weights = Layout.of(config).weights(0, "fold_1")
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        flip_bit(weights)
    assert main(["teacher", "--config", str(path), "--round", "1", "--shard", "unlabelled_0"]) == 1
    assert f"{weights}: cannot be read as weights" in capsys.readouterr().err
    assert not Layout.of(config).teacher_table(1, "unlabelled_0").exists()


def test_warmup_resumes_after_a_loss_that_is_not_finite(
    tmp_path: Path,
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    config, path = write_experiment(tmp_path, **KEYS)
    image = Layout.of(config).preprocessed / "l_2" / "image.b2nd"
    sound = image.read_bytes()
    table = Layout.of(config).preprocessed_table("labelled_0")
    sound_table = table.read_text()
    write_array(image, np.full_like(read_array(image), np.nan), 8)
    # The file is not damaged: the scan itself has such values.
    sha256 = hashlib.sha256(sound).hexdigest()
    table.write_text(sound_table.replace(sha256, sha256_file(image)))
    assert warmup(path) == 1
    message = capsys.readouterr().err
    assert "not finite at step" in message
    assert "l_2" in message
    assert "inspect these scans" in message
    assert not Layout.of(config).weights(0, "seed_0").exists()
    image.write_bytes(sound)
    table.write_text(sound_table)
    with recovery(
        record_property,
        "NaN loss",
        "after the reported scan is fixed, from the last good state",
    ):
        assert warmup(path) == 0
    assert trained(config) == uninterrupted


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, of which half is in use."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    (folder / "taken").write_bytes(bytes(500_000))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def large_volume() -> Volume:
    return Volume(
        np.random.default_rng(0).random((80, 80, 80), np.float32),
        np.eye(4),
        __import__("nibabel").Nifti1Header(),
    )


def write_nifti(target: Path, fits: bool) -> None:
    volume = large_volume()
    write_like(target, volume.data if not fits else np.zeros(volume.data.shape, np.uint8), volume)


def write_checkpoint(target: Path, fits: bool) -> None:
    from support.training_files import PLAN

    from hstf.models.registry import build, network_spec

    config = Config()
    network = build(network_spec(config.network, PLAN, 1, 2))
    if not fits:
        network.register_buffer("ballast", torch.zeros(300_000))
    TrainingState.start(network, config.warmup).save(target.parent, "x")


def write_table(target: Path, fits: bool) -> None:
    write_csv(target, ({"a": "x" * 1000} for _ in range(1 if fits else 1000)), ["a"])


def write_compressed(target: Path, fits: bool) -> None:
    write_array(target, np.zeros((1, 80, 80, 80)) if fits else large_volume().data[None], 32)


@as_root
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("case.nii.gz", write_nifti),
        ("case.nii", write_nifti),
        ("state.pt", write_checkpoint),
        ("table.csv", write_table),
        ("image.b2nd", write_compressed),
    ],
)
def test_writers_keep_the_old_file_on_a_full_disk(
    small_disk: Path, name: str, write: Callable[[Path, bool], None]
) -> None:
    target = small_disk / name
    if name == "case.nii":
        (small_disk / "taken").write_bytes(b"")
    write(target, True)
    before = target.read_bytes()
    with pytest.raises(
        HstfError, match=rf"{name}: could not be written \(.*[Nn]o space|Is the disk full"
    ):
        write(target, False)
    assert target.read_bytes() == before
    assert sorted(path.name for path in small_disk.iterdir()) == sorted([name, "taken"])


@as_root
def test_warmup_resumes_after_a_full_disk(
    tmp_path: Path,
    small_disk: Path,
    uninterrupted: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    record_property: Record,
) -> None:
    subprocess.run(["mount", "-o", "remount,size=600k", small_disk], check=True)
    config, path = write_experiment(tmp_path, **KEYS, output=str(tmp_path / "disk" / "results"))
    assert warmup(path) == 1
    assert "No space left on device" in capsys.readouterr().err
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    with recovery(
        record_property,
        "full disk during a checkpoint",
        "when there is space again, from the last checkpoint",
    ):
        assert warmup(path) == 0
    assert trained(config) == uninterrupted


# ---- per-case stages


def teacher(path: Path) -> list[str]:
    return [
        sys.executable,
        "-m",
        "hstf",
        "teacher",
        "--config",
        str(path),
        "--round",
        "1",
        "--shard",
        "unlabelled_0",
    ]


def teacher_experiment(folder: Path) -> tuple[Layout, Path]:
    config, path = write_experiment(
        folder, unlabelled=30, teacher={"scales": [0.8, 1.0, 1.25], "flip_axes": [0, 1]}
    )
    for seed, member in enumerate(members(config, 0)):
        save_weights(Layout.of(config).weights(0, member), member, seed)
    return Layout.of(config), path


def test_teacher_resumes_a_shard_after_it_was_killed(
    tmp_path: Path, record_property: Record
) -> None:
    whole, path = teacher_experiment(tmp_path / "whole")
    subprocess.run(teacher(path), env=ENVIRONMENT, check=True, capture_output=True)
    layout, path = teacher_experiment(tmp_path / "killed")
    records = layout.teacher(1) / ".records"
    process = subprocess.Popen(
        teacher(path), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(list(records.glob("[!.]*.json"))) >= 5, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(list(records.glob("[!.]*.json")))
    assert 5 <= done < 30
    assert not layout.teacher_table(1, "unlabelled_0").exists()
    with recovery(
        record_property,
        "SIGKILL of the teacher half-way through a shard",
        "with the remaining cases",
    ):
        again = subprocess.run(
            teacher(path), env=ENVIRONMENT, check=True, capture_output=True, text=True
        )
    assert f"{30 - done} computed, {done} up to date" in again.stdout
    patterns = ("*.csv", "u_*/*")
    assert digests(layout.teacher(1), *patterns) == digests(whole.teacher(1), *patterns)
    assert not list(layout.teacher(1).rglob("[!.]*/.tmp-*"))


def test_run_shard_resumes_after_a_worker_died(tmp_path: Path, record_property: Record) -> None:
    sources = {name: tmp_path / f"{name}.txt" for name in "abcd"}

    def shard(folder: Path) -> int:
        targets = {name: folder / name / "out.txt" for name in sources}
        works = [
            CaseWork(
                name,
                {"text": sha256_file(file)},
                [targets[name]],
                partial(copy_or_die, file, targets[name]),
            )
            for name, file in sources.items()
        ]
        return run_shard(COPIES, folder / "labelled_0.csv", {}, works, "copy", workers=2)

    for file in sources.values():
        file.write_text("sound")
    assert shard(tmp_path / "whole") == 4
    sources["c"].write_text("killer")
    with pytest.raises(
        HstfError, match="c: its process was killed, most likely because it ran out of memory"
    ):
        shard(tmp_path / "killed")
    assert not (tmp_path / "killed" / "labelled_0.csv").exists()
    sources["c"].write_text("sound")
    with recovery(
        record_property, "a data worker dies again and again", "with the remaining cases"
    ):
        assert 1 <= shard(tmp_path / "killed") < 4
    patterns = ("*.csv", "*/out.txt")
    assert digests(tmp_path / "killed", *patterns) == digests(tmp_path / "whole", *patterns)


@as_root
def test_check_runs_without_shared_memory(tmp_path: Path, record_property: Record) -> None:
    """Semaphores are stored in /dev/shm, which some containers do not have."""
    config = Data(tmp_path).config(check={"workers": 2})
    write_text(
        tmp_path / "config.yaml",
        f"cases: {config.cases}\noutput: {config.output}\ncheck: {{workers: 2}}\n",
    )
    command = f"{sys.executable} -m hstf check --config {tmp_path}/config.yaml"
    with recovery(record_property, "no /dev/shm", "without help: one process does all the work"):
        done = subprocess.run(
            [
                "unshare",
                "--mount",
                "sh",
                "-c",
                f"mount -t tmpfs -o ro tmpfs /dev/shm && exec {command}",
            ],
            capture_output=True,
            text=True,
        )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("no namespace of mounts can be made here")
    assert "no shared memory (/dev/shm): one process does all the work\n" in done.stdout, (
        done.stderr
    )
    found = sha256_file(Layout.of(config).check)
    shutil.rmtree(config.output)
    check(config.model_copy(update={"check": config.check.model_copy(update={"workers": 1})}))
    assert sha256_file(Layout.of(config).check) == found


# ---- the workflow


def test_workflow_names_a_missing_image_and_accepts_its_return(
    experiment: Workspace, record_property: Record
) -> None:
    """Without this check, Snakemake would have nothing to do for any configuration."""
    image = experiment.folder / "case_004.nii.gz"
    image.rename(image.with_name("elsewhere"))
    experiment.configure(check={"affine_tolerance_mm": 0.5})
    message = experiment.refusal()
    assert "1 files of the case sheet are missing" in message
    assert "case_004: case_004.nii.gz is missing" in message
    image.with_name("elsewhere").rename(image)
    experiment.configure(check={})
    with recovery(record_property, "an input disappears", "when the file is back, without any job"):
        assert experiment.jobs() == {}, "the file is as it was"


def test_workflow_refuses_a_second_run_in_the_same_folder(experiment: Workspace) -> None:
    experiment.configure(check={"affine_tolerance_mm": 0.5})
    first = in_another_process(
        "lock_run(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)",
        experiment.folder / ".snakemake",
    )
    try:
        assert experiment.jobs("check") == {"check": 1}, "a dry run is allowed"
        second = experiment.snakemake("check")
        assert second.returncode == 1
        assert f"process {first.pid} on" in second.stderr + second.stdout
        assert "Wait until it ends or stop it" in second.stderr + second.stdout
        assert not (experiment.folder / "results/few/logs/check.log").exists()
    finally:
        first.kill()
        first.wait()


def test_workflow_refuses_a_second_run_with_the_same_results(
    experiment: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two copies of the repository have the same ``output:``."""
    output = tmp_path_factory.mktemp("shared")
    experiment.configure(output=str(output))
    first = in_another_process(
        "lock_results(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)",
        output / "few",
    )
    try:
        second = experiment.snakemake("check")
        assert second.returncode == 1
        assert f"process {first.pid} on" in second.stderr + second.stdout
        assert f"writes the same results ({output}/few)" in second.stderr + second.stdout
        assert not (output / "few" / "check.csv").exists()
    finally:
        first.kill()
        first.wait()


RESULTS = Path("results") / "tiny"
DONE = (
    "*/teacher/*.csv",
    "*/pseudo_labels/*.nii.gz",
    "*/labels/[!.]*/*",
    "*/*.csv",
    "*/model/*/*",
    "*/evaluation/*.*",
    "*/evaluation/predictions/*",
)


@pytest.mark.workflow
def test_workflow_resumes_after_an_image_changed_between_rounds(
    finished: Workspace, tmp_path: Path, record_property: Record
) -> None:
    """An upload was interrupted: the run stops at the check.

    When the file is as it was, round 2 has the same files as before.
    """
    workspace = finished.copy_to(tmp_path)
    shutil.rmtree(tmp_path / RESULTS / "round_2")
    image = tmp_path / "images" / "case_007.nii.gz"
    sound = image.read_bytes()
    image.write_bytes(sound[: len(sound) // 2])
    done = workspace.snakemake("round_2_student")
    assert done.returncode == 1
    log = (tmp_path / RESULTS / "logs" / "check.log").read_text()
    assert "case_007.nii.gz" in log
    assert "Traceback" not in log
    assert not (tmp_path / RESULTS / "round_2").exists()
    image.write_bytes(sound)
    with recovery(
        record_property,
        "an input changes between rounds",
        "when the file is restored, with the check and the round",
    ):
        workspace.run("round_2_student")
    found = digests(tmp_path / RESULTS, *DONE)
    expected = digests(finished.folder / RESULTS, *DONE)
    assert found == {name: expected[name] for name in found}
    assert "round_2/model/seed_0/weights.pt" in found


@pytest.mark.workflow
def test_workflow_resumes_after_it_was_killed(
    finished: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """SIGKILL of Snakemake leaves its lock, marks of incomplete files, and a job that continues.

    The experiment has the same seed as ``finished``, so that all of its files have the same bytes.
    """
    workspace = Workspace(tmp_path)
    for name in ("config.yaml", "sheet.csv"):
        shutil.copy(finished.folder / name, tmp_path / name)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--configfile", "config.yaml", "--cores", "2"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_until((tmp_path / RESULTS / "logs" / "student" / "round_1_seed_0.log").is_file, run)
    second = workspace.snakemake()
    assert second.returncode == 1
    assert f"process {run.pid} on" in second.stdout + second.stderr
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert list((tmp_path / ".snakemake" / "locks").glob("*.lock"))
    with recovery(
        record_property,
        "SIGKILL of Snakemake in a training",
        "with the unfinished jobs; it waits for jobs that still run",
    ):
        output = workspace.run()
    assert "the last run here was killed. Its lock is removed" in output
    assert provenance(tmp_path) == provenance(finished.folder)
    everything = ("*.csv", "[!.]*.json", "export/**/*", *DONE)
    assert digests(tmp_path / RESULTS, *everything) == digests(
        finished.folder / RESULTS, *everything
    )
    monkeypatch.chdir(tmp_path)
    assert main(["verify", str(RESULTS)]) == 0
    assert workspace.jobs() == {}
