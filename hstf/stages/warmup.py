"""``hstf warmup``: round 0, the initial supervised training on the labelled cases only.

A network ``fold_k`` does not see fold k of the labelled patients: the stage ``out_of_fold``
predicts it. A network ``seed_k`` sees all cases; it is fine-tuned from a fold, or starts from
random weights. The networks ``seed_k`` are the model of the round.
"""

import argparse

from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.experiment.folds import held_out_cases
from hstf.experiment.schedule import start_of_seed
from hstf.method.objectives.supervision import supervised
from hstf.runtime.errors import HstfError
from hstf.training.cases import labelled_cases
from hstf.training.member import train_member


def run(args: argparse.Namespace) -> int:
    """Train an ensemble member."""
    warmup(StageContext.of_arguments(args, "warmup"), args.member)
    return 0


def warmup(context: StageContext, member: str) -> None:
    """Train a network of round 0.

    Raises:
        HstfError: if there is no such member, or if there are fewer labelled patients than folds.
    """
    members = context.schedule.trained(0)
    if member not in members:
        raise HstfError(
            f"--member {member}: the warm-up has no such member. There are {', '.join(members)}."
        )
    labelled = context.cases(Split.LABELLED)
    section = context.config.warmup
    held_out = held_out_cases(member, labelled, section.folds, context.config.seed)
    seen = [case for case in labelled if case not in held_out]
    start = start_of_seed(section, member)
    train_member(
        context,
        member,
        section.of_member(member),
        supervised(context.config),
        labelled_cases(context, seen),
        [],
        start=None if start is None else context.layout.weights(0, start),
        meta={
            "trained_on": [case.case_id for case in seen],
            "held_out": [case.case_id for case in held_out],
        },
    )
