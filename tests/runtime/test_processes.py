"""Work in processes: one that is killed is named, and none outlives its parent."""

import errno
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.runtime.processes import ProcessDied, map_processes, worker_count
from hstf.runtime.threads import THREADS, usable_cores


def double(item: str) -> str:
    if item == "killer":
        os.kill(os.getpid(), signal.SIGKILL)
    return item * 2


def test_a_killed_worker_is_named_and_costs_the_others_nothing() -> None:
    items = [str(i) for i in range(6)]
    items.insert(2, "killer")
    results = dict(map_processes(double, items, 2))
    assert isinstance(results.pop("killer"), ProcessDied)
    assert results == {item: item * 2 for item in items if item != "killer"}


def fill_disk(item: str) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), item)


def test_map_processes_raises_the_error_of_the_function() -> None:
    """An error of a file in the function does not mean that no process can be started."""
    with pytest.raises(OSError, match=r"No space left on device: 'a\.npy'") as caught:
        list(map_processes(fill_disk, ["a.npy"], 1))
    assert caught.value.filename == "a.npy"


def start_nothing(*_: object) -> None:
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize("place", ["pool", "process"])
def test_map_processes_reports_processes_that_cannot_be_started(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    if place == "pool":
        monkeypatch.setattr("hstf.runtime.processes.process_pool", start_nothing)
    else:
        monkeypatch.setattr(ProcessPoolExecutor, "submit", start_nothing)
    message = r"cannot be started \(Resource temporarily unavailable\)\. Use fewer workers"
    with pytest.raises(HstfError, match=message):
        list(map_processes(double, ["a"], 1))


PARENT = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from hstf.runtime.processes import map_processes
from support.processes import slow
if __name__ == "__main__":
    list(map_processes(slow, [Path(sys.argv[1])], 1))
"""


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    write_text(tmp_path / "parent.py", PARENT)
    note = tmp_path / "worker"
    here = str(Path(__file__).parents[1])
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(note), here])
    worker = wait_for(lambda: int(note.read_text() or 0) if note.exists() else 0)
    parent.kill()
    parent.wait()
    assert wait_for(lambda: not alive(worker))


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(condition, seconds: float = 30.0):  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not (value := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return value


@pytest.mark.parametrize(("threads", "expected"), [("1", 1), ("100000", None), ("", None)])
def test_worker_count_is_that_of_the_job(
    monkeypatch: pytest.MonkeyPatch, threads: str, expected: int | None
) -> None:
    """Jobs that run side by side would each start a process for every core of the machine."""
    monkeypatch.setenv(THREADS, threads)
    assert worker_count(0) == (expected or usable_cores())
    assert worker_count(7) == 7
