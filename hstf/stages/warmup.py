"""``warmup``: round 0. Each member learns from labelled cases alone; fold members predict those they have not seen."""

import argparse
from collections.abc import Sequence

import numpy as np

from hstf.config.experiment import Config
from hstf.config.load import load_config
from hstf.experiment.cases import Case, Split, read_cases, refuse_few_patients
from hstf.experiment.layout import Layout
from hstf.experiment.reuse import own_stage
from hstf.experiment.schedule import warmup_members
from hstf.method.ensemble import predict_out_of_fold
from hstf.method.objectives.supervision import supervised
from hstf.runtime.errors import HstfError
from hstf.stages.arguments import add_config, add_member
from hstf.training.distributed import leads
from hstf.training.member import labelled_cases, train_member


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    add_member(parser)


def run(args: argparse.Namespace) -> int:
    warmup(own_stage(load_config(*args.config), "warmup"), args.member)
    return 0


def warmup(config: Config, member: str) -> None:
    """Train ``member`` of round 0; a fold member then predicts its fold out of fold.

    Raises:
        HstfError: there is no such member, or fewer labelled patients than folds.
    """
    if member not in warmup_members(config):
        raise HstfError(
            f"no warm-up member {member!r}; there are {', '.join(warmup_members(config))}."
        )
    labelled = read_cases(config).of(Split.LABELLED)
    held_out = held_out_cases(config, member, labelled)
    seen = [case for case in labelled if case not in held_out]
    weights = train_member(
        config, 0, member, config.warmup, supervised(config), labelled_cases(Layout.of(config), seen), [],
        meta={"trained_on": [case.case_id for case in seen], "held_out": [case.case_id for case in held_out]},
    )  # fmt: skip
    if held_out and leads():
        predict_out_of_fold(config, member, held_out, weights)


def held_out_cases(config: Config, member: str, labelled: Sequence[Case]) -> list[Case]:
    """The labelled cases that ``fold_k`` does not see: whole patients, drawn by the experiment's seed."""
    refuse_few_patients(labelled, config.warmup.folds)
    groups = sorted({case.group for case in labelled})
    if not member.startswith("fold_"):
        return []
    np.random.default_rng(config.seed).shuffle(groups)
    fold = set(groups[int(member.removeprefix("fold_")) :: config.warmup.folds])
    return [case for case in labelled if case.group in fold]
