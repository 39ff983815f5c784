"""The command ``hstf`` with a subcommand for each stage and each tool.

A module is imported when its command runs, so that ``--help`` is instant.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from hstf import __version__
from hstf.commands import arguments as command_options
from hstf.commands.import_arguments import add_import_arguments
from hstf.commands.phantom_arguments import add_phantom_arguments
from hstf.runtime.closed_output import end_quietly
from hstf.runtime.encoding import print_any_character
from hstf.runtime.errors import (
    WRITE_ERRORS,
    HstfError,
    is_gpu_memory_error,
    is_memory_error,
    write_error,
)
from hstf.runtime.threads import choose_threads
from hstf.stages import arguments as options

EXIT_DONE = 0
EXIT_PROBLEM = 1
EXIT_INTERRUPTED = 130
MEMORY_ADVICE = "Use fewer workers or a machine with more memory."
GPU_ADVICE = (
    "This is the memory of the GPU: end other programs that use it (nvidia-smi). In a training,"
    " lower plan.memory_gb (or plan.batch_size, plan.patch_size) and gpu_cache_gb; in a prediction,"
    " window_batch."
)


@dataclass(frozen=True)
class Command:
    """A subcommand."""

    module: str
    """Module with ``run(args) -> int``."""
    summary: str
    """One line of help."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Adds the options; it must not need a heavy import."""
    runs_networks: bool = False
    """Whether networks are trained or used for predictions."""


COMMANDS = {
    "phantom": Command(
        "hstf.commands.phantom",
        "write a synthetic data set with its case sheet",
        add_phantom_arguments,
    ),
    "import": Command(
        "hstf.commands.import_data",
        "write the case sheet and configuration of a data set",
        add_import_arguments,
    ),
    "check": Command(
        "hstf.stages.check.stage",
        "find all problems of all scans before any compute is spent",
        options.add_config,
    ),
    "plan": Command(
        "hstf.stages.plan.stage",
        "choose spacing, patch, batch and network from the scans",
        options.add_config,
    ),
    "preprocess": Command(
        "hstf.stages.preprocess", "resample and normalise the scans of a shard", options.add_shard
    ),
    "pretrain": Command(
        "hstf.stages.pretrain",
        "train a network without labels on the images of all cases",
        options.add_config,
        runs_networks=True,
    ),
    "warmup": Command(
        "hstf.stages.warmup",
        "round 0: train an ensemble member on the labelled cases",
        options.add_member,
        runs_networks=True,
    ),
    "out_of_fold": Command(
        "hstf.stages.out_of_fold",
        "predict each labelled case by the member that has not seen it",
        options.add_config,
        runs_networks=True,
    ),
    "calibrate": Command(
        "hstf.stages.calibrate.stage",
        "calibrate confidence and predicted Dice on out-of-fold predictions",
        options.add_calibrate,
    ),
    "external": Command(
        "hstf.stages.external.stage",
        "predict a shard with models of others, or measure how good they are",
        options.add_external,
    ),
    "monitor": Command(
        "hstf.stages.monitor",
        "look for a collapse of a round's model on unlabelled cases",
        options.add_round,
        runs_networks=True,
    ),
    "teacher": Command(
        "hstf.stages.teacher",
        "predict the unlabelled cases with the previous round's ensemble",
        options.add_round_and_shard,
        runs_networks=True,
    ),
    "lesions": Command(
        "hstf.stages.lesions",
        "find out from which probability lesions are kept in a round",
        options.add_student_round,
    ),
    "refine": Command(
        "hstf.stages.refine",
        "turn predictions into pseudo-labels, voxel weights and verdicts",
        options.add_round_and_optional_shard,
    ),
    "labels": Command(
        "hstf.stages.labels",
        "join pseudo-labels and manual overrides",
        options.add_round_and_optional_shard,
    ),
    "student": Command(
        "hstf.stages.student",
        "train an ensemble member on labelled and pseudo-labelled cases",
        options.add_round_and_member,
        runs_networks=True,
    ),
    "evaluate": Command(
        "hstf.stages.evaluate.stage",
        "predict and score the test cases",
        options.add_evaluate,
        runs_networks=True,
    ),
    "report": Command(
        "hstf.stages.report.stage", "write the HTML report and rounds.csv", options.add_report
    ),
    "compare": Command(
        "hstf.stages.compare.stage",
        "compare the methods and seeds that 'snakemake compare' has run",
        options.add_config,
    ),
    "track": Command("hstf.stages.track.stage", "log a round to MLflow", options.add_round),
    "export": Command(
        "hstf.stages.export",
        "export the model of the last or best round as one folder",
        options.add_export,
    ),
    "predict": Command(
        "hstf.commands.predict",
        "segment scans with an exported model",
        command_options.add_predict_arguments,
        runs_networks=True,
    ),
    "audit": Command(
        "hstf.commands.audit",
        "look at pseudo-labels in the browser; accept, reject or correct them",
        command_options.add_audit_arguments,
    ),
    "suggest": Command(
        "hstf.commands.suggest",
        "suggest which scans and slices to label next",
        command_options.add_suggest_arguments,
        runs_networks=True,
    ),
    "nnunet": Command(
        "hstf.commands.nnunet",
        "write labelled and pseudo-labelled cases as a data set of nnU-Net",
        command_options.add_nnunet_arguments,
    ),
    "dicomseg": Command(
        "hstf.commands.dicomseg",
        "write segmentations as DICOM SEG objects on the original series",
        command_options.add_dicomseg_arguments,
    ),
    "status": Command(
        "hstf.commands.status",
        "show what is done, running and left, and for how long",
        command_options.add_status_arguments,
    ),
    "estimate": Command(
        "hstf.commands.estimate",
        "estimate time, memory and disk of an experiment before it runs",
        command_options.add_estimate_arguments,
    ),
    "models": Command(
        "hstf.commands.models",
        "print parameters and operations of all networks",
        command_options.add_models_arguments,
    ),
    "verify": Command(
        "hstf.commands.verify",
        "check that results are still as they were written",
        command_options.add_verify_arguments,
    ),
    "forget": Command(
        "hstf.commands.forget",
        "remove everything of a case from an experiment (withdrawn consent)",
        command_options.add_forget_arguments,
    ),
    "config": Command(
        "hstf.commands.config",
        "show, check or document the configuration",
        command_options.add_config_arguments,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand.

    Returns:
        The exit code: 0 done, 1 a problem that is described in sentences, 2 wrong usage,
        130 interrupted, 141 if nobody reads the output any more.
    """
    print_any_character()
    words = sys.argv[1:] if arguments is None else list(arguments)
    with end_quietly():
        try:
            return _run(words)
        except KeyboardInterrupt:  # also while a module such as PyTorch is imported
            print(f"{' '.join(['hstf', *words[:1]])}: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    """Run a subcommand, and describe problems in sentences."""
    args = _parser().parse_args(arguments)
    command = COMMANDS[args.command]
    choose_threads(command.runs_networks)  # before PyTorch is imported
    module = importlib.import_module(command.module)
    try:
        with _record(args):
            return module.run(args)
    except HstfError as error:
        return _fail(args.command, str(error))
    except OSError as error:
        if error.errno not in WRITE_ERRORS or error.filename is None:
            raise
        return _fail(args.command, str(write_error(error.filename, error)))
    except (MemoryError, RuntimeError) as error:
        if not is_memory_error(error):
            raise
        detail = f" ({error})" if str(error) else ""
        advice = GPU_ADVICE if is_gpu_memory_error(error) else MEMORY_ADVICE
        return _fail(args.command, f"out of memory{detail}. {advice}")


def _record(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return a context that records what the results of a stage are made from."""
    if not COMMANDS[args.command].module.startswith("hstf.stages."):
        return nullcontext()
    return importlib.import_module("hstf.experiment.records").record_command(args)


def _fail(command: str, message: str) -> int:
    print(f"hstf {command}: {message}", file=sys.stderr)
    return EXIT_PROBLEM


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "hstf", description="Iterative self-training of 3D medical image segmentation."
    )
    parser.add_argument("--version", action="version", version=f"hstf {__version__}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.summary, description=command.summary)
        command.add_arguments(subparser)
    return parser
