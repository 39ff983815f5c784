"""``student``: learn from labelled and pseudo-labelled cases together, with cross-scale consistency."""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hstf.cases import Split, read_cases
from hstf.cli import add_config, add_member, add_round
from hstf.config import Config, load_config
from hstf.csc import consistency, sigmoid_ramp
from hstf.errors import HstfError
from hstf.layout import Layout, members
from hstf.losses import pyramid_loss
from hstf.records import read_table
from hstf.training.loop import Objective, Views
from hstf.training.member import labelled_cases, pseudo_cases, train_member
from hstf.training.state import TrainingState


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_round(parser)
    add_member(parser)


def run(args: argparse.Namespace) -> int:
    student(load_config(*args.config), args.round, args.member)
    return 0


def student(config: Config, number: int, member: str) -> None:
    """Train ``member`` of round ``number`` on the labelled cases and the round's ``labels/``.

    Raises:
        HstfError: there is no such round or member, or files of ``labels/`` are lost or were changed by hand.
    """
    if not 1 <= number <= config.rounds or member not in members(config, number):
        raise HstfError(f"no student {member!r} in round {number}: see 'rounds' and 'student.members'.")
    start = start_weights(config, number, member)
    config = config.for_round(number)
    layout, training = Layout.of(config), config.student
    used = [name for name, row in read_table(layout.labels_table(number)).items() if row["files"]]
    labelled = read_cases(config).of(Split.LABELLED)
    train_member(
        config, number, member, training, self_training(config),
        labelled_cases(layout, labelled), pseudo_cases(layout, number, used), training.labelled_fraction,
        start=start,
        meta={"trained_on": [case.case_id for case in labelled], "pseudo_labelled": len(used)},
    )  # fmt: skip


def start_weights(config: Config, number: int, member: str) -> Path | None:
    """The previous round's weights that the student starts from, if it does not start from scratch."""
    if config.for_round(number).student.start == "scratch":
        return None
    previous = members(config, number - 1)
    return Layout.of(config).weights(
        number - 1, previous[members(config, number).index(member) % len(previous)]
    )


def self_training(config: Config) -> Objective:
    """The objective of the student: the segmentation loss on labels and pseudo-labels, and CSC on all cases.

    Pseudo-labelled voxels count by their own weight times ``pseudo_weight``.
    """
    training, csc = config.student, config.student.csc
    levels = None if config.network.deep_supervision else 1

    def objective(state: TrainingState, views: Views) -> Mapping[str, Tensor]:
        factor = torch.where(views.pseudo, training.pseudo_weight, 1.0)[:, None, None, None, None]
        logits = state.network.pyramid(views.strong()).logits[:levels]
        terms = {"segmentation": pyramid_loss(logits, views.target, views.weight * factor)}
        if csc.prediction_weight + csc.feature_weight > 0 and state.step % csc.every == 0:
            ramp = sigmoid_ramp(state.step / (csc.ramp * training.steps))
            with torch.no_grad():
                teacher = state.ema.pyramid(views.weak)
            zoom = draw_zoom(csc.scale_range, views.generator)
            predictions, features = consistency(state.network, teacher, views.strong(), zoom, views.inside)
            terms["csc_predictions"] = ramp * csc.prediction_weight * predictions
            terms["csc_features"] = ramp * csc.feature_weight * features
        return terms

    return objective


def draw_zoom(scale_range: tuple[float, float], generator: torch.Generator) -> float:
    """A scale drawn log-uniformly."""
    low, high = (math.log(s) for s in scale_range)
    return math.exp(low + (high - low) * float(torch.rand(1, generator=generator, device=generator.device)))
