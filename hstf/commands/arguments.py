"""Command-line options of the commands that are no stage, except ``phantom`` and ``import``.

This module imports nothing heavy, so that ``hstf <command> --help`` is instant.
"""

import argparse
from pathlib import Path

from hstf.commands.option_types import count_option, label_option, port_option, seconds_option
from hstf.runtime.home import path_option
from hstf.stages.arguments import add_config

CONFIG_HELP = "configuration file; later files change earlier ones; default: no file, all defaults"


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf config``."""
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument(
        "--show",
        action="store_true",
        help="print the configuration with all defaults",
    )
    action.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and its case sheet",
    )
    action.add_argument(
        "--schema",
        action="store_true",
        help="print the JSON schema",
    )
    action.add_argument(
        "--document",
        action="store_true",
        help="print the meaning of all keys",
    )
    _add_optional_config(parser)


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf models``."""
    _add_optional_config(parser)
    parser.add_argument(
        "--patch",
        type=count_option,
        nargs=3,
        metavar="N",
        help="patch size in voxels; default: that of the plan",
    )


def _add_optional_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=path_option,
        nargs="+",
        default=[],
        metavar="FILE",
        help=CONFIG_HELP,
    )


def add_predict_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf predict``."""
    parser.add_argument(
        "--model",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="exported model: the folder that 'hstf export' wrote",
    )
    parser.add_argument(
        "--input",
        type=path_option,
        required=True,
        metavar="FILE_OR_FOLDER",
        help="a volume (.nii.gz, .nii, .mha, .mhd, .nrrd, .nhdr, .mgz, .mgh, .hdr) or a folder of"
        " volumes, with its subfolders; for several modalities, files named"
        " <case>_<modality>.nii.gz",
    )
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="folder for the segmentations",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="device of the network; default: a GPU if there is one",
    )
    parser.add_argument(
        "--existing",
        choices=("refuse", "skip", "overwrite"),
        default="refuse",
        help="what to do if a segmentation already exists; skip keeps those of this model and these"
        " scans; default: refuse",
    )
    parser.add_argument(
        "--no-predicted-dice",
        action="store_true",
        help="do not predict the Dice of each segmentation, which takes most of the time",
    )


def add_status_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf status``."""
    parser.add_argument(
        "results",
        type=path_option,
        nargs="?",
        default=Path("results"),
        metavar="FOLDER",
        help="results of an experiment (results/<name>), or a folder of several; default: results",
    )
    parser.add_argument(
        "--watch",
        type=seconds_option,
        nargs="?",
        const=10.0,
        metavar="SECONDS",
        help="show it again every 10 seconds (or SECONDS) until nothing runs any more",
    )
    _add_json(parser)


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        help="print JSON for programs; its schema is in docs/reference/schemas",
    )


def _add_results(parser: argparse.ArgumentParser) -> None:
    """Add the folder of an experiment."""
    parser.add_argument(
        "results",
        type=path_option,
        metavar="FOLDER",
        help="results of an experiment: results/<name>",
    )


def add_audit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf audit``."""
    _add_results(parser)
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round that is shown first; default: the last one with pseudo-labels",
    )
    parser.add_argument(
        "--reviewer",
        default="",
        metavar="NAME",
        help="name of the reviewer; default: the page asks for it",
    )
    parser.add_argument(
        "--consensus",
        choices=("last", "third"),
        default="last",
        help="whose decision is in force if reviewers disagree: that of the last one, or of a third"
        " one; default: last",
    )
    parser.add_argument(
        "--port",
        type=port_option,
        metavar="N",
        help="port on this machine; default: 8765, or a free one if it is taken",
    )
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="print the address, and do not open a browser",
    )


def add_nnunet_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf nnunet``."""
    _add_results(parser)
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="new folder of the data set, $nnUNet_raw/Dataset<three digits>_<name>",
    )
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round whose pseudo-labels are written; 0: the labelled cases only; default: the last",
    )
    parser.add_argument(
        "--minimum-weight",
        type=float,
        default=0.25,
        metavar="W",
        help="nnU-Net ignores voxels of pseudo-labels with a lower weight, 0 to 1; default: 0.25",
    )
    _add_anyway(parser)


def _add_anyway(parser: argparse.ArgumentParser) -> None:
    """Add the option that writes labels which are not up to date."""
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="write labels that the next run would make again, for instance with new decisions",
    )


def add_dicomseg_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf dicomseg``."""
    parser.add_argument(
        "mapping",
        type=path_option,
        metavar="FILE",
        help="the table dicom.csv that 'hstf import dicom' wrote",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--input",
        type=path_option,
        metavar="FOLDER",
        help="segmentations named <case>.nii.gz, for example the output of 'hstf predict'",
    )
    source.add_argument(
        "--results",
        type=path_option,
        metavar="FOLDER",
        help="results of an experiment: the labels of a round, without rejected ones",
    )
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="with --results: the round; default: the last one with labels",
    )
    parser.add_argument(
        "--labels",
        type=label_option,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="with --input: the classes, such as liver=1 tumour=2",
    )
    parser.add_argument(
        "--model",
        type=path_option,
        metavar="FOLDER",
        help="with --input: the exported model that made the segmentations; it names the classes",
    )
    _add_dicomseg_output(parser)


def _add_dicomseg_output(parser: argparse.ArgumentParser) -> None:
    """Add what the objects contain and where they are written."""
    parser.add_argument(
        "--output",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="new folder of the objects",
    )
    _add_anyway(parser)
    parser.add_argument(
        "--codes",
        type=path_option,
        metavar="FILE",
        help="YAML file with the coded category and type of classes; default: Tissue (SNOMED CT)",
    )
    parser.add_argument(
        "--source",
        type=path_option,
        metavar="FOLDER",
        help="where the series are now, if they have moved; default: the folders in dicom.csv",
    )
    parser.add_argument(
        "--algorithm",
        default="",
        metavar="NAME",
        help="name of the algorithm in the objects; default: the experiment or the model",
    )
    parser.add_argument(
        "--algorithm-version",
        default="",
        metavar="TEXT",
        help="its version; default: that of hstf, and the round",
    )
    parser.add_argument(
        "--series-number",
        type=int,
        default=900,
        metavar="N",
        help="SeriesNumber of the objects; default: 900",
    )


def add_suggest_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf suggest``."""
    _add_results(parser)
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="round whose predictions are used; default: the last one with pseudo-labels",
    )
    parser.add_argument(
        "--scans", type=int, default=5, metavar="N", help="number of whole scans; default: 5"
    )
    parser.add_argument(
        "--slices", type=int, default=10, metavar="N", help="number of slices; default: 10"
    )
    parser.add_argument(
        "--time",
        type=int,
        default=1,
        metavar="N",
        help="1 if you ask for the first time, 2 after labels were added, and so on: the noise"
        " decays; default: 1",
    )
    parser.add_argument(
        "--random-fraction",
        type=float,
        default=1 / 3,
        metavar="F",
        help="part that is drawn at random over foreground, 0 to 1; default: 1/3",
    )
    parser.add_argument(
        "--no-features",
        action="store_true",
        help="do not compare scans by deep features: faster, but two alike may be suggested",
    )
    parser.add_argument(
        "--skip", nargs="+", default=[], metavar="CASE", help="never suggest these cases"
    )
    parser.add_argument(
        "--later",
        nargs="+",
        default=[],
        metavar="CASE",
        help="do not suggest these cases until a later round has pseudo-labels",
    )
    parser.add_argument(
        "--output",
        type=path_option,
        metavar="FOLDER",
        help="where the table and the templates are written; default: results/<name>/suggest",
    )


def add_estimate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf estimate``."""
    add_config(parser)
    parser.add_argument(
        "--cores",
        type=count_option,
        metavar="N",
        help="cores of the machine; default: those of this one",
    )
    parser.add_argument(
        "--cluster",
        action="store_true",
        help="estimate for the nodes of a cluster: up to 50 jobs at once, of 8 cores each",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="time some training steps and windows on this machine first (a minute), and keep the"
        " result for later estimates",
    )
    _add_json(parser)


def add_verify_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf verify``."""
    _add_results(parser)
    parser.add_argument(
        "--no-data",
        action="store_true",
        help="do not check the scans and labels of the data set",
    )
    _add_json(parser)


def add_forget_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf forget``."""
    parser.add_argument(
        "case",
        metavar="CASE",
        help="case to remove, as in the case sheet",
    )
    parser.add_argument(
        "--results",
        type=path_option,
        required=True,
        metavar="FOLDER",
        help="results of an experiment: results/<name>",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="remove the files without a question",
    )
