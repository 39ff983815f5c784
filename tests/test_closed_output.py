"""No command ends in a traceback if the reader of its output has gone, as in ``| head``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hstf.runtime.closed_output import EXIT_CLOSED_OUTPUT, end_quietly

LIGHT = """
import sys
from hstf.cli import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit:
        pass
print(*sys.modules)
"""
"""Prints the help of all commands, and the modules that it has imported."""


def run_closed(arguments: list[str], both: bool = False) -> tuple[int, str]:
    """Run ``hstf`` with a standard output that is closed; ``both``: also the standard error."""
    reader, writer = os.pipe()
    os.close(reader)
    errors = writer if both else subprocess.PIPE
    command = [sys.executable, "-m", "hstf", *arguments]
    environment = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, stdout=writer, stderr=errors, text=True, check=False, env=environment
    )
    os.close(writer)
    return done.returncode, done.stderr or ""


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["config", "--show"]])
def test_main_ends_quietly_if_nobody_reads_its_output(arguments: list[str]) -> None:
    assert run_closed(arguments) == (EXIT_CLOSED_OUTPUT, "")


def test_main_ends_quietly_if_nobody_reads_its_errors(tmp_path: Path) -> None:
    missing = ["predict", "--model", "x", "--input", str(tmp_path / "no"), "--output", "y"]
    assert run_closed(missing, both=True) == (EXIT_CLOSED_OUTPUT, "")


def test_end_quietly_does_not_hide_other_pipes() -> None:
    with pytest.raises(BrokenPipeError), end_quietly():
        raise BrokenPipeError


def test_help_of_all_commands_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", LIGHT]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert not imported & {"numpy", "torch", "pydantic", "nibabel", "yaml", "pandas"}
