"""The stage ``pretrain``: what it reads, what it writes, and what starts from it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.stages import student, warmup
from support.training_files import PLAN, TRAINING, write_experiment, write_labels

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Normalisation
from hstf.models.registry import load_facts, load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, sha256_file
from hstf.stages import pretrain as stage
from hstf.training.loop import train as real_train

TASKS = ("masked", "denoise", "contrastive", "fusion")


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def experiment(folder: Path, task: str, **keys: Any) -> tuple[Config, Path]:
    """Write a preprocessed experiment with pre-training."""
    section = {**TRAINING, "task": task, "contrastive": {"pairs": 4, "crop": [4, 4, 4]}}
    section |= keys.pop("pretrain", {})
    return write_experiment(folder, pretrain=section, **keys)


def pretrain(config: Config) -> None:
    stage.pretrain(StageContext.of(config, "pretrain"))


@pytest.mark.parametrize("task", TASKS)
def test_pretrain_writes_weights_history_and_examples(tmp_path: Path, task: str) -> None:
    config, path = experiment(tmp_path, task)
    assert main(["pretrain", "--config", str(path)]) == 0
    layout = Layout.of(config)
    network, meta = load_network(layout.pretrained_weights)
    print(meta, [(r["step"], r["loss"]) for r in read_csv(layout.pretraining_history)])
    assert meta["task"] == task
