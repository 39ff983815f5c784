"""The page of the first hour shows what the commands print today."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.workspace import ROOT, Workspace


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("first_hour", ROOT / "docs" / "first_hour.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["first_hour"] = module
    spec.loader.exec_module(module)
    return module


first_hour = load_script()


def on_the_page(command: str) -> str:
    """Return what the page shows below a command."""
    text = first_hour.PAGE.read_text()
    block = re.search(rf"    \$ {re.escape(command)}\n(.*?)    ```", text, re.DOTALL)
    assert block is not None, command
    return block[1]


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first_hour")
    subprocess.run([sys.executable, "-m", "hstf", *first_hour.SCANS], cwd=folder, check=True)
    first_hour.write_scans(folder, folder / "data")
    return folder


def test_first_hour_shows_what_is_printed_before_the_run(scans: Path) -> None:
    """The order of lines does not count: Snakemake lists jobs in any order."""
    for step in first_hour.BEFORE_THE_RUN:
        shown = first_hour.show(step, scans)
        now = first_hour.plain(shown.output)
        page = first_hour.plain(on_the_page(step.command))
        assert [line for line in page if line not in now] == [], step.command
        is_whole = len(shown.output.rstrip().splitlines()) <= step.lines
        assert not is_whole or sorted(now) == sorted(page), step.command


@pytest.mark.workflow
def test_first_hour_shows_what_is_printed_after_the_run(
    finished: Workspace, tmp_path: Path
) -> None:
    """The experiment is another one: its names, numbers and warnings differ, not its lines."""
    workspace = finished.copy_to(tmp_path)
    (tmp_path / "new").mkdir()
    for number in (7, 8):
        name = f"case_{number:03d}.nii.gz"
        shutil.copy(tmp_path / "images" / name, tmp_path / "new" / f"new_{name}")
    for step, beginnings in zip(first_hour.AFTER_THE_RUN, LINES, strict=True):
        shown = first_hour.show(step, workspace.folder, "tiny").output
        page = on_the_page(step.command.replace("EXPERIMENT", "mine"))
        for beginning in beginnings:
            for text in (shown, page):
                lines = [" ".join(line.split()) for line in text.splitlines()]
                assert any(line.startswith(beginning) for line in lines), (beginning, text)


LINES = (
    ("stage jobs done running left failed", "check 1 1", "teacher, round 1", "report 1 1"),
    ("Mean test Dice of experiment", "round labelled", "0 warm-up", "2 student"),
    ("predict:",),
)
"""Beginnings of lines that the commands after the run print of every experiment."""


def test_first_hour_has_its_pictures() -> None:
    text = first_hour.PAGE.read_text()
    pictures = re.findall(r"\(\.\./images/(screen_\w+\.svg)\)", text)
    assert len(pictures) == 4
    for name in pictures:
        content = (first_hour.IMAGES / name).read_text()
        assert "hstf" in content or "snakemake" in content
        assert not re.search(r"url\(https?:|<image|@import", content), "it loads nothing"
