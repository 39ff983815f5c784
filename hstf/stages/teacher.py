"""``hstf teacher``: the previous round's models predict the unlabelled cases; no label is read.

Where students were cross-fitted, a case is predicted by those that have not learned from it (:mod:`hstf.method.cross_fitting`). The same
code predicts the labelled cases of a fold by the warm-up member that has not seen them.
"""

import argparse

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.schedule import members
from hstf.method.cross_fitting import teachers_by_case
from hstf.method.ensemble import predict_cases
from hstf.runtime.errors import HstfError
from hstf.stages.arguments import add_config, add_round, add_shard


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_round(parser)
    add_shard(parser)


def run(args: argparse.Namespace) -> int:
    teacher(load_config(*args.config), args.round, args.shard)
    return 0


def teacher(config: Config, number: int, shard: str) -> int:
    """Predict the unlabelled cases of ``shard`` with the members of round ``number - 1`` that may label them.

    Returns how many were computed; the others were up to date.

    Raises:
        HstfError: round 0 has no teacher, a wrong shard, weights or preprocessed files missing or changed.
    """
    if number < 1:
        raise HstfError(
            f"--round {number}: the teacher belongs to rounds from 1 on; round 0 is the warm-up."
        )
    cases = read_cases(config).shard(shard, config.shard_size)
    if any(case.split is not Split.UNLABELLED for case in cases):
        raise HstfError(
            f"--shard {shard}: the teacher predicts unlabelled cases alone. Name a shard unlabelled_<k>."
        )
    layout = Layout.of(config)
    weights = {name: layout.weights(number - 1, name) for name in members(config, number - 1)}
    teachers = teachers_by_case(config, number, [case.case_id for case in cases])
    return predict_cases(
        config, number, cases, weights, teachers, layout.teacher_table(number, shard)
    )
