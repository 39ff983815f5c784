"""Locks end with their process; each process gets the GPU that the fewest others use."""

import os
import platform
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.processes import in_another_process

from hstf.runtime import locks as module
from hstf.runtime import run_lock as run_lock_module
from hstf.runtime.errors import HstfError
from hstf.runtime.gpu_lease import (
    count_gpus,
    gpu_of_this_process,
    indices_of_rank,
    lease,
    lease_folder,
    visible_devices,
)
from hstf.runtime.locks import Taken, exclusive, holder_of, take
from hstf.runtime.run_lock import RESULTS_LOCK, active_run, lock_results, lock_run

HOLD = "take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def test_take_names_the_holder_and_ends_with_it(tmp_path: Path) -> None:
    process = in_another_process(HOLD, tmp_path / "lock")
    with pytest.raises(Taken, match=rf"process {process.pid} on \S+ since 20"):
        take(tmp_path / "lock")
    process.send_signal(signal.SIGKILL)
    process.wait()
    os.close(take(tmp_path / "lock"))


def test_exclusive_waits_and_names_the_holder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = in_another_process(HOLD.replace("60", "1"), tmp_path / "lock")
    start = time.monotonic()
    with exclusive(tmp_path / "lock", "teacher 1 unlabelled_0"):
        assert process.wait(5) == 0
    assert time.monotonic() - start < 10
    printed = capsys.readouterr().out
    assert printed.startswith(f"teacher 1 unlabelled_0: waiting for process {process.pid} on")
    assert printed.count("waiting for") == 1


def test_locks_are_skipped_on_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(module.fcntl, "flock", none)
    with exclusive(tmp_path / "lock", "x"):
        pass
    assert lock_run(tmp_path) == ""
    assert lease(["0", "1"], tmp_path) is None


def test_take_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x" * 300)
    (tmp_path / "lock").symlink_to("precious")
    with pytest.raises(OSError):
        take(tmp_path / "lock")
    assert (tmp_path / "precious").read_text() == "x" * 300


def test_lock_run_removes_the_locks_of_a_killed_run_only(
    tmp_path: Path,
) -> None:
    lock = tmp_path / "locks" / "0.input.lock"
    lock.parent.mkdir()
    lock.write_text("a.nii.gz")
    process = in_another_process(
        "lock_run(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)", tmp_path
    )
    lock.parent.mkdir(exist_ok=True)
    lock.write_text("a.nii.gz")  # as Snakemake does when it starts to work
    with pytest.raises(Taken, match=f"process {process.pid}"):
        lock_run(tmp_path)
    assert lock.is_file()
    process.kill()
    process.wait()
    assert "was killed" in lock_run(tmp_path)
    assert not lock.exists()


def test_lock_run_of_a_dry_run_stops_no_run_that_starts_meanwhile(tmp_path: Path) -> None:
    mark = tmp_path / "incomplete" / "cmVzdWx0"
    mark.parent.mkdir()
    mark.touch()
    message = lock_run(tmp_path, stays=False)
    assert message == "the last run here was stopped. Its unfinished jobs continue."
    assert not mark.exists()
    assert holder_of(tmp_path / "hstf.lock") == ""
    process = in_another_process(
        "lock_run(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)", tmp_path
    )
    process.kill()
    process.wait()


def left_by(folder: Path, run: str) -> Path:
    """Write what a killed run leaves; return its lock."""
    lock = folder / "locks" / "0.input.lock"
    for path in (lock, folder / "incomplete" / "cmVzdWx0"):
        path.parent.mkdir()
        path.write_text("a.nii.gz")
    (folder / "hstf.lock").write_text(run)
    return lock


def mounted_as(disk: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = folder / "mounts"
    mounts.write_text(f"/dev/root / ext4 rw 0 0\nserver:/data {folder} {disk} rw 0 0\n")
    monkeypatch.setattr(run_lock_module, "MOUNTS", mounts)


@pytest.fixture
def start_and_end(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Return a function that locks a folder, as a run does, and releases it."""
    held = []

    def take_and_note(path: Path) -> int:
        held.append(take(path))
        return held[-1]

    def run(folder: Path) -> str:
        message = lock_run.__wrapped__(folder)
        os.close(held.pop())
        return message

    monkeypatch.setattr(run_lock_module, "take", take_and_note)
    return run


ELSEWHERE = "process 4711 on another-node since 2026-05-01 12:00:00"


def test_lock_run_keeps_the_locks_of_another_machine_and_names_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_and_end: Callable[[Path], str]
) -> None:
    """The second start knows as well as the first one whose locks these are."""
    mounted_as("nfs4", tmp_path, monkeypatch)
    lock = left_by(tmp_path, ELSEWHERE)
    for _ in range(2):
        message = start_and_end(tmp_path)
        assert f"the last run here was {ELSEWHERE}, and this is {platform.node()}" in message
        assert "--unlock" in message
        assert lock.is_file()
    lock.unlink()  # what --unlock does
    assert "Its unfinished jobs continue" in start_and_end(tmp_path)
    assert not list((tmp_path / "incomplete").iterdir())
    assert start_and_end(tmp_path) == ""


def test_lock_run_names_one_holder_beside_locks_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted_as("nfs4", tmp_path, monkeypatch)
    left_by(tmp_path, ELSEWHERE)
    lock_run.__wrapped__(tmp_path)
    with pytest.raises(Taken, match=rf"^process {os.getpid()} on \S+ since [-\d: ]+$"):
        lock_run.__wrapped__(tmp_path)


def test_lock_run_removes_the_locks_of_a_renamed_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container has another host name each time, but a local disk has one machine only."""
    mounted_as("ext4", tmp_path, monkeypatch)
    lock = left_by(tmp_path, ELSEWHERE)
    assert "was killed" in lock_run.__wrapped__(tmp_path)
    assert not lock.exists()
    assert not list((tmp_path / "incomplete").iterdir())


def test_lease_chooses_the_least_used_device(tmp_path: Path) -> None:
    code = "print(lease(['0', 'GPU-b', '2'], Path(sys.argv[1])), flush=True); time.sleep(60)"
    processes = [in_another_process(code, tmp_path / "leases") for _ in range(4)]
    assert [process.first for process in processes] == ["0", "1", "2", "0"]  # type: ignore[attr-defined]
    processes[1].kill()
    processes[1].wait()
    processes.append(in_another_process(code, tmp_path / "leases"))
    assert processes[-1].first == "1"  # type: ignore[attr-defined]
    for process in processes:
        process.kill()
        process.wait()


def test_visible_devices_uses_the_names_of_the_environment() -> None:
    assert visible_devices(2, {}) == ["0", "1"]
    assert visible_devices(2, {"CUDA_VISIBLE_DEVICES": "3, GPU-7"}) == ["3", "GPU-7"]
    assert visible_devices(2, {"CUDA_VISIBLE_DEVICES": "5"}) == ["0", "1"]


def test_gpu_of_this_process_follows_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes within one job of SLURM do not use its first GPU only."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_of_this_process(0) is None and gpu_of_this_process(1) is None
    assert gpu_of_this_process(2) == 0
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert [gpu_of_this_process(2), gpu_of_this_process(2)] == [0, 1]
    monkeypatch.setenv("SLURM_JOB_ID", "2")
    assert gpu_of_this_process(2) == 0, "another job has GPUs of its own"
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert gpu_of_this_process(2) == 1


def test_gpu_of_this_process_is_another_one_for_each_process_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPU 0 is used twice and GPU 1 is not: both processes would choose GPU 1."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    folder = lease_folder()
    assert folder is not None
    assert [lease(["0"], folder), lease(["0"], folder)] == [0, 0]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    found = []
    for rank in range(2):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        found.append(gpu_of_this_process(2))
    assert found == [0, 1]


def test_indices_of_rank_divides_the_gpus_among_the_processes() -> None:
    ranks = [{"LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"} for rank in range(2)]
    assert [indices_of_rank(3, rank) for rank in ranks] == [[0, 2], [1]]
    assert indices_of_rank(3, {}) == [0, 1, 2]
    assert indices_of_rank(2, {"LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}) == [1]


@pytest.mark.parametrize(("visible", "expected"), [(None, 2), ("", 0), ("1", 1), ("GPU-1a", 1)])
def test_count_gpus_counts_those_that_may_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, expected: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus(tmp_path) == expected


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the folders of the locks: the usual one, and the one for the time of the login."""
    name = f"hstf-{os.geteuid()}"
    for folder in ("tmp", "runtime"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "tmp" / name, tmp_path / "runtime" / name


def test_lease_folder_is_private_to_the_user(places: tuple[Path, Path]) -> None:
    usual, _ = places
    assert lease_folder() == usual
    assert usual.stat().st_mode & 0o777 == 0o700
    usual.chmod(0o777)
    assert lease_folder() == usual
    assert usual.stat().st_mode & 0o777 == 0o700, "an earlier folder becomes private"


@pytest.mark.parametrize("kind", ["another owner", "link", "file"])
def test_lease_folder_refuses_what_others_may_have_put_there(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    usual, other = places
    user = os.geteuid()
    if kind == "link":
        (usual.parent / "elsewhere").mkdir(mode=0o755)
        usual.symlink_to("elsewhere")
    elif kind == "file":
        usual.write_text("")
    else:
        usual.mkdir(mode=0o755)
        if user:
            pytest.skip("only root can give a folder away")
        os.chown(usual, 12345, 12345)
    before = usual.lstat().st_mode
    assert lease_folder() == other
    assert usual.lstat().st_mode == before
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    with pytest.raises(HstfError, match=r"belongs to another user or is a link.*TMPDIR"):
        gpu_of_this_process(2)


def test_gpu_of_this_process_has_no_lease_without_a_place_to_write(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert gpu_of_this_process(2) == 0


def test_lock_results_refuses_a_run_of_another_folder(tmp_path: Path) -> None:
    code = "lock_results(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    process = in_another_process(code, tmp_path / "few")
    with pytest.raises(Taken, match=f"process {process.pid} on"):
        lock_results(tmp_path / "few")
    assert f"process {process.pid} on" in active_run(tmp_path / "few")
    lock_results(tmp_path / "other")
    process.kill()
    process.wait()
    assert active_run(tmp_path / "few") == ""
    lock_results(tmp_path / "few")
    assert (tmp_path / "few" / RESULTS_LOCK).is_file()
