"""``hstf import``: from a folder as its owners distribute it to a case sheet and a configuration that is right for it.

Each kind has a module with ``find(folder, options) -> DataSet``. Nothing is written when anything is wrong.
"""

import argparse
import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from hstf.config.experiment import Modality
from hstf.config.load import load_config
from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.extract import extract, needs_extraction
from hstf.datasets.importers.headers import label_values, read_grids
from hstf.datasets.importers.options import PATIENT, Options
from hstf.datasets.importers.registry import KINDS
from hstf.datasets.importers.split import Request, assign, read_names, read_splits
from hstf.datasets.importers.write import config_text, find_unsuited, sheet_path, write_sheet
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import write_text

MOST_FAULTS = 40


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``hstf import``."""
    add = parser.add_argument
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "kinds:\n" + "\n".join(f"  {name:8}{text}" for name, text in KINDS.items())
    add("kind", choices=KINDS, metavar="KIND", help="form of the folder, see below")
    add("folder", type=Path, metavar="FOLDER", help="the unpacked data set")
    add("--output", type=Path, required=True, metavar="FILE",
        help="the configuration, config/NAME.yaml; the case sheet is config/NAME/cases.csv")  # fmt: skip
    add("--sheet", type=Path, metavar="FILE",
        help="write this case sheet alone; --output exists, and its classes and modalities must suit the data")  # fmt: skip
    add("--labelled", type=_number_or_file, metavar="N|FILE",
        help="labelled patients, drawn or listed one a line; the others' labels are withheld; default: all")  # fmt: skip
    add("--test", type=_number_or_file, default=0, metavar="N|FILE",
        help="test patients, where the data have no test set of their own; default: none")  # fmt: skip
    add("--test-site", nargs="+", default=[], metavar="NAME",
        help="all of these hospitals are for testing, none of their scans is learned from (leave one site out)")  # fmt: skip
    add("--order", type=Path, metavar="FILE",
        help="do not draw: the first of this list are labelled, the last are test")  # fmt: skip
    add("--split", type=Path, metavar="FILE",
        help="a table with case_id (or group) and split, as an earlier case sheet is")  # fmt: skip
    add("--seed", type=int, default=0, help="of the draw")
    add("--modalities", type=_modality, nargs="+", default=[], metavar="NAME[=KIND]",
        help=f"folder, bids: images of a case, KIND one of {', '.join(get_args(Modality))}")  # fmt: skip
    add(
        "--labels",
        type=_label,
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="folder, bids: the classes",
    )
    add(
        "--patient",
        type=_group,
        default=PATIENT,
        metavar="REGEX",
        help="folder: its first group in a name is the patient",
    )
    add(
        "--site",
        type=_group,
        default="",
        metavar="REGEX",
        help="folder: its first group in a name is the site",
    )
    add("--extract", type=Path, metavar="FOLDER", help="write the channels of 4D images there")
    add(
        "--leave-out-faulty",
        action="store_true",
        help="import the sound cases where others are faulty",
    )
    add("--force", action="store_true", help="replace a configuration and a case sheet that exist")


def run(args: argparse.Namespace) -> int:
    """Import a folder."""
    from hstf.datasets.importers.summary import show

    _find_existing(args)
    options = Options(dict(args.modalities), dict(args.labels), args.patient, args.site)
    dataset: DataSet = importlib.import_module(f"hstf.commands.import_data.{args.kind}").find(
        args.folder, options
    )
    grids = read_grids(dataset)
    _judge(dataset, args)
    splits = assign(
        dataset, _request(args), {name: grid.voxel_volume for name, grid in grids.items()}
    )
    labels = _labels(dataset, splits)
    command = ["hstf", *sys.argv[1:]]
    text = config_text(args.output, dataset, labels, splits, grids, command)
    if args.sheet:
        find_unsuited(load_config(args.output), dataset, labels, args.output)
    _extract(dataset, args)
    write_sheet(args.sheet or sheet_path(args.output), dataset, splits)
    if not args.sheet:
        write_text(args.output, text)
    show(dataset, labels, splits, grids)
    print(_next(args))
    return 0


def _next(args: argparse.Namespace) -> str:
    """What was written, and how to go on."""
    if args.sheet:
        chosen = (
            f"--configfile {args.output} --config cases={args.sheet} experiment={args.sheet.stem}"
        )
        return f"Wrote {args.sheet}. Next:\n  snakemake --cores 8 {chosen}"
    return (
        f"Wrote {args.output} and {sheet_path(args.output)}. Next:\n"
        f"  snakemake --cores 8 check --configfile {args.output}\n"
        f"  snakemake --cores 8 --configfile {args.output}"
    )


def _find_existing(args: argparse.Namespace) -> None:
    """Refuse to replace what a person may have edited.

    Raises:
        HstfError: it exists, and ``--force`` is not given.
    """
    if args.output.suffix not in (".yaml", ".yml"):
        raise HstfError(
            f"--output {args.output}: expected the name of a YAML file, config/NAME.yaml."
        )
    targets = [args.sheet] if args.sheet else [args.output, sheet_path(args.output)]
    there = [path for path in targets if path.exists()]
    if there and not args.force:
        raise HstfError(
            f"{' and '.join(map(str, there))}: exists already. Add --force to replace it (and --split"
            " with its case sheet to keep the split), or give another name."
        )


def _extract(dataset: DataSet, args: argparse.Namespace) -> None:
    """Channels of 4D images into files, where that was asked for."""
    if not needs_extraction(dataset):
        return
    if args.extract is None:
        raise HstfError(
            f"{args.folder}: the images are 4D, {len(dataset.modalities)} channels a file, and the workflow reads"
            " one 3D volume a file. Add --extract FOLDER to write the channels there."
        )
    extract(dataset, args.extract)


def _judge(dataset: DataSet, args: argparse.Namespace) -> None:
    """Leave faulty cases out if that was asked for.

    Raises:
        HstfError: there are faults otherwise, or no case is left.
    """
    if dataset.faults and not args.leave_out_faulty:
        told = [f"{what}: {why}" for what, why in dataset.faults]
        more = [f"and {len(told) - MOST_FAULTS} more"] if len(told) > MOST_FAULTS else []
        raise join_faults(
            f"{args.folder}: {len(told)} faults, so nothing was written. Mend them, or leave the cases out with"
            " --leave-out-faulty.",
            told[:MOST_FAULTS] + more,
        )
    faulty = {note.what for note in dataset.faults}
    dataset.cases = [case for case in dataset.cases if not faulty & _names(case)]
    dataset.left_out += dataset.faults
    if not dataset.cases:
        raise HstfError(f"{args.folder}: no case is left.")


def _names(case: FoundCase) -> set[str]:
    """What a fault of ``case`` may be told about: the case, its files, their folder."""
    files = [image.path for image in case.images.values()] + ([case.label] if case.label else [])
    return {case.case_id, *map(str, files), *(str(path.parent) for path in files)}


def _request(args: argparse.Namespace) -> Request:
    def wanted(value: int | Path | None) -> int | list[str] | None:
        return read_names(value) if isinstance(value, Path) else value

    return Request(
        labelled=wanted(args.labelled),
        test=wanted(args.test) or 0,
        order=read_names(args.order) if args.order else None,
        splits=read_splits(args.split) if args.split else None,
        seed=args.seed,
        test_sites=frozenset(args.test_site),
    )


def _labels(dataset: DataSet, splits: Mapping[str, Split]) -> Labels:
    """The classes; where the files tell them, from labelled cases alone."""
    if isinstance(dataset.labels, Labels):
        return dataset.labels
    labelled = [
        c.label for c in dataset.cases if c.label and splits.get(c.case_id) is Split.LABELLED
    ]
    return dataset.labels(label_values(labelled))


def _group(text: str) -> str:
    """A regular expression with a group, or nothing."""
    try:
        groups = re.compile(text).groups
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    if text and not groups:
        raise argparse.ArgumentTypeError(
            f"{text!r} needs a group in parentheses, as in '(case[0-9]+)'"
        )
    return text


def _number_or_file(text: str) -> int | Path:
    return int(text) if text.isdigit() else Path(text)


def _modality(text: str) -> tuple[str, Modality | None]:
    name, _, kind = text.partition("=")
    if kind and kind not in get_args(Modality):
        raise argparse.ArgumentTypeError(f"{kind!r} is none of {', '.join(get_args(Modality))}")
    return name, kind or None  # type: ignore[return-value]


def _label(text: str) -> tuple[str, int]:
    name, _, value = text.partition("=")
    if not name or not value.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, int(value)
