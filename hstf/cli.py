"""The ``hstf`` command: one subcommand per stage. Imports of a stage happen when it runs, so that help is instant."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hstf import __version__
from hstf.runtime.errors import HstfError, is_memory_error

if TYPE_CHECKING:
    pass

# name: (the stage's module, with ``add_arguments(parser)`` and ``run(args) -> int``; one line of help)
COMMANDS = {
    "phantom": ("hstf.commands.phantom", "write a synthetic data set with its case sheet"),
    "import": ("hstf.commands.import_data", "write the case sheet and configuration of a data set"),
    "check": (
        "hstf.stages.check.stage",
        "find every fault of every scan before any compute is spent",
    ),
    "plan": ("hstf.stages.plan.stage", "choose spacing, patch, batch and network from the scans"),
    "preprocess": ("hstf.stages.preprocess", "bring the scans of a shard to the planned grid"),
    "warmup": ("hstf.stages.warmup", "round 0: train a member on the labelled cases"),
    "calibrate": ("hstf.stages.calibrate", "learn confidence from the out-of-fold predictions"),
    "teacher": (
        "hstf.stages.teacher",
        "predict the unlabelled cases with the previous round's models",
    ),
    "refine": ("hstf.stages.refine", "turn predictions into pseudo-labels, weights and verdicts"),
    "labels": ("hstf.stages.labels", "join pseudo-labels and a person's overrides"),
    "student": ("hstf.stages.student", "train a member on labelled and pseudo-labelled cases"),
    "evaluate": ("hstf.stages.evaluate.stage", "predict and score the test cases"),
    "report": ("hstf.stages.report.stage", "write the HTML report and rounds.csv"),
    "compare": (
        "hstf.stages.compare.stage",
        "compare methods and seeds that snakemake compare has run",
    ),
    "track": ("hstf.stages.track", "show a round in MLflow"),
    "export": ("hstf.stages.export", "put the last round's model into one folder"),
    "predict": ("hstf.commands.predict", "segment any NIfTI file with an exported model"),
    "models": ("hstf.commands.models", "print parameters and operations of every network"),
    "verify": ("hstf.commands.verify", "see whether results are still those that were written"),
    "config": ("hstf.commands.config", "show, check or document the configuration"),
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
        print(
            f"hstf {args.command}: {reason}. Use fewer workers or a machine with more.",
            file=sys.stderr,
        )
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
