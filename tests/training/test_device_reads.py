"""How often a training step makes the CPU wait for a GPU, counted without a GPU.

The operations are counted that read a number from the device or whose result has a size that the
device computes. Numbers of the host are read as arrays of numpy, which a GPU would refuse.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.objectives import pair_state
from support.pretraining_files import batch_of, new_state, plan, task_of
from support.training_files import PATCH, cases_in, source_of, write_experiment
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hstf.config.experiment import Config
from hstf.config.objectives import OBJECTIVES
from hstf.config.pretrain import TASKS
from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation
from hstf.method.objectives.registry import build_objective
from hstf.method.objectives.supervision import supervised
from hstf.training import loop
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.loop import Objective, draw_batch
from hstf.training.state import TrainingState
from hstf.training.step_values import StepValues

WAITING = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "_unique2",
    "unique_dim",
    "equal",
    "is_nonzero",
    "item",
}
"""Operations of ATen that wait for the device."""
WITH_MASKS = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations that wait if an index is a mask."""
INDEXERS = ("__getitem__", "__setitem__")
"""Methods of a tensor that wait if an index is a list, which is copied to the device. Vectors, such
as voxel sizes, are on the host."""
READERS = ("tolist", "cpu", "__bool__", "__float__", "__int__")
"""Methods of a tensor that copy it to the host; some do so without an operation."""


class Waits(TorchDispatchMode):
    """Counts operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        masks = name in WITH_MASKS and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or masks:
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count waits while the block runs."""
    waits = Waits()

    def counted(name: str) -> Any:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *arguments: Any) -> Any:
            waits.counts[name] += 1
            return original(tensor, *arguments)

        return read

    def counted_lists(name: str) -> Any:
        original = getattr(Tensor, name)

        def indexed(tensor: Tensor, index: Any, *values: Any) -> Any:
            parts = index if isinstance(index, tuple) else (index,)
            if tensor.ndim > 1 and any(isinstance(part, list) for part in parts):
                waits.counts[name] += 1
            return original(tensor, index, *values)

        return indexed

    with monkeypatch.context() as patch, waits:
        for name in READERS:
            patch.setattr(Tensor, name, counted(name))
        for name in INDEXERS:
            patch.setattr(Tensor, name, counted_lists(name))
        yield waits.counts


def objective_of(name: str, config: Config) -> Objective:
    return supervised(config) if name == "supervised" else build_objective(name, config)


@pytest.mark.parametrize("name", ["supervised", *OBJECTIVES])
def test_a_step_waits_for_no_device(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All random changes happen in every step, and steps with another scale are among them."""
    config, _ = write_experiment(
        tmp_path,
        student={
            "ema_blend": 0.5,
            "mixing": {"probability": 0.5},
            "csc": {"pyramid_weight": 0.1, "every": 2},
            "augmentation": {
                "affine_probability": 0.7,
                "elastic_probability": 0.7,
                "intensity_probability": 0.7,
                "fourier_probability": 0.7,
            },
        },
    )
    training = config.student
    source = source_of(cases_in(tmp_path, 2), cases_in(tmp_path, 2, "u"))
    assert source.patch_size == PATCH
    state = pair_state(config, step=4)
    state.network.train()
    state.optimizer.fused = True  # as on a GPU; the optimiser of a CPU counts its steps in tensors
    objective = objective_of(name, config)
    device = torch.device("cpu")
    values = StepValues(state, training)
    monkeypatch.setattr(values, "read", lambda later=0: None)  # read later, see the next test
    for step in range(4, 6):
        raw = source.batch(step)
        with counted_waits(monkeypatch) as counts:
            batch = draw_batch(raw, source, training, step, device)
            loop._train_step(state, source, raw, batch, objective, training, values)
        assert not counts
    assert state.step == 6


def test_changes_of_several_kinds_of_channels_wait_for_no_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CT and PET change separately, and a mask keeps its values."""
    ct = Normalisation(scheme="ct", lower=-100, upper=200, mean=50, std=40)
    schemes = (ct, Normalisation(scheme="uptake"), Normalisation(scheme="mask"))
    of_three = plan(channels=3).model_copy(update={"normalisation": schemes})
    image = torch.randn(2, 3, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    batch = replace(
        batch_of(image, of_three),
        unlabelled=(False, True),
        augmentation=AugmentationConfig(intensity_probability=1, fourier_probability=1),
        acquisition=Acquisition.of(of_three, ("ct", "pet", "mask")),
    )
    with counted_waits(monkeypatch) as counts:
        strong = batch.strong()
        corrupted, _ = task_of("denoise", of_three).corrupt(batch)
    assert not counts
    for changed in (strong, corrupted):
        assert changed[:, 2].equal(image[:, 2])
        assert not changed[:, 0].equal(image[:, 0])


@pytest.mark.parametrize("name", TASKS)
def test_a_step_of_pre_training_waits_for_no_device(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = [replace(case, target_path=None, locations_path=None) for case in cases_in(tmp_path, 3)]
    patients = {case.case_id: case.case_id for case in cases}
    off = {"contrastive": {"crop": [4, 4, 4], "pairs": 3}}
    task = task_of(name, plan(), patients, **off)
    source = task.source(source_of(cases, [], foreground_fraction=0.0))
    state = new_state(task)
    state.optimizer.fused = True
    training = task.section.training
    values = StepValues(state, training)
    monkeypatch.setattr(values, "read", lambda later=0: None)
    for step in range(2):
        raw = source.batch(step)
        with counted_waits(monkeypatch) as counts:
            batch = draw_batch(raw, source, training, step, torch.device("cpu"))
            loop._train_step(state, source, raw, batch, task, training, values)
        assert not counts


def test_the_numbers_of_a_step_are_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = write_experiment(tmp_path)
    state: TrainingState = pair_state(config, step=4)
    values = StepValues(state, config.student)
    terms = {"loss": torch.tensor(3.0), "a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    with counted_waits(monkeypatch) as counts:
        values.add(0, ("a",), 0.1, terms, torch.tensor(1.0))
    assert not counts, "the numbers are copied to the host at once"
    assert state.averages.sums == {"loss": 3.0, "a": 1.0, "b": 2.0}


def test_reads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.tensor([1.0, -1.0])
    with counted_waits(monkeypatch) as counts:
        float(values[0])
        values[values > 0]
        values.nonzero()
        if values.any():
            values.tolist()
        values[None][[0]] = values[None][[0]]
    expected = {"index", "nonzero", "tolist", "_local_scalar_dense", *INDEXERS}
    assert expected <= counts.keys()
    assert sum(counts.values()) >= 7
