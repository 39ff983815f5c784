"""``student``: learn from labelled and unlabelled cases together."""

import argparse
from pathlib import Path

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import members
from hstf.method.cross_fitting import learned_cases
from hstf.method.objectives.registry import student_objective
from hstf.runtime.errors import HstfError
from hstf.runtime.shards import read_table
from hstf.stages.arguments import add_config, add_member, add_round
from hstf.training.member import image_cases, labelled_cases, pseudo_cases, train_member
from hstf.training.patches import TrainingCase


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_round(parser)
    add_member(parser)


def run(args: argparse.Namespace) -> int:
    student(load_config(*args.config), args.round, args.member)
    return 0


def student(config: Config, number: int, member: str) -> None:
    """Train ``member`` of round ``number`` on the labelled cases and what the round has besides: its ``labels/``, say.

    Raises:
        HstfError: there is no such round or member, or files of ``labels/`` are lost or were changed by hand.
    """
    if not 1 <= number <= config.rounds or member not in members(config, number):
        raise HstfError(
            f"no student {member!r} in round {number}: see 'rounds' and 'student.members'."
        )
    start = start_weights(config, number, member)
    config = config.for_round(number)
    layout, training = Layout.of(config), config.student
    labelled = read_cases(config).of(Split.LABELLED)
    others = other_cases(config, number, member)
    train_member(
        config, number, member, training, student_objective(config), labelled_cases(layout, labelled), others,
        training.labelled_fraction, start=start,
        meta={
            "trained_on": [case.case_id for case in labelled],
            "pseudo_labelled": len(others) if training.learns_from == "pseudo_labels" else 0,
        },
    )  # fmt: skip


def other_cases(config: Config, number: int, member: str) -> list[TrainingCase]:
    """What ``member`` learns from besides the labelled cases: see ``student.learns_from``."""
    layout, learns_from = Layout.of(config), config.for_round(number).student.learns_from
    if learns_from == "labels":
        return []
    if learns_from == "images":
        return image_cases(layout, read_cases(config).of(Split.UNLABELLED))
    rows = read_table(layout.labels_table(number))
    learned = learned_cases(
        config, number, member, [name for name, row in rows.items() if row["files"]]
    )
    return pseudo_cases(layout, number, {name: rows[name]["source"] for name in learned})


def start_weights(config: Config, number: int, member: str) -> Path | None:
    """The previous round's weights that the student starts from, if it does not start from scratch."""
    if config.for_round(number).student.start == "scratch":
        return None
    previous = members(config, number - 1)
    return Layout.of(config).weights(
        number - 1, previous[members(config, number).index(member) % len(previous)]
    )
