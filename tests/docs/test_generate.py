"""The generated parts of the documentation agree with the code."""

import re
from pathlib import Path

import pytest
from support.workspace import ROOT

from docs import generate
from hstf.cli import COMMANDS

FILES = dict(generate.generated())
COMMANDS_PAGE = ROOT / "docs" / "reference" / "commands.md"


@pytest.mark.parametrize(
    "path", [path for path in FILES if path != COMMANDS_PAGE], ids=lambda path: path.name
)
def test_generated_files_agree_with_the_code(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make docs`"


def test_commands_page_has_every_option() -> None:
    """Only the options are compared: the layout of the help depends on the version of Python."""
    page = COMMANDS_PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## hstf {name}\n" in page
    options = set(re.findall(r"--[a-z][a-z-]+", FILES[COMMANDS_PAGE]))
    assert options == set(re.findall(r"--[a-z][a-z-]+", page)), "run `make docs`"


def test_every_table_has_a_place_in_the_page_of_output_files() -> None:
    page = (ROOT / "docs" / "reference" / "output-files.md").read_text(encoding="utf-8")
    for table in generate.TABLES:
        assert f"<!-- table: {table.name} -->" in page
