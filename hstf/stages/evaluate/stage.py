"""``hstf evaluate``: predict the test cases with the model of a round and score them.

This is the only stage that reads test cases and withheld labels. Nothing is selected from what it
writes, except the round to export from the scores of the validation cases. Predictions are scored
in native space.

- ``--shard`` predicts and scores a shard of the test or validation cases
  (:mod:`hstf.stages.evaluate.cases`).
- Without ``--shard`` the scores of all shards are summarised (:mod:`hstf.stages.evaluate.summary`),
  and the pseudo-labels of the round are compared with withheld labels
  (:mod:`hstf.stages.evaluate.pseudo_label_scores`).
- ``--validation`` summarises the scores of the validation cases in ``validation.json``.
- ``--scales`` scores some test cases at other input scales (:mod:`hstf.stages.evaluate.scales`).
"""

import argparse

from hstf.experiment.context import StageContext
from hstf.stages.evaluate.summary import summarise_round, summarise_validation


def run(args: argparse.Namespace) -> int:
    """Score a shard, or test cases at other scales, or summarise the round.

    Raises:
        HstfError: if there is no such round, or if files are missing or have changed.
    """
    context = StageContext.of_arguments(args, "evaluate")
    context.schedule.check_exists(context.round)
    if args.scales:
        _evaluate_scales(context)
    elif args.validation:
        summarise_validation(context)
    elif args.shard is None:
        summarise_round(context)
    else:
        _evaluate_shard(context, args.shard)
    return 0


# A summary needs no network: without these imports it does not load PyTorch, which takes seconds.


def _evaluate_shard(context: StageContext, shard: str) -> None:
    from hstf.stages.evaluate.cases import evaluate_shard

    evaluate_shard(context, shard)


def _evaluate_scales(context: StageContext) -> None:
    from hstf.stages.evaluate.scales import evaluate_scales

    evaluate_scales(context)
