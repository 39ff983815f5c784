"""A tiny experiment, and the exported model that the tests of ``hstf predict`` run."""

from pathlib import Path

import pytest
from support.predict_runs import export_model
from support.tiny_model import tiny_experiment

from hstf.config.experiment import Config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Return an experiment with trained students."""
    return tiny_experiment(tmp_path)


@pytest.fixture
def model(config: Config) -> Path:
    """Return the folder of the exported model."""
    return export_model(config)
