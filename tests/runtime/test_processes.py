"""Work in processes: one that is killed is named, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from hstf.runtime.files import write_text
from hstf.runtime.processes import ProcessDied, map_processes


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
