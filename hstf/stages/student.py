"""``hstf student``: train an ensemble member on labelled and unlabelled cases together."""

import argparse
from pathlib import Path

from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.round_tables import LABELS
from hstf.method.cross_fitting import learned_cases
from hstf.method.objectives.registry import student_objective
from hstf.runtime.errors import HstfError
from hstf.runtime.shards import read_shard
from hstf.training.cases import image_cases, labelled_cases, pseudo_cases
from hstf.training.distributed import is_first_rank
from hstf.training.member import train_member
from hstf.training.patches import TrainingCase


def run(args: argparse.Namespace) -> int:
    """Train an ensemble member."""
    student(StageContext.of_arguments(args, "student"), args.member)
    return 0


def student(context: StageContext, member: str) -> None:
    """Train an ensemble member of a round of self-training.

    Raises:
        HstfError: if there is no such round or member, or if files of ``labels/`` are missing or
            were edited.
    """
    number = context.round
    schedule = context.schedule
    is_student = 1 <= number <= schedule.last and member in schedule.members(number)
    if not is_student:
        raise HstfError(
            f"--round {number} --member {member}: there is no such student."
            " See 'rounds' and 'student.members' in the configuration."
        )
    section = context.config.student
    labelled = context.cases(Split.LABELLED)
    others = other_cases(context, member)
    pseudo_labelled = len(others) if section.learns_from == "pseudo_labels" else 0
    train_member(
        context,
        member,
        section,
        student_objective(context.config),
        labelled_cases(context, labelled),
        others,
        start=start_weights(context, member),
        meta={
            "trained_on": [case.case_id for case in labelled],
            "pseudo_labelled": pseudo_labelled,
        },
    )


def other_cases(context: StageContext, member: str) -> list[TrainingCase]:
    """Return what a member learns from in addition to the labelled cases."""
    number = context.round
    learns_from = context.config.student.learns_from
    unlabelled = context.cases(Split.UNLABELLED)
    if learns_from == "labels":
        return []
    if learns_from == "images":
        return image_cases(context, unlabelled)
    table = context.layout.labels_table(number)
    # What training reads is compared when it is first opened. What a reviewer has seen must still
    # be what the student learns from, so that it is compared here.
    rows = read_shard(LABELS, table, names_of(unlabelled), endings=(".nii.gz",))
    used = [name for name, row in rows.items() if row["source"] != "rejected"]
    seed = context.config.seed
    learned = set(learned_cases(context.schedule, number, member, used, unlabelled, seed))
    if not learned and is_first_rank():
        print(_no_pseudo_label_warning(context, member, len(used)), flush=True)
    return pseudo_cases(context, [case for case in unlabelled if case.case_id in learned], rows)


def _no_pseudo_label_warning(context: StageContext, member: str, used: int) -> str:
    """Return a warning that a member learns from no pseudo-label."""
    table = context.layout.labels_table(context.round)
    unlabelled = len(context.cases(Split.UNLABELLED))
    reason = f"all {unlabelled} unlabelled cases are rejected"
    if used:
        reason = f"the {used} cases with a label are those that it predicts itself (cross_fit)"
    return (
        f"student: warning: round {context.round} {member} learns from no pseudo-label: {reason}."
        f" See the column 'reason' of {table}. To use cases, correct or accept them in the"
        " overrides folder."
    )


def start_weights(context: StageContext, member: str) -> Path | None:
    """Return the weights that a member starts from; None for random weights."""
    if context.config.student.start == "scratch":
        return None
    previous = context.schedule.members(context.round - 1)
    position = context.schedule.members(context.round).index(member)
    start_member = previous[position % len(previous)]
    return context.layout.weights(context.round - 1, start_member)
