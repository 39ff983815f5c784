"""``hstf evaluate``: predict the test cases with a round's model and score them in native space.

This is the only stage that reads the test cases and the withheld labels, and nothing is chosen from what it writes: the
summary of a round (:mod:`hstf.stages.evaluate.summary`) and its pseudo-labels in hindsight (:mod:`hstf.stages.evaluate.pseudo_label_scores`).
"""

import argparse

from hstf.config.load import load_config
from hstf.experiment.reuse import own_stage
from hstf.stages.arguments import add_round_and_shard, run_shard_or_join
from hstf.stages.evaluate.cases import evaluate_shard
from hstf.stages.evaluate.scales import evaluate_scales
from hstf.stages.evaluate.summary import summarise_round

__all__ = ["add_arguments", "evaluate_scales", "evaluate_shard", "run", "summarise_round"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_round_and_shard(parser)
    parser.add_argument(
        "--scales",
        action="store_true",
        help="score some test cases at the input scales of compare.scales",
    )


def run(args: argparse.Namespace) -> int:
    if args.round == 0:  # its scores lie with the warm-up
        own_stage(load_config(*args.config), "evaluate")
    if args.scales:
        evaluate_scales(load_config(*args.config), args.round)
        return 0
    return run_shard_or_join(args, evaluate_shard, summarise_round)
