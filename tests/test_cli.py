"""The command: exit codes, messages instead of tracebacks, and no import before it is needed."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hstf.cli import COMMANDS, main

HEAVY = ("torch", "monai", "pandas", "mlflow", "matplotlib", "snakemake")
WITHOUT_TORCH = (
    "phantom",
    "import",
    "check",
    "plan",
    "preprocess",
    "calibrate",
    "refine",
    "labels",
    "evaluate",
    "report",
    "compare",
    "track",
    "config",
)


def imported(statement: str) -> set[str]:
    """Which of the heavy packages a fresh Python has imported after ``statement``."""
    code = f"{statement}; import sys; print(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_cli_imports_nothing_heavy() -> None:
    assert (
        imported(
            "import hstf.cli, hstf.config.load, hstf.experiment.cases, hstf.experiment.layout,"
            " hstf.experiment.overrides"
        )
        == set()
    )


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_stages_without_a_network_import_no_torch(name: str) -> None:
    assert not imported(f"import {COMMANDS[name].module}") & {"torch", "monai", "mlflow"}


def test_main_prints_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        assert f"hstf {name}" in capsys.readouterr().out


def test_main_describes_a_problem_and_returns_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--config", f"{tmp_path}/nowhere.yaml"]) == 1
    assert "nowhere.yaml: cannot be read" in capsys.readouterr().err


def test_wrong_usage_is_exit_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["refine"])
    assert stopped.value.code == 2


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENOTDIR])
def test_main_describes_files_that_cannot_be_written(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise OSError(number, os.strerror(number), "results/x")

    monkeypatch.setattr("hstf.commands.models.run", fail)
    assert main(["models"]) == 1
    message = capsys.readouterr().err
    assert f"hstf models: results/x: could not be written ({os.strerror(number)})" in message


def test_main_does_not_hide_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    monkeypatch.setattr("hstf.commands.models.run", fail)
    with pytest.raises(FileNotFoundError):
        main(["models"])
