"""What a training by two processes is tested with; the program of these processes.

``torchrun … -m support.two_ranks FOLDER`` runs several checks after each other, because most of the
time of a check is the start of the processes.
"""

import itertools
import os
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.objectives import OBJECTIVES
from hstf.experiment.layout import Layout
from hstf.method.objectives.registry import build_objective
from hstf.training.distributed import (
    is_first_rank,
    process_group,
    rank,
    rank_count,
    with_synchronised_gradients,
)
from support.objectives import pair_state
from support.training_files import (
    PLAN,
    TRAINING,
    new_state,
    some_batch,
    write_experiment,
    write_labels,
)

UNCHANGED = {
    "affine_probability": 0,
    "elastic_probability": 0,
    "intensity_probability": 0,
    "flip_axes": [],
}
EVERY_STEP = {**TRAINING, "history_every": 1, "augmentation": UNCHANGED, "amp": "off"}
"""A training without random augmentation and with a row in the history for each step."""
CSC = {
    "prediction_weight": 0.4,
    "feature_weight": 0.2,
    "pyramid_weight": 0.1,
    "segmentation_weight": 0.5,
    "scale_range": [0.75, 0.75],  # above 1, the place of the box is random
    "every": 2,
}
EVERY_PART = {"ema_blend": 0.5, "csc": CSC}
"""A student with every part of the method."""
BATCH = [False, False, False, True]
"""Which patches are unlabelled: the first of two ranks has none of them."""


def experiment(folder: Path, batch_size: int, **keys: Any) -> tuple[Config, Path]:
    """Write a training in which only the choice of the patches is random."""
    network = {"transformer_layers": 1, "transformer_heads": 1, "drop_path": 0.0}
    config, path = write_experiment(folder, network=network, **keys)
    PLAN.model_copy(update={"batch_size": batch_size}).save(Layout.of(config).plan)
    return config, path


def warmup_experiment(folder: Path) -> tuple[Config, Path]:
    """Write a warm-up with four patches in a batch."""
    return experiment(folder, 4, warmup={**EVERY_STEP, "steps": 16, "seeds": 1})


def student_experiment(folder: Path, batch_size: int, **keys: Any) -> tuple[Config, Path]:
    """Write a student with every part of the method."""
    config, path = experiment(folder, batch_size, student={**EVERY_STEP, **EVERY_PART, **keys})
    write_labels(config, 1, ["u_0", "u_2"], rejected=["u_1"])
    return config, path


def gradients(objective: str, folder: Path) -> dict[str, Tensor]:
    """Return terms and gradients of the second of two steps, on this rank's part of a batch."""
    student = {**EVERY_STEP, **EVERY_PART, "consistency": {"noise": 0.0, "passes": 2}}
    config, _ = experiment(folder, len(BATCH), student=student)
    state = pair_state(config, step=4) if objective == "cross_teaching" else new_state(config, 4)
    whole = some_batch(config, BATCH)
    own = slice(rank(), None, rank_count())
    part = {
        name: getattr(whole, name)[own]
        for name in ("weak", "target", "weight", "pseudo", "unlabelled")
    }
    compute = with_synchronised_gradients(state.network, build_objective(objective, config))
    for _ in range(2):
        state.network.zero_grad()
        terms = compute(state, replace(whole, **part))
        torch.stack(list(terms.values())).sum().backward()
    found = {name: value.detach() for name, value in terms.items()}
    for name, parameter in state.network.named_parameters():
        if parameter.grad is not None:
            found[f"grad {name}"] = parameter.grad
    return found


def allow_several_groups() -> None:
    """Let a process start several process groups after each other.

    Each group gets its own prefix in the store of torchrun. Otherwise a group would find the
    addresses of the group before.
    """
    start_group = dist.init_process_group
    numbers = itertools.count()

    def start(backend: str, timeout: timedelta) -> None:
        port = int(os.environ["MASTER_PORT"])
        shared = dist.TCPStore(os.environ["MASTER_ADDR"], port, is_master=False)
        store = dist.PrefixStore(f"group {next(numbers)}", shared)
        start_group(backend, store=store, rank=rank(), world_size=rank_count(), timeout=timeout)

    dist.init_process_group = start


def run(folder: Path) -> int:
    """Run all checks of a rank.

    The warm-up in ``folder/warmup`` resumes, the gradients of every objective are stored in
    ``folder/gradients.pt``, the student in ``folder/student`` is trained, and the student in
    ``folder/damaged`` fails.
    """
    allow_several_groups()
    assert main(["warmup", "--config", str(folder / "warmup/config.yaml"), *MEMBER]) == 0
    with process_group("cpu"), tempfile.TemporaryDirectory() as scratch:
        content = {name: gradients(name, Path(scratch) / name) for name in OBJECTIVES}
        if is_first_rank():
            torch.save(content, folder / "gradients.pt")
    student = ["student", "--round", "1", *MEMBER, "--config"]
    assert main([*student, str(folder / "student/config.yaml")]) == 0
    return main([*student, str(folder / "damaged/config.yaml")])


MEMBER = ["--member", "seed_0"]

if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
