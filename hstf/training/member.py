"""Train one ensemble member of a round, from its cases to its weights on disk."""

import platform
import zlib
from collections.abc import Sequence
from math import isclose
from pathlib import Path
from typing import Any

import torch

from hstf.config.training import StudentConfig, TrainingConfig
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import HISTORY
from hstf.models.layout import in_fast_layout
from hstf.models.registry import save_network
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_json
from hstf.runtime.locks import exclusive
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.cases import refuse_missing_files
from hstf.training.compilation import compile_networks
from hstf.training.distributed import is_first_rank, process_group, rank, rank_count
from hstf.training.fingerprint import training_fingerprint
from hstf.training.gpu_cache import cache_cases
from hstf.training.initial_weights import initial_network, initial_weights, take_initial_weights
from hstf.training.loop import Objective, train
from hstf.training.patches import PatchSource, TrainingCase
from hstf.training.state import TrainingState


def train_member(
    context: StageContext,
    member: str,
    training: TrainingConfig,
    objective: Objective,
    labelled: Sequence[TrainingCase],
    pseudo: Sequence[TrainingCase],
    start: Path | None = None,
    meta: dict[str, Any] | None = None,
) -> Path:
    """Train an ensemble member and write its weights and its history.

    An interrupted training resumes. The state of a finished training is kept: if the stage runs
    again with the same inputs and configuration, it only takes seconds. With several ranks, the
    first rank writes.

    Args:
        context: of the stage ``warmup`` or ``student``.
        member: name of the member.
        training: section ``warmup`` or ``student`` of the configuration.
        objective: computes the loss.
        labelled: labelled cases.
        pseudo: all other cases.
        start: weights of the network that the training continues. If None, it starts from random
            weights, or from those of :func:`initial_weights`.
        meta: more facts to store with the weights, plain JSON values.

    Returns:
        The file of the weights.

    Raises:
        HstfError: if there are more ranks than patches in a batch, if a file is damaged, or if the
            loss is not finite.
    """
    title = f"round {context.round} {member}"
    folder = context.layout.training_state(context.round, member)
    plan = Plan.load(context.layout.plan)
    training = _with_planned_augmentation(training, plan)
    with process_group(context.device), exclusive(folder / "lock", title):
        _check_batch_size(plan.batch_size, training, len(pseudo))
        refuse_missing_files([*labelled, *pseudo])
        device = choose_device(context.device)
        cases = cache_cases([*labelled, *pseudo], device, training.gpu_cache_gb)
        source = _patch_source(context, member, plan, training, cases, len(labelled))
        initial = initial_weights(context) if start is None else None
        network = initial_network(context.config, plan, source.seed, start)
        taken = take_initial_weights(network, context, initial).taken
        network = in_fast_layout(network.to(device), device, training.amp)
        state = TrainingState.start(network, training, taken, context.config.network.start_rate)
        fingerprint = training_fingerprint(context.config, training, plan, source, start, initial)
        message = state.resume(folder, fingerprint)
        _print_start(title, source, training, device, message)
        if training.compile:
            compile_networks(state)
        train(state, source, objective, training, folder, fingerprint, title)
        _write_results(context, member, state, meta or {}, device)
    return context.layout.weights(context.round, member)


def _patch_source(
    context: StageContext,
    member: str,
    plan: Plan,
    training: TrainingConfig,
    cases: Sequence[TrainingCase],
    labelled: int,
) -> PatchSource:
    """Return the source of patches of this rank; the first ``labelled`` cases are labelled."""
    config = context.config
    labelled_fraction = 1.0
    fine_tune_from = None
    if isinstance(training, StudentConfig):
        labelled_fraction = training.labelled_fraction
        fine_tune_from = round(training.steps * (1 - training.fine_tune))
    return PatchSource(
        labelled=cases[:labelled],
        pseudo=cases[labelled:],
        classes=len(config.class_names),
        patch_size=plan.patch_size,
        batch_size=plan.batch_size,
        labelled_fraction=labelled_fraction,
        foreground_fraction=training.foreground_fraction,
        seed=member_seed(config.seed, context.round, member),
        rank=rank(),
        ranks=rank_count(),
        acquisition=Acquisition.of(plan, config.modalities.values()),
        quarter_turns=training.augmentation.quarter_turns or (),
        fine_tune_from=fine_tune_from,
    )


def _with_planned_augmentation(training: TrainingConfig, plan: Plan) -> TrainingConfig:
    """Return the training with the axes of the plan where the configuration names none."""
    augmentation = training.augmentation.planned(plan.flip_axes, plan.quarter_turns)
    return training.model_copy(update={"augmentation": augmentation})


def _print_start(
    title: str,
    source: PatchSource,
    training: TrainingConfig,
    device: torch.device,
    message: str,
) -> None:
    """Print one line about a training, and its warnings, on the first rank."""
    if not is_first_rank():
        return
    devices = str(device)
    if source.ranks > 1:
        devices += f" and {source.ranks - 1} more"
    print(
        f"{title}: {len(source.labelled)} labelled and {len(source.pseudo)} other cases,"
        f" {training.steps} steps on {devices}; {message}",
        flush=True,
    )
    for warning in batch_warnings(source, training):
        print(f"{title}: warning: {warning}", flush=True)


def batch_warnings(source: PatchSource, training: TrainingConfig) -> list[str]:
    """Return which keys have another effect than configured because the batch is small."""
    size = source.batch_size
    warnings = []
    if size == 1 and _exchanges_patches(training, len(source.pseudo)):
        warnings.append(
            "patches are not mixed (mixing, fourier_probability), because plan.batch_size is 1:"
            " set it to 2 or more."
        )
    per_batch = source.labelled_per_batch
    if source.pseudo and not isclose(per_batch, size * source.labelled_fraction):
        warnings.append(
            f"labelled_fraction is {source.labelled_fraction:g}, but {per_batch / size:g} of the"
            f" patches are labelled: a batch of {size} has patches of both kinds. Other fractions"
            " need a larger plan.batch_size."
        )
    return warnings


def _exchanges_patches(training: TrainingConfig, others: int) -> bool:
    """Return whether patches get boxes or amplitudes of other patches of their batch.

    Args:
        training: the configuration.
        others: number of unlabelled cases. Only their patches are the source of amplitudes.
    """
    mixes_amplitudes = training.augmentation.fourier_probability > 0 and others > 0
    return training.mixing.probability > 0 or mixes_amplitudes


def _write_results(
    context: StageContext,
    member: str,
    state: TrainingState,
    meta: dict[str, Any],
    device: torch.device,
) -> None:
    """Write the history, the EMA weights and ``made_by.json``, on the first rank."""
    if not is_first_rank():
        return
    number = context.round
    HISTORY.write(context.layout.history(number, member), state.history)
    facts = {"round": number, "member": member, "steps": state.step}
    weights = context.layout.weights(number, member)
    save_network(weights, state.ema, {**facts, **meta}, state.snapshots)
    write_made_by(context.layout.training_state(number, member), device)


def write_made_by(folder: Path, device: torch.device) -> None:
    """Write ``made_by.json`` into the folder of a training.

    Sums of floating-point numbers depend on all three facts.
    """
    made_by = {
        "machine": platform.node(),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
    write_json(folder / "made_by.json", made_by)


def _check_batch_size(batch_size: int, training: TrainingConfig, others: int = 0) -> None:
    """Check that every rank has a patch, or two patches if patches are mixed.

    Args:
        batch_size: patches of a batch, of all ranks.
        training: the configuration.
        others: number of unlabelled cases.
    """
    minimum = 2 if _exchanges_patches(training, others) else 1
    if rank_count() > 1 and batch_size < minimum * rank_count():
        raise HstfError(
            f"a batch of {batch_size} patches is too small for {rank_count()} GPUs. Each GPU needs"
            f" {minimum}: set gpus to {max(1, batch_size // minimum)}, or a larger plan.batch_size."
        )


def member_seed(
    seed: int,
    number: int,
    member: str,
) -> int:
    """Compute a different seed for each member of each round from the seed of the experiment."""
    return zlib.crc32(f"{seed}/{number}/{member}".encode())
