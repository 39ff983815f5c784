"""A finished round with files of many cases, and a copy of it for each test of ``hstf forget``."""

import contextlib
import shutil
from pathlib import Path

import pytest
from support.forgotten_files import ROOT, write_experiment


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an experiment of one round and all files of all cases."""
    folder = tmp_path_factory.mktemp("original")
    with contextlib.chdir(folder):
        write_experiment()
    return folder


@pytest.fixture
def root(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the experiment, in the working directory."""
    monkeypatch.chdir(shutil.copytree(original, tmp_path / "copy"))
    return ROOT
