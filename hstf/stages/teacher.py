"""``hstf teacher``: the previous round's ensemble predicts the unlabelled cases. No label is read.

After cross-fitting a case is predicted only by members that have not learned from it
(:mod:`hstf.method.cross_fitting`).
"""

import argparse

from hstf.experiment.cases import Split
from hstf.experiment.context import StageContext
from hstf.method.cross_fitting import teachers_by_case
from hstf.method.ensemble import predict_cases
from hstf.scoring.monitoring import refuse_collapsed


def run(args: argparse.Namespace) -> int:
    """Predict a shard."""
    teacher(StageContext.of_arguments(args, "teacher"), args.shard)
    return 0


def teacher(context: StageContext, shard: str) -> int:
    """Predict the unlabelled cases of a shard with the ensemble of the previous round.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if there is no such round or shard, or if weights or preprocessed files are
            missing or have changed. Also if the model of the previous round has collapsed.
    """
    cases = context.unlabelled_shard(shard)
    previous = context.round - 1
    refuse_collapsed(context.layout, previous, context.config.monitor)
    weights = {}
    for member in context.schedule.members(previous):
        weights[member] = context.layout.weights(previous, member)
    teachers = teachers_by_case(
        context.schedule,
        context.round,
        [case.case_id for case in cases],
        context.cases(Split.UNLABELLED),
        context.config.seed,
    )
    path = context.layout.teacher_table(context.round, shard)
    return predict_cases(context, cases, weights, teachers, path)
