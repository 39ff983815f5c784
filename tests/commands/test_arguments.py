"""Command-line options: help must not load the imaging and training libraries."""

import subprocess
import sys

import pytest

from hstf.cli import main

HEAVY = ("torch", "monai", "nibabel", "scipy", "pandas", "numpy", "pydantic")


def test_arguments_imports_no_heavy_library() -> None:
    code = f"""
import sys

import pytest

from hstf.cli import main
import hstf.commands.arguments
import hstf.commands.import_arguments
import hstf.commands.phantom_arguments
print([name for name in {HEAVY} if name in sys.modules])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["audit", "results/x", "--port", "99999"], "'99999' is not a port from 0 to 65535"),
        (["audit", "results/x", "--port", "-1"], "'-1' is not a port"),
        (["status", "--watch", "-5"], "'-5' is not a number of seconds from 0.1"),
        (["status", "--watch", "0"], "'0' is not a number of seconds"),
        (["status", "--watch", "inf"], "'inf' is not a number of seconds"),
        (["status", "--watch", "nan"], "'nan' is not a number of seconds"),
        (["estimate", "--config", "a.yaml", "--cores", "-3"], "'-3' is not a whole number from 1"),
        (["estimate", "--config", "a.yaml", "--cores", "0"], "'0' is not a whole number from 1"),
        (["models", "--patch", "8", "0", "8"], "'0' is not a whole number from 1"),
    ],
)
def test_main_refuses_numbers_out_of_range(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(options)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
