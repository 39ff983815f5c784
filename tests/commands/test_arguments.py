"""Command-line options: help must not load the imaging and training libraries."""

import subprocess
import sys

HEAVY = ("torch", "monai", "nibabel", "scipy", "pandas", "numpy", "pydantic")


def test_arguments_imports_no_heavy_library() -> None:
    code = f"""
import sys
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
