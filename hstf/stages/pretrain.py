"""``hstf pretrain``: train the network without labels on the images of all cases.

The images are those of the labelled and unlabelled cases; validation and test cases are not read.
No label is read. The result is where trainings start that would start from random weights, see
:func:`hstf.training.initial_weights.initial_weights`.
"""

import argparse
from dataclasses import dataclass

import torch

from hstf.config.training import TrainingConfig
from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.dependencies import ARCHITECTURE, SPEED_KEYS, STAGES
from hstf.experiment.plan import Plan
from hstf.experiment.round_tables import HISTORY
from hstf.method.pretraining.pictures import write_examples
from hstf.method.pretraining.registry import build_task
from hstf.method.pretraining.task import Example, PretrainingTask, TaskSettings
from hstf.models.base import SegmentationNetwork
from hstf.models.layout import in_fast_layout
from hstf.models.registry import network_spec, save_network
from hstf.models.transfer import UNTRAINED, plain_names
from hstf.runtime.devices import choose_device
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_json
from hstf.runtime.locks import exclusive
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.cases import image_cases, refuse_missing_files
from hstf.training.compilation import compile_networks
from hstf.training.fingerprint import facts_of_source
from hstf.training.gpu_cache import cache_cases
from hstf.training.loop import draw_batch, train
from hstf.training.member import member_seed, write_made_by
from hstf.training.patches import PatchSource
from hstf.training.state import TrainingState

MEMBER = "pretrain"
"""Name of the training, from which its random numbers are drawn."""


def run(args: argparse.Namespace) -> int:
    """Pre-train the network."""
    pretrain(StageContext.of_arguments(args, "pretrain"))
    return 0


@dataclass(frozen=True)
class Pretraining:
    """A pre-training that is ready to start."""

    task: PretrainingTask
    source: PatchSource
    training: TrainingConfig
    state: TrainingState
    device: torch.device
    fingerprint: str


def pretrain(context: StageContext) -> None:
    """Pre-train the network; write its weights, its history and pictures of some patches.

    An interrupted training resumes. The state of a finished training is kept.

    Raises:
        HstfError: if ``pretrain.task`` is ``none``, if the task is not possible with these cases,
            if a file is missing or damaged, or if the loss is not finite.
    """
    section = context.config.pretrain
    if not section.is_on:
        raise HstfError("pretrain.task is none: name a task in the configuration, or leave it out.")
    layout = context.layout
    folder = layout.pretraining_state
    title = f"pretrain {section.task}"
    with exclusive(folder / "lock", title):
        work = prepare(context)
        state = work.state
        message = state.resume(folder, work.fingerprint)
        count = len(work.source.labelled)
        print(
            f"{title}: images of {count} cases, {work.training.steps} steps on {work.device};"
            f" {message}",
            flush=True,
        )
        if work.training.compile:
            compile_networks(state)
        train(state, work.source, work.task, work.training, folder, work.fingerprint, title)
        write_results(context, work)


def prepare(context: StageContext) -> Pretraining:
    """Return the task, the patches and the state before the first step."""
    config = context.config
    section = config.pretrain
    plan = Plan.load(context.layout.plan)
    chosen = section.augmentation or config.warmup.augmentation
    augmentation = chosen.planned(plan.flip_axes, plan.quarter_turns)
    training = section.training.model_copy(update={"augmentation": augmentation})
    everyone = [*context.cases(Split.LABELLED), *context.cases(Split.UNLABELLED)]
    cases = image_cases(context, everyone)
    refuse_missing_files(cases)
    device = choose_device(context.device)
    inputs = len(config.modalities)
    task = build_task(
        TaskSettings(
            section=section,
            network=config.network,
            plan=plan,
            inputs=inputs,
            patients={case.case_id: case.group for case in everyone},
        )
    )
    source = task.source(
        PatchSource(
            labelled=cache_cases(cases, device, training.gpu_cache_gb),
            pseudo=[],
            classes=1,
            patch_size=plan.patch_size,
            batch_size=plan.batch_size,
            labelled_fraction=1.0,
            foreground_fraction=0.0,
            seed=member_seed(config.seed, 0, MEMBER),
            acquisition=Acquisition.of(plan, config.modalities.values()),
            quarter_turns=training.augmentation.quarter_turns or (),
        )
    )
    torch.manual_seed(source.seed)
    network = task.build(network_spec(config.network, plan, inputs, task.outputs)).to(device)
    state = TrainingState.start(in_fast_layout(network, device, training.amp), training)
    fingerprint = pretraining_fingerprint(context, training, plan, source)
    return Pretraining(task, source, training, state, device, fingerprint)


def pretraining_fingerprint(
    context: StageContext, training: TrainingConfig, plan: Plan, source: PatchSource
) -> str:
    """Hash everything that the pre-training depends on."""
    section = context.config.pretrain
    architecture = {}
    for key in ARCHITECTURE:
        name = key.removeprefix("network.")
        architecture[name] = getattr(context.config.network, name)
    excluded = {*SPEED_KEYS["pretrain"], "augmentation", "examples"}
    content = {
        **facts_of_source(source, plan),
        "version": STAGES["pretrain"].version,
        "pretrain": section.model_dump(mode="json", exclude=excluded),
        "augmentation": training.augmentation.model_dump(mode="json"),
        "network": architecture,
        "patch_size": source.patch_size,
        "batch_size": source.batch_size,
    }
    if section.task == "contrastive":
        # Which crops belong together.
        cases = context.cases(Split.LABELLED) + context.cases(Split.UNLABELLED)
        content["patients"] = [[case.case_id, case.group] for case in cases]
    return sha256_json(content)


def write_results(context: StageContext, work: Pretraining) -> None:
    """Write the history, the pictures, and the EMA weights last."""
    layout = context.layout
    section = context.config.pretrain
    state = work.state
    HISTORY.write(layout.pretraining_history, state.history)
    examples = some_examples(work, section.examples)
    write_examples(layout.pretraining_examples, examples, work.source.acquisition.spacing)
    network = work.task.backbone(state.ema)
    meta = {
        "task": section.task,
        "steps": state.step,
        "images_of": [case.case_id for case in work.source.labelled],
        UNTRAINED: untrained(work.task.backbone(state.network), state),
    }
    save_network(layout.pretrained_weights, network, meta)
    write_made_by(layout.pretraining_state, work.device)


def untrained(network: SegmentationNetwork, state: TrainingState) -> list[str]:
    """Return the plain names of the weights that no step has changed."""
    parameters = dict(network.named_parameters())
    return [
        plain
        for plain, full in plain_names(network).items()
        if full in parameters and parameters[full] not in state.optimizer.state
    ]


@torch.no_grad()
def some_examples(work: Pretraining, count: int) -> list[Example]:
    """Return pictures of patches that were not drawn in training, with the EMA network."""
    found: list[Example] = []
    step = work.training.steps
    torch.manual_seed(work.source.seed)
    while len(found) < count:
        raw = work.source.batch(step)
        batch = draw_batch(raw, work.source, work.training, step, work.device)
        found += work.task.examples(work.state.ema, batch)
        step += 1
    return found[:count]
