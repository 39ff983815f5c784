"""Small tasks of pre-training and batches for them."""

from typing import Any

import torch
from torch import Tensor

from hstf.config.network import NetworkConfig
from hstf.config.pretrain import PretrainConfig
from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation, Plan
from hstf.method.pretraining.registry import build_task
from hstf.method.pretraining.task import PretrainingTask, TaskSettings
from hstf.models.registry import network_spec
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.batch import Batch
from hstf.training.loop import compute_gradients, learning_rate, take_step
from hstf.training.state import TrainingState

NETWORK = NetworkConfig(transformer_layers=1, transformer_heads=1, drop_path=0)
STILL = AugmentationConfig(
    affine_probability=0, elastic_probability=0, intensity_probability=0, flip_axes=()
)
ISOTROPIC = (1.0, 1.0, 1.0)
THICK = (1.0, 1.0, 6.0)


def plan(spacing: tuple[float, float, float] = ISOTROPIC, channels: int = 1) -> Plan:
    """Return a plan of two levels; slices that are thick stay apart."""
    deep = (2, 2, 1) if spacing == THICK else (2, 2, 2)
    return Plan(
        spacing=spacing,
        patch_size=(8, 8, 4 if spacing == THICK else 8),
        batch_size=2,
        channels=(4, 8),
        strides=((1, 1, 1), deep),
        kernels=((3, 3, 3), (3, 3, 3)),
        normalisation=(Normalisation(scheme="zscore"),) * channels,
        median_shape=(12, 12, 8),
        reasons={},
    )


def task_of(
    name: str, plan: Plan, patients: dict[str, str] | None = None, **keys: Any
) -> PretrainingTask:
    """Build a task."""
    section = PretrainConfig(task=name, steps=8, warmup_steps=1, **keys)
    inputs = len(plan.normalisation)
    return build_task(TaskSettings(section, NETWORK, plan, inputs, patients or {}))


def batch_of(
    image: Tensor, plan: Plan, seed: int = 0, case_ids: tuple[str, ...] | None = None
) -> Batch:
    """Return a batch of patches that are wholly inside their scans."""
    inside = torch.ones_like(image[:, :1])
    names = case_ids or tuple(f"case_{k}" for k in range(len(image)))
    generator = torch.Generator().manual_seed(seed)
    acquisition = Acquisition.of(plan, ["mr"] * image.shape[1])
    flags = (True,) * len(image)
    pseudo = inside > 0
    return Batch(image, inside, inside, pseudo, flags, STILL, generator, acquisition, names)


def new_state(task: PretrainingTask, seed: int = 0) -> TrainingState:
    """Return the state before the first step."""
    torch.manual_seed(seed)
    settings = task.settings
    spec = network_spec(settings.network, settings.plan, settings.inputs, task.outputs)
    return TrainingState.start(task.build(spec), task.section.training)


def take(task: PretrainingTask, state: TrainingState, batch: Batch) -> float:
    """Take a step; return the loss."""
    loss = torch.stack(list(task(state, batch).values())).sum()
    training = task.section.training
    compute_gradients(state, loss, training)
    take_step(state, learning_rate(state.step, training), training)
    return loss.item()
