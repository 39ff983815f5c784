"""Command-line options: help must not load the imaging and training libraries."""

import subprocess
import sys

import pytest

from hstf.cli import main

HEAVY = ("torch", "monai", "nibabel", "scipy", "pandas", "numpy", "pydantic")
COMMANDS = ("phantom", "import", "predict", "models", "verify", "config")


def test_arguments_imports_no_heavy_library() -> None:
    code = f"""
import sys
import hstf.commands.arguments
print([name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_describes_all_options(
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    output = capsys.readouterr().out
    assert f"usage: hstf {command}" in output
    assert "-h, --help" in output
