"""An experiment to evaluate for each test, and predictors that replace its networks."""

from pathlib import Path

import pytest
from support.evaluation_files import FakePredictor, install_predictors, make_experiment

from hstf.config.experiment import Config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Return an experiment in the working directory, before any evaluation."""
    monkeypatch.chdir(tmp_path)
    return make_experiment(tmp_path)


@pytest.fixture
def predictors(config: Config, monkeypatch: pytest.MonkeyPatch) -> dict[int, FakePredictor]:
    """Return the predictor of each round, which replaces its networks."""
    return install_predictors(config, monkeypatch)
