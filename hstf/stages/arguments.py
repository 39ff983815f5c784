"""Command-line arguments that stages share."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hstf.config.experiment import Config


def add_config(parser: argparse.ArgumentParser) -> None:
    """The options that every stage has."""
    parser.add_argument(
        "--config", type=Path, nargs="+", required=True, metavar="FILE",
        help="configuration file; of several, later ones win",
    )  # fmt: skip


def add_round(parser: argparse.ArgumentParser) -> None:
    """The option ``--round``."""
    parser.add_argument(
        "--round", type=int, required=True, metavar="R", help="the round, 0 for the warm-up"
    )


def add_shard(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The shard; where it is not ``required``, leaving it out joins the tables of all shards."""
    joins = "" if required else "; without it, the tables of all shards are joined"
    parser.add_argument(
        "--shard",
        required=required,
        metavar="NAME",
        help=f"the shard, for instance unlabelled_0{joins}",
    )


def add_round_and_shard(parser: argparse.ArgumentParser) -> None:
    """The options of a stage that :func:`run_shard_or_join` runs."""
    add_config(parser)
    add_round(parser)
    add_shard(parser, required=False)


def run_shard_or_join(
    args: argparse.Namespace,
    shard: Callable[["Config", int, str], object],
    join: Callable[["Config", int], object],
) -> int:
    """Run a per-case stage of a round: the ``shard`` that is named, or the ``join`` of all shards' tables."""
    from hstf.config.load import load_config

    config = load_config(*args.config)
    if args.shard is None:
        join(config, args.round)
    else:
        shard(config, args.round, args.shard)
    return 0


def add_member(parser: argparse.ArgumentParser) -> None:
    """The option ``--member``."""
    parser.add_argument(
        "--member", required=True, metavar="NAME", help="the member, for instance fold_0 or seed_0"
    )
