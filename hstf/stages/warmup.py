"""``hstf warmup``: round 0, the initial supervised training on the labelled cases only.

A member ``fold_k`` does not see fold k of the labelled patients: the stage ``out_of_fold`` predicts
it. A member ``seed_k`` sees all cases.
"""

import argparse

from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.folds import held_out_cases
from hstf.method.objectives.supervision import supervised
from hstf.runtime.errors import HstfError
from hstf.training.member import labelled_cases, train_member


def run(args: argparse.Namespace) -> int:
    """Train an ensemble member."""
    warmup(StageContext.of_arguments(args, "warmup"), args.member)
    return 0


def warmup(context: StageContext, member: str) -> None:
    """Train an ensemble member of round 0.

    Raises:
        HstfError: if there is no such member, or if there are fewer labelled patients than folds.
    """
    members = context.schedule.members(0)
    if member not in members:
        raise HstfError(
            f"--member {member}: the warm-up has no such member. There are {', '.join(members)}."
        )
    labelled = context.cases(Split.LABELLED)
    folds = context.config.warmup.folds
    held_out = held_out_cases(member, labelled, folds, context.config.seed)
    seen = [case for case in labelled if case not in held_out]
    train_member(
        context,
        member,
        context.config.warmup,
        supervised(context.config),
        labelled_cases(context, seen),
        [],
        meta={
            "trained_on": [case.case_id for case in seen],
            "held_out": [case.case_id for case in held_out],
        },
    )
