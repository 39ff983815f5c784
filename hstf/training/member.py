"""Train one member of a round's model, from its cases to its weights on disk."""

import platform
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hstf.config.experiment import Config
from hstf.config.training import TrainingConfig
from hstf.experiment.cases import Case
from hstf.experiment.dependencies import SPEED_KEYS, STAGES
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.models.base import SegmentationNetwork
from hstf.models.registry import build, load_network, network_spec, save_network
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file, sha256_json, write_csv, write_json
from hstf.runtime.locks import alone
from hstf.training.augmentation import Acquisition
from hstf.training.distributed import leads, rank, ranks, together
from hstf.training.gpu_cache import hold
from hstf.training.loop import Objective, train
from hstf.training.patches import PatchSource, TrainingCase
from hstf.training.state import TrainingState

PLAN_KEYS = ("spacing", "patch_size", "batch_size", "channels", "strides", "kernels")
"""What a training takes from the plan; normalisation is in the preprocessed files."""


def labelled_cases(layout: Layout, cases: Sequence[Case]) -> list[TrainingCase]:
    """Labelled cases on the planned grid."""
    folders = [(case.case_id, layout.preprocessed / case.case_id) for case in cases]
    return [
        TrainingCase(i, f / "image.b2nd", f / "label.b2nd", f / "locations.npy", pseudo=False)
        for i, f in folders
    ]


def pseudo_cases(layout: Layout, number: int, sources: Mapping[str, str]) -> list[TrainingCase]:
    """Cases with the labels of round ``number``: pseudo-labels, or what a person put in their place.

    Args:
        sources: by case, as ``labels.csv`` has them.
    """
    folders = [
        (i, layout.preprocessed / i / "image.b2nd", layout.labels(number) / i) for i in sources
    ]
    return [
        TrainingCase(i, image, f / "target.b2nd", f / "locations.npy", pseudo=sources[i] != "human")
        for i, image, f in folders
    ]


def image_cases(layout: Layout, cases: Sequence[Case]) -> list[TrainingCase]:
    """Unlabelled cases of which only the image is learned from."""
    images = [(case.case_id, layout.preprocessed / case.case_id / "image.b2nd") for case in cases]
    return [TrainingCase(i, image, None, None, pseudo=True) for i, image in images]


def train_member(
    config: Config, number: int, member: str, training: TrainingConfig, objective: Objective,
    labelled: Sequence[TrainingCase], pseudo: Sequence[TrainingCase], labelled_fraction: float = 1.0,
    start: Path | None = None, meta: dict[str, Any] | None = None,
) -> Path:  # fmt: skip
    """Train a member (or go on with an interrupted training) and write its weights and history; returns the weights.

    The state stays when all is done: run again with the same inputs and configuration, as after a new case that changed
    nothing of the plan, the stage takes seconds. Of several ranks the first writes.

    Args:
        number: the round.
        training: the schedule: the ``warmup`` or ``student`` section.
        start: weights to start from instead of random ones.
        meta: more facts to keep with the weights.

    Raises:
        HstfError: there are more ranks than patches in a batch, a file is damaged, or the loss is not finite.
    """
    layout, title = Layout.of(config), f"round {number} {member}"
    folder, plan = layout.training_state(number, member), Plan.load(layout.plan)
    with together(config.device), alone(folder / "lock", title):
        _check_share(plan.batch_size, training)
        device, seed = choose_device(config.device), member_seed(config.seed, number, member)
        held = hold([*labelled, *pseudo], device, training.gpu_cache_gb)
        source = PatchSource(
            held[: len(labelled)], held[len(labelled) :], len(config.class_names), plan.patch_size, plan.batch_size,
            labelled_fraction, training.foreground_fraction, seed, rank(), ranks(),
            Acquisition.of(plan, config.modalities.values()),
        )  # fmt: skip
        state = TrainingState.start(initial_network(config, plan, seed, start).to(device), training)
        fingerprint = training_fingerprint(config, training, plan, source, start) if leads() else ""
        said = state.resume(folder, fingerprint)
        if leads():
            print(f"{title}: {len(labelled)} labelled and {len(pseudo)} other cases, {training.steps} steps on"
                  f" {device}{f' and {ranks() - 1} more' if ranks() > 1 else ''}; {said}", flush=True)  # fmt: skip
        train(state, source, objective, training, folder, fingerprint, title)
        if leads():
            _write(layout, number, member, state, meta or {})
            made_by = {
                "machine": platform.node(),
                "device": str(device),
                "threads": torch.get_num_threads(),
            }
            write_json(folder / "made_by.json", made_by)  # sums of floats depend on all three
    return layout.weights(number, member)


def _check_share(batch_size: int, training: TrainingConfig) -> None:
    """Every rank must have a patch, and two where they are mixed."""
    least = 1 if training.mixing.probability == 0 else 2
    if ranks() > 1 and batch_size < least * ranks():
        raise HstfError(
            f"a batch of {batch_size} patches is too small for {ranks()} GPUs, of which each needs {least}:"
            f" set gpus to {max(1, batch_size // least)}, or a larger plan.batch_size."
        )


def initial_network(
    config: Config, plan: Plan, seed: int, start: Path | None
) -> SegmentationNetwork:
    """A network with random weights drawn from ``seed``, or the one of the file ``start``."""
    if start is not None:
        return load_network(start)[0]
    torch.manual_seed(seed)
    classes = len(config.class_names)
    return build(network_spec(config.network, plan, len(config.modalities), classes, config.heads))


def member_seed(seed: int, number: int, member: str) -> int:
    """A seed of its own for each member of each round."""
    return zlib.crc32(f"{seed}/{number}/{member}".encode())


def training_fingerprint(
    config: Config, training: TrainingConfig, plan: Plan, source: PatchSource, start: Path | None
) -> str:
    """What a training depends on; an interrupted one goes on only where all of it is the same."""
    cases = [*source.labelled, *source.pseudo]
    paths = [path for case in cases for path in case.files]
    return sha256_json({
        "versions": [STAGES[stage].version for stage in ("warmup", "student")],
        "training": training.model_dump(mode="json", exclude=SPEED_KEYS["student"]),
        "network": config.network.model_dump(mode="json"),
        "labels": list(config.labels.items()),
        **({"regions": config.heads} if config.heads else {}),
        "plan": {key: plan.to_json()[key] for key in PLAN_KEYS},
        "seed": source.seed,
        "files": [(str(path), sha256_file(path)) for path in paths],  # their order decides who is learned from when
        "pseudo": [case.pseudo for case in cases],
        "start": sha256_file(start) if start else None,
    })  # fmt: skip


def _write(
    layout: Layout, number: int, member: str, state: TrainingState, meta: dict[str, Any]
) -> None:
    columns = list(dict.fromkeys(key for row in state.history for key in row))
    write_csv(layout.history(number, member), state.history, columns)
    meta = {"round": number, "member": member, "steps": state.step, **meta}
    save_network(layout.weights(number, member), state.ema, meta, state.snapshots)
