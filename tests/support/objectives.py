"""Training states and batches for the tests of objectives."""

from pathlib import Path
from typing import Any

import torch

from hstf.config.experiment import Config
from hstf.models.base import NetworkSpec
from hstf.models.registry import build
from hstf.training.batch import Batch
from hstf.training.state import TrainingState
from support.training_files import (
    CLASSES,
    PLAN,
    new_state,
    some_batch,
    write_experiment,
)


def online(
    folder: Path, method: str, step: int = 6, **student: Any
) -> tuple[Config, TrainingState, Batch]:
    """Return the last step of a method; the second patch is unlabelled, half outside the scan."""
    config, _ = write_experiment(folder, method=method, student={"steps": 6, **student})
    batch = some_batch(config, [False, True])
    batch.target[1], batch.weight[1] = 1 / CLASSES, 0
    batch.target[1, :, :4] = 0
    return config, new_state(config, step), batch


def pair_state(config: Config, step: int = 6) -> TrainingState:
    """Return the state of a student with two networks."""
    torch.manual_seed(0)
    spec = NetworkSpec(
        "pair",
        1,
        CLASSES,
        PLAN.channels,
        PLAN.strides,
        PLAN.kernels,
        PLAN.spacing,
        1,
        1,
        pair=("hybrid", "cnn"),
    )
    state = TrainingState.start(build(spec), config.student)
    state.network.eval()
    state.step = step
    return state
