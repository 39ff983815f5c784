"""Locks end with their process; each process gets the GPU that the fewest others use."""

import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
from support.processes import in_another_process

from hstf.runtime import locks as module
from hstf.runtime.gpu_lease import gpu_of_this_process, lease, visible_devices
from hstf.runtime.locks import Taken, exclusive, take
from hstf.runtime.run_lock import lock_run

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
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert gpu_of_this_process(0) is None and gpu_of_this_process(1) is None
    assert gpu_of_this_process(2) == 0
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert gpu_of_this_process(2) is None
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpu_of_this_process(2) == 1
