"""Command-line options of the stages.

This module imports nothing heavy, so that ``hstf <stage> --help`` is instant.
"""

import argparse

from hstf.runtime.home import path_option


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config",
        type=path_option,
        nargs="+",
        required=True,
        metavar="FILE",
        help="configuration file; later files change earlier ones",
    )


def add_round(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--round``, which may be 0."""
    add_config(parser)
    parser.add_argument(
        "--round", type=int, required=True, metavar="R", help="the round; 0 is the warm-up"
    )


def add_student_round(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--round``, which is at least 1."""
    add_config(parser)
    parser.add_argument("--round", type=int, required=True, metavar="R", help="the round, from 1")


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--shard``."""
    add_config(parser)
    parser.add_argument(
        "--shard", required=True, metavar="NAME", help="the shard, for instance unlabelled_0"
    )


def add_member(parser: argparse.ArgumentParser) -> None:
    """Add ``--config`` and ``--member``."""
    add_config(parser)
    parser.add_argument(
        "--member",
        required=True,
        metavar="NAME",
        help="the ensemble member, for instance fold_0 or seed_0",
    )


def add_round_and_member(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--round`` and ``--member``."""
    add_student_round(parser)
    parser.add_argument(
        "--member",
        required=True,
        metavar="NAME",
        help="the ensemble member, for instance seed_0",
    )


def add_round_and_shard(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--round`` and ``--shard``."""
    add_student_round(parser)
    parser.add_argument(
        "--shard", required=True, metavar="NAME", help="the shard, for instance unlabelled_0"
    )


def add_round_and_optional_shard(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--round`` and a ``--shard`` that may be left out."""
    add_student_round(parser)
    _add_optional_shard(parser, "unlabelled_0")


def _add_optional_shard(parser: argparse.ArgumentParser, example: str) -> None:
    parser.add_argument(
        "--shard",
        metavar="NAME",
        help=f"the shard, for instance {example}; without it, the tables of all shards are joined",
    )


def add_external(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf external``."""
    add_config(parser)
    parser.add_argument(
        "--shard",
        metavar="NAME",
        help="predict a shard, for instance unlabelled_0; without it, the weights of the external"
        " teachers are computed",
    )
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="the round whose segmentation the teachers with prompt: label get",
    )


def add_calibrate(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf calibrate``."""
    add_config(parser)
    parser.add_argument(
        "--round",
        type=int,
        metavar="R",
        help="calibration of the mixture with the external teachers of a round; without it, of"
        " the ensemble without them",
    )


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf evaluate``."""
    add_round(parser)
    _add_optional_shard(parser, "test_0")
    parser.add_argument(
        "--scales",
        action="store_true",
        help="score some test cases at the input scales of compare.scales",
    )
    parser.add_argument(
        "--validation",
        action="store_true",
        help="summarise the scores of the validation cases, by which the exported round is chosen",
    )


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf export``."""
    add_config(parser)
    parser.add_argument(
        "--member",
        metavar="NAME",
        help="export only this ensemble member, into export_NAME; the first one, seed_0, is the"
        " single network unless you have a reason for another",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hstf report``."""
    add_config(parser)
    parser.add_argument(
        "--show", action="store_true", help="print the table of rounds and the path of the report"
    )
