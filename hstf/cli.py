"""The ``hstf`` command: one subcommand per stage. Imports of a stage happen when it runs, so that help is instant."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hstf import __version__
from hstf.errors import HstfError, is_memory_error

if TYPE_CHECKING:
    from hstf.config import Config

# name: (the stage's module, with ``add_arguments(parser)`` and ``run(args) -> int``; one line of help)
COMMANDS = {
    "phantom": ("hstf.phantom", "write a synthetic data set with its case sheet"),
    "import": ("hstf.importers", "write the case sheet and configuration of a data set"),
    "check": ("hstf.check", "find every fault of every scan before any compute is spent"),
    "plan": ("hstf.plan", "choose spacing, patch, batch and network from the scans"),
    "preprocess": ("hstf.preprocess", "bring the scans of a shard to the planned grid"),
    "warmup": ("hstf.warmup", "round 0: train a member on the labelled cases"),
    "calibrate": ("hstf.calibrate", "learn confidence from the out-of-fold predictions"),
    "teacher": ("hstf.teacher", "predict the unlabelled cases with the previous round's models"),
    "refine": ("hstf.refine", "turn predictions into pseudo-labels, weights and verdicts"),
    "labels": ("hstf.labels", "join pseudo-labels and a person's overrides"),
    "student": ("hstf.student", "train a member on labelled and pseudo-labelled cases"),
    "evaluate": ("hstf.evaluate", "predict and score the test cases"),
    "report": ("hstf.report", "write the HTML report and rounds.csv"),
    "compare": ("hstf.compare", "compare methods and seeds that snakemake compare has run"),
    "track": ("hstf.track", "show a round in MLflow"),
    "export": ("hstf.export", "put the last round's model into one folder"),
    "predict": ("hstf.predict", "segment any NIfTI file with an exported model"),
    "models": ("hstf.models.command", "print parameters and operations of every network"),
    "verify": ("hstf.verify", "see whether results are still those that were written"),
    "config": ("hstf.config.command", "show, check or document the configuration"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code: 0 done, 1 a fault told in sentences, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    args = _parser(arguments).parse_args(arguments)
    module = importlib.import_module(COMMANDS[args.command][0])
    try:
        return module.run(args)
    except HstfError as error:
        print(f"hstf {args.command}: {error}", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        reason = f"not enough memory{f' ({error})' if str(error) else ''}"
        print(f"hstf {args.command}: {reason}. Use fewer workers or a machine with more.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"hstf {args.command}: interrupted", file=sys.stderr)
        return 130


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "hstf", description="Iterative self-training of 3D medical image segmentation."
    )
    parser.add_argument("--version", action="version", version=f"hstf {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary)
        if arguments and arguments[0] == name:  # only the command that runs is imported
            importlib.import_module(module).add_arguments(subparser)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """The options that every stage has."""
    parser.add_argument(
        "--config", type=Path, nargs="+", required=True, metavar="FILE",
        help="configuration file; of several, later ones win",
    )  # fmt: skip


def add_round(parser: argparse.ArgumentParser) -> None:
    """The option ``--round``."""
    parser.add_argument("--round", type=int, required=True, metavar="R", help="the round, 0 for the warm-up")


def add_shard(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The shard; where it is not ``required``, leaving it out joins the tables of all shards."""
    joins = "" if required else "; without it, the tables of all shards are joined"
    parser.add_argument(
        "--shard", required=required, metavar="NAME", help=f"the shard, for instance unlabelled_0{joins}"
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
    from hstf.config import load_config

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
