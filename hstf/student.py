"""``student``: learn from labelled and pseudo-labelled cases together, with cross-scale consistency."""

import argparse
from pathlib import Path

from hstf.cases import Split, read_cases
from hstf.cli import add_config, add_member, add_round
from hstf.config import Config, load_config
from hstf.errors import HstfError
from hstf.layout import Layout, members
from hstf.methods.self_training import self_training
from hstf.records import read_table
from hstf.training.member import labelled_cases, pseudo_cases, train_member


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
