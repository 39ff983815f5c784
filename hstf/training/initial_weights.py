"""Initial weights of a network: random, or those of a file."""

from pathlib import Path

import torch

from hstf.config.experiment import Config
from hstf.config.pretrain import NO_TASK
from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.plan import Plan
from hstf.models.base import SegmentationNetwork
from hstf.models.registry import build, load_network, network_spec
from hstf.models.transfer import Transfer, learned_cases, transfer
from hstf.runtime.errors import few
from hstf.training.distributed import is_first_rank


def initial_network(
    config: Config,
    plan: Plan,
    seed: int,
    start: Path | None,
) -> SegmentationNetwork:
    """Return the network of the file ``start``, or one with random weights drawn from ``seed``."""
    if start is not None:
        return load_network(start)[0]
    torch.manual_seed(seed)
    inputs = len(config.modalities)
    classes = len(config.class_names)
    return build(
        network_spec(
            config.network,
            plan,
            inputs,
            classes,
            config.heads,
        )
    )


def initial_weights(context: StageContext) -> Path | None:
    """Return the file from which trainings start that would start from random weights.

    Args:
        context: of the stage ``warmup`` or ``student``.

    Returns:
        ``network.start``, or the result of the pre-training; None without both.
    """
    config = context.config
    if config.network.start is not None:
        return Path(config.network.start)
    return context.layout.pretrained_weights if config.pretrain.task != NO_TASK else None


def take_initial_weights(
    network: SegmentationNetwork, context: StageContext, initial: Path | None
) -> Transfer:
    """Copy the weights of a file to a network with random weights, and print what was taken.

    Args:
        network: changed in place.
        context: of the stage ``warmup`` or ``student``.
        initial: the file; nothing is copied if it is None.

    Raises:
        HstfError: if the file cannot be read, or if nothing in it fits.
    """
    if initial is None:
        return Transfer()
    section = context.config.network
    result = transfer(network, initial, section.start_keys, section.start_part)
    if is_first_rank():
        print("\n".join([*result.lines(initial), *_leak_warning(context, initial)]), flush=True)
    return result


def _leak_warning(context: StageContext, initial: Path) -> list[str]:
    """Return a warning if initial weights have learned labels that are held out here."""
    held_out = {c.case_id for c in context.sheet.cases if c.split is not Split.UNLABELLED}
    seen = [name for name in learned_cases(initial) if name in held_out]
    if not seen:
        return []
    return [
        f"start: warning: {initial} was trained on the labels of {few(seen)}, which are labelled,"
        " validation or test cases here, if these are the same scans. Out-of-fold predictions, the"
        " calibration and scores of these cases are then too good. Start from other weights."
    ]
