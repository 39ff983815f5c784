"""``hstf evaluate``: predict the test cases with the model of a round and score them.

This is the only stage that reads test cases and withheld labels. Nothing is selected from what it
writes. Predictions are scored in native space.

- ``--shard`` predicts and scores a shard of the test cases (:mod:`hstf.stages.evaluate.cases`).
- Without ``--shard`` the scores of all shards are summarised (:mod:`hstf.stages.evaluate.summary`),
  and the pseudo-labels of the round are compared with withheld labels
  (:mod:`hstf.stages.evaluate.pseudo_label_scores`).
- ``--scales`` scores some test cases at other input scales (:mod:`hstf.stages.evaluate.scales`).
"""

import argparse

from hstf.experiment.context import StageContext
from hstf.stages.evaluate.cases import evaluate_shard
from hstf.stages.evaluate.scales import evaluate_scales
from hstf.stages.evaluate.summary import summarise_round


def run(args: argparse.Namespace) -> int:
    """Score a shard, or test cases at other scales, or summarise the round."""
    context = StageContext.of_arguments(args, "evaluate")
    if args.scales:
        evaluate_scales(context)
    elif args.shard is None:
        summarise_round(context)
    else:
        evaluate_shard(context, args.shard)
    return 0
