"""The options with which a run starts again, compared with how Snakemake reads them."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from snakemake.cli import get_argument_parser

from hstf.experiment.run_arguments import lasting_arguments, workflow_arguments, workflow_command


@cache
def parser() -> Any:
    return get_argument_parser()


def targets_of(words: Any) -> list[str]:
    return list(parser().parse_args(list(words)).targets)


@pytest.mark.parametrize(
    ("started", "kept"),
    [
        ("--cores 8 --configfile a.yaml b.yaml", "--cores 8"),
        ("check --cores 8 --configfile a.yaml", "--cores 8"),
        ("--cores 8 check", "--cores 8"),
        ("round_1_labels -j4 --configfiles=a.yaml --keep-going", "-j4 --keep-going"),
        ("-R refine_shard --until round_1_refine --cores 2", "--cores 2"),
        ("--cores 2 --forcerun teacher labels --profile slurm", "--cores 2 --profile slurm"),
        ("--directory here -s other/Snakefile --cores 1 -n", "--cores 1"),
        ("--cores all --config rounds=3 seed=2 --quiet rules", None),
        ("--quiet rules --cores 1 --storage-s3-secret-key k --retries 2", None),
        ("plan --cores 1 --resources gpu=4 plan=1", "--cores 1 --resources gpu=4 plan=1"),
    ],
)
def test_lasting_arguments_keep_what_holds_for_every_run(started: str, kept: str | None) -> None:
    def known_targets(words: Any) -> list[str]:
        return [] if kept is None else targets_of(words)

    expected = started.replace(" --storage-s3-secret-key k", "") if kept is None else kept
    assert lasting_arguments(started.split(), known_targets) == expected.split()


@pytest.mark.parametrize("is_dry", [False, True])
def test_workflow_arguments_put_targets_where_no_option_takes_them(is_dry: bool) -> None:
    options = ["--cores", "8", "--config", "rounds=3", "--configfile", "a.yaml", "b.yaml"]
    read = parser().parse_args(workflow_arguments(options, ["round_1_labels"], is_dry))
    assert read.targets == ["round_1_labels"] or read.targets == {"round_1_labels"}
    assert read.configfile == [Path("a.yaml"), Path("b.yaml")] and read.dryrun == is_dry


def test_workflow_command_can_be_pasted() -> None:
    arguments = ["--cores", "2", "--config", "student={steps: 100}"]
    assert workflow_command(arguments) == "snakemake --cores 2 --config 'student={steps: 100}'"
