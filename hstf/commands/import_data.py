"""``hstf import``: write the case sheet and the configuration of a data set.

The importers in :mod:`hstf.datasets.importers` read folders in the layout in which data sets are
distributed. Nothing is written if there is any problem.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

from hstf.config.experiment import Modality
from hstf.config.load import load_config
from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.extract import extract, needs_extraction
from hstf.datasets.importers.headers import label_values, read_grids
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.registry import find_importer
from hstf.datasets.importers.split import Request, assign, read_names, read_splits
from hstf.datasets.importers.summary import show
from hstf.datasets.importers.write import (
    check_suitable,
    config_text,
    sheet_path,
    write_sheet,
)
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import write_text

MAXIMUM_PROBLEMS = 40
"""Number of problems that an error message lists."""


def run(args: argparse.Namespace) -> int:
    """Import a folder."""
    _check_output(args)
    options = Options(
        modalities=_modalities(args),
        labels=dict(args.labels),
        patient=args.patient,
        site=args.site,
    )
    find = find_importer(args.kind)
    dataset = find(args.folder, options)
    grids = read_grids(dataset)
    _handle_problems(dataset, args)
    volumes = {name: grid.voxel_volume for name, grid in grids.items()}
    splits = assign(dataset, _request(args), volumes)
    labels = _labels(dataset, splits)
    command = ["hstf", *sys.argv[1:]]
    # All checks come first, so that nothing is written if one of them fails.
    text = config_text(args.output, dataset, labels, splits, grids, command)
    if args.sheet:
        config = load_config(args.output)
        check_suitable(config, dataset, labels, args.output)
    _extract(dataset, args)
    write_sheet(args.sheet or sheet_path(args.output), dataset, splits)
    if not args.sheet:
        write_text(args.output, text)
    show(dataset, labels, splits, grids)
    print(_next_steps(args))
    return 0


def _modalities(args: argparse.Namespace) -> dict[str, Modality | None]:
    """Return the type of each modality in ``--modalities``, ``None`` where it is not given."""
    known = get_args(Modality)
    modalities: dict[str, Modality | None] = {}
    for name, modality in args.modalities:
        if modality and modality not in known:
            raise HstfError(f"--modalities {name}={modality}: expected one of {', '.join(known)}.")
        modalities[name] = cast(Modality, modality) or None
    return modalities


def _next_steps(args: argparse.Namespace) -> str:
    """Return what was written, and the commands that come next."""
    if args.sheet:
        return (
            f"Wrote {args.sheet}. Next:\n"
            f"  snakemake --cores 8 --configfile {args.output}"
            f" --config cases={args.sheet} experiment={args.sheet.stem}"
        )
    return (
        f"Wrote {args.output} and {sheet_path(args.output)}. Next:\n"
        f"  snakemake --cores 8 check --configfile {args.output}\n"
        f"  snakemake --cores 8 --configfile {args.output}"
    )


def _check_output(args: argparse.Namespace) -> None:
    """Check that no existing file is replaced, because a user may have edited it.

    Raises:
        HstfError: if a file exists and ``--force`` is not given.
    """
    if args.output.suffix not in (".yaml", ".yml"):
        raise HstfError(
            f"--output {args.output}: expected the name of a YAML file, config/NAME.yaml."
        )
    targets = [args.output, sheet_path(args.output)]
    if args.sheet:
        targets = [args.sheet]
    existing = [str(path) for path in targets if path.exists()]
    if existing and not args.force:
        raise HstfError(
            f"{' and '.join(existing)}: already exists. Add --force to replace it (and --split"
            " with its case sheet to keep the split), or choose another name."
        )


def _extract(dataset: DataSet, args: argparse.Namespace) -> None:
    """Write the channels of 4D images to separate files.

    Raises:
        HstfError: if ``--extract`` is required, but not given.
    """
    if not needs_extraction(dataset):
        return
    if args.extract is None:
        raise HstfError(
            f"{args.folder}: the images are 4D with {len(dataset.modalities)} channels, but the"
            " workflow reads 3D volumes. Add --extract FOLDER to write each channel to a file."
        )
    extract(dataset, args.extract)


def _handle_problems(dataset: DataSet, args: argparse.Namespace) -> None:
    """Leave out cases with problems if ``--leave-out-invalid`` is given.

    Raises:
        HstfError: if there are problems and the option is not given, or if no case remains.
    """
    if dataset.problems and not args.leave_out_invalid:
        raise _problems_error(dataset, args.folder)
    invalid = {note.what for note in dataset.problems}
    dataset.cases = [case for case in dataset.cases if invalid.isdisjoint(_names(case))]
    dataset.left_out += dataset.problems
    if not dataset.cases:
        raise HstfError(f"{args.folder}: no case remains.")


def _problems_error(dataset: DataSet, folder: Path) -> HstfError:
    lines = [f"{note.what}: {note.why}" for note in dataset.problems]
    shown = lines[:MAXIMUM_PROBLEMS]
    if len(lines) > MAXIMUM_PROBLEMS:
        shown.append(f"and {len(lines) - MAXIMUM_PROBLEMS} more")
    return join_problems(
        f"{folder}: {len(lines)} problems, nothing was written. Fix them, or leave out the cases"
        " with --leave-out-invalid.",
        shown,
    )


def _names(case: FoundCase) -> set[str]:
    """Return the names under which a problem of ``case`` is recorded: case, files, folders."""
    paths = [image.path for image in case.images.values()]
    if case.label is not None:
        paths.append(case.label)
    names = {case.case_id}
    for path in paths:
        names.add(str(path))
        names.add(str(path.parent))
    return names


def _request(args: argparse.Namespace) -> Request:
    """Return the requested splits, with the content of all files that the options name."""
    order = None
    if args.order:
        order = read_names(args.order)
    splits = None
    if args.split:
        splits = read_splits(args.split)
    return Request(
        labelled=_number_or_names(args.labelled),
        test=_number_or_names(args.test) or 0,
        order=order,
        splits=splits,
        seed=args.seed,
        test_sites=frozenset(args.test_site),
    )


def _number_or_names(value: int | Path | None) -> int | list[str] | None:
    if isinstance(value, Path):
        return read_names(value)
    return value


def _labels(dataset: DataSet, splits: Mapping[str, Split]) -> Labels:
    """Return the classes. If the files define them, only labels of labelled cases are read."""
    if isinstance(dataset.labels, Labels):
        return dataset.labels
    paths = []
    for case in dataset.cases:
        if case.label is not None and splits.get(case.case_id) is Split.LABELLED:
            paths.append(case.label)
    return dataset.labels(label_values(paths))
