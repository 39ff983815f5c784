"""A tiny experiment for each test of the export."""

from pathlib import Path

import pytest
from support.tiny_model import tiny_experiment

from hstf.config.experiment import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return an experiment with trained students."""
    return tiny_experiment(tmp_path)
