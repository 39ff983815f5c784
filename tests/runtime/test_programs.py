"""Programs of others: their exit codes, their time limit, and what is left of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hstf.runtime.entry_point import main
from hstf.runtime.errors import HstfError
from hstf.runtime.programs import Finished, run_program


def run(folder: Path, *words: str, seconds: float = 20) -> Finished:
    return run_program(words, folder / "output.txt", seconds, dict(os.environ))


def is_alive(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def is_killed(process: int) -> bool:
    """Wait until a process has ended."""
    deadline = time.monotonic() + 20
    while is_alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_alive(process)


def test_program_that_succeeds(tmp_path: Path) -> None:
    done = run(tmp_path, "sh", "-c", "echo one; echo two >&2")
    assert done == Finished(0, "one\ntwo\n")
    assert done.problem(60) == ""


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("echo first; echo out of memory >&2; exit 5", "exit code 5: out of memory"),
        ("exit 5", "exit code 5"),
        ("kill -9 $$", "signal 9"),
    ],
)
def test_problem_has_the_code_and_the_last_line(tmp_path: Path, script: str, problem: str) -> None:
    assert run(tmp_path, "sh", "-c", script).problem(60) == problem


def test_arguments_are_read_by_no_shell(tmp_path: Path) -> None:
    assert run(tmp_path, "echo", "$HOME; exit 3", "*").tail == "$HOME; exit 3 *\n"


@pytest.mark.parametrize(
    ("script", "seconds", "code"), [("exit 3", 20, 3), ("exit 0", 20, 0), ("sleep 60", 0.2, None)]
)
def test_program_runs_on_a_system_without_the_functions_of_linux(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    seconds: float,
    code: int | None,
) -> None:
    """macOS has no prctl, and no waitid before Python 3.13."""
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "waitid")
    assert run(tmp_path, "sh", "-c", script, seconds=seconds).code == code


def test_time_limit_kills_the_whole_group(tmp_path: Path) -> None:
    script = "sleep 60 & echo $!; sleep 60"
    done = run(tmp_path, "sh", "-c", script, seconds=0.3)
    assert done.code is None
    assert done.problem(90) == "was killed after 1.5 minutes (timeout)"
    assert is_killed(int(done.tail))


def test_child_that_a_program_leaves_behind_is_killed(tmp_path: Path) -> None:
    done = run(tmp_path, "sh", "-c", "sleep 60 & echo $!")
    assert done.code == 0
    assert is_killed(int(done.tail))


def test_unknown_program_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HstfError, match="no_such_program: cannot be started"):
        run(tmp_path, "no_such_program")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_program_ends_with_the_process_that_started_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from hstf.runtime.programs import run_program\n"
        "words = ['sh', '-c', 'echo $$ > child.txt; exec sleep 60']\n"
        "run_program(words, Path('output.txt'), 60, dict(os.environ))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    child = tmp_path / "child.txt"
    deadline = time.monotonic() + 30
    while not (child.is_file() and child.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(20)
    assert is_killed(int(child.read_text()))


def test_entry_point_calls_the_function_with_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "def copy(images, output, label):\n    output.write_text(images['t1'].name)\n"
    (tmp_path / "foreign_model.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    output = tmp_path / "output"
    main(["foreign_model:copy", f'[{{"t1": "a.nii.gz"}}, "{output}", null]'])
    assert output.read_text() == "a.nii.gz"
    main(["foreign_model:copy"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "foreign_model.py")
