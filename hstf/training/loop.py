"""The training loop of warm-up and students.

The number of steps is fixed. The result is the EMA weights after the last step.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor

from hstf.config.training import TrainingConfig
from hstf.runtime.devices import autocast
from hstf.runtime.progress import Progress
from hstf.training.batch import Batch
from hstf.training.distributed import Terms, is_first_rank, with_synchronised_gradients
from hstf.training.patches import PatchSource, RawBatch
from hstf.training.state import TrainingState, update_ema
from hstf.training.step_values import StepValues

Objective = Callable[[TrainingState, Batch], Mapping[str, Tensor]]
"""Returns the named terms of the loss of a step. The loss is their sum."""

SEED_STREAM = 1_000_003
"""Distance between the random streams of two trainings; larger than any number of steps."""
RANK_STREAM = 500_000_003
"""Distance between the random streams of two ranks."""
NETWORK_STREAM = 250_000_001
"""Distance between the random streams of the patches and of the network in one step."""


def train(
    state: TrainingState,
    source: PatchSource,
    objective: Objective,
    config: TrainingConfig,
    folder: Path,
    fingerprint: str,
    title: str,
) -> None:
    """Train from ``state`` to the last step and save the resumable state at intervals.

    With several ranks, each rank computes the same steps.

    Args:
        state: changed in place.
        source: draws the batches.
        objective: computes the loss.
        config: the schedule.
        folder: folder of the resumable state.
        fingerprint: what the training depends on, see :meth:`TrainingState.save`.
        title: text of the progress bar.

    Raises:
        HstfError: if the loss or its gradient is not finite. The last saved state remains in
            ``folder``.
    """
    saved = time.monotonic()
    state.network.train()
    compute = with_synchronised_gradients(state.network, objective)
    device = next(state.network.parameters()).device
    prepare = _preparation(source, config, device)
    values = StepValues(state, config)
    with _progress(title, config.steps, state.step) as progress:
        for raw, prepared in source.batches(state.step, config.steps, prepare):
            batch = prepared or draw_batch(raw, source, config, state.step, device)
            _train_step(state, source, raw, batch, compute, config, values)
            if time.monotonic() - saved >= config.checkpoint_seconds:
                values.read()
                state.save(folder, fingerprint)
                saved = time.monotonic()
            if progress is not None:
                progress.advance(state.averages.note)
    values.read()
    state.save(folder, fingerprint)


def _preparation(
    source: PatchSource,
    config: TrainingConfig,
    device: torch.device,
) -> Callable[[int], tuple[RawBatch, Batch | None]]:
    """Return what a thread prepares for a step: the batch, or on a GPU the regions of its patches.

    A GPU changes the geometry of patches faster than a CPU core.
    """

    def prepare(step: int) -> tuple[RawBatch, Batch | None]:
        raw = source.batch(step)
        if device.type == "cuda":
            return raw.pinned(), None
        return raw, draw_batch(raw, source, config, step, device)

    return prepare


def draw_batch(
    raw: RawBatch,
    source: PatchSource,
    config: TrainingConfig,
    step: int,
    device: torch.device,
) -> Batch:
    """Cut the patches of a step, with all random numbers from its seed."""
    generator = torch.Generator().manual_seed(step_seed(source, step))
    return Batch.draw(
        raw,
        source,
        config.augmentation,
        generator,
        device,
    )


def step_seed(source: PatchSource, step: int) -> int:
    """Compute the seed of a step of this rank."""
    return source.seed * SEED_STREAM + step + source.rank * RANK_STREAM


def _train_step(
    state: TrainingState,
    source: PatchSource,
    raw: RawBatch,
    batch: Batch,
    compute: Terms,
    config: TrainingConfig,
    values: StepValues,
) -> None:
    """Compute the loss of a batch, update the weights and record the loss."""
    # DropPath and dropout draw from the global generator. With the seed of the patches they would
    # draw the numbers that decide which patches are changed.
    torch.manual_seed(step_seed(source, state.step) + NETWORK_STREAM)
    device = batch.weak.device
    rate = learning_rate(state.step, config)
    with autocast(device, config.amp):
        terms = compute(state, batch)
    loss = torch.stack(list(terms.values())).sum()
    norm = compute_gradients(state, loss, config)
    values.add(state.step, raw.case_ids, rate, {"loss": loss, **terms}, norm)
    take_step(state, rate, config)


def _progress(
    title: str,
    steps: int,
    done: int,
) -> AbstractContextManager[Progress | None]:
    """Return the progress bar on the first rank, and nothing on the others."""
    if is_first_rank():
        return Progress(title, steps, done)
    return nullcontext()


def compute_gradients(
    state: TrainingState,
    loss: Tensor,
    config: TrainingConfig,
) -> Tensor:
    """Compute and clip the gradients; return their norm before clipping."""
    state.optimizer.zero_grad()
    loss.backward()
    return torch.nn.utils.clip_grad_norm_(state.network.parameters(), config.gradient_clip)


def take_step(
    state: TrainingState,
    rate: float,
    config: TrainingConfig,
) -> None:
    """Update the weights and their moving average, and keep a snapshot if it is due."""
    state.optimizer.rate = rate
    state.optimizer.step()
    decay = min(config.ema_decay, (state.step + 1) / (state.step + 10))
    update_ema(state.ema, state.network, decay)
    state.step += 1
    if state.step in snapshot_steps(config):
        state.keep_snapshot()


def snapshot_steps(config: TrainingConfig) -> list[int]:
    """Return the steps after which the EMA weights are kept, at even distances."""
    parts = config.snapshots + 1
    return [config.steps * part // parts for part in range(1, parts)]


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Compute the learning rate: linear growth, then polynomial decay (power 0.9) to zero."""
    growth = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * growth * (1 - step / config.steps) ** 0.9
