"""The command: exit codes, messages instead of tracebacks, and no import before it is needed."""

import argparse
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.workspace import ROOT

from hstf.cli import COMMANDS, main

HEAVY = ("torch", "monai", "pandas", "mlflow", "matplotlib", "snakemake")
WITHOUT_TORCH = (
    "phantom",
    "import",
    "check",
    "plan",
    "preprocess",
    "calibrate",
    "external",
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


NETWORKS_RUN = """
import sys, tempfile
from pathlib import Path
import torch
import hstf.commands.predict, hstf.stages.student, hstf.stages.teacher, hstf.stages.warmup
import hstf.method.inference
from hstf.method.sliding_window import sliding_probabilities
from hstf.method.tta import zoom_image
from support import training_files as files

folder = Path(tempfile.mkdtemp())
config, _ = files.write_experiment(folder)
state = files.new_state(config)
batch = files.some_batch(config, [False, True])
objective = hstf.stages.student.student_objective(config)
loss = torch.stack(list(objective(state, batch).values())).sum()
hstf.training.loop.compute_gradients(state, loss, config.student)
hstf.training.loop.take_step(state, 0.1, config.student)
state.save(folder, "")
state.resume(folder, "")
image = zoom_image(torch.zeros(1, 8, 8, 8), 0.8)
sliding_probabilities(state.ema, image, (8, 8, 8), 0.5, 2, "off", torch.device("cpu"))
print(*sys.modules)
"""
NOT_FOR_NETWORKS = {"monai", "pandas", "mlflow", "matplotlib", "sympy", "torch._dynamo"}
"""What the stages with networks must not import; each takes as long as many training steps."""


def test_a_step_and_a_prediction_import_no_compiler_and_no_monai(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", NETWORKS_RUN]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert not NOT_FOR_NETWORKS & set(done.stdout.split())


def test_training_and_teacher_import_nothing_of_native_scans() -> None:
    code = "import sys, hstf.stages.warmup, hstf.stages.teacher; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not {"scipy", "nibabel", "cc3d", "monai"} & set(done.stdout.split())


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


@pytest.mark.parametrize(
    ("error", "expected", "other"),
    [
        (MemoryError(), "Use fewer workers", "plan.memory_gb"),
        (RuntimeError("CUDA error: out of memory"), "lower plan.memory_gb", "workers"),
    ],
)
def test_main_advises_on_the_memory_that_is_full(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    expected: str,
    other: str,
) -> None:
    def run(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr("hstf.commands.models.run", run)
    assert main(["models"]) == 1
    message = capsys.readouterr().err
    assert "hstf models: out of memory" in message
    assert expected in message
    assert other not in message


@pytest.mark.parametrize("part", ["_parser", "importlib.import_module"])
def test_main_reports_an_interruption_while_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    """The import of PyTorch takes seconds, in which Ctrl-C ended in a traceback."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"hstf.cli.{part}", interrupted)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == "hstf models: interrupted\n"


def test_main_does_not_hide_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: argparse.Namespace) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    monkeypatch.setattr("hstf.commands.models.run", fail)
    with pytest.raises(FileNotFoundError):
        main(["models"])
