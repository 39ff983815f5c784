"""``hstf import``: write the case sheet and the configuration of a data set.

The importers in :mod:`hstf.datasets.importers` read folders in the layout in which data sets are
distributed. Nothing is written if there is any problem.
"""

import argparse
import dataclasses
import sys
from collections.abc import Collection
from pathlib import Path
from typing import cast, get_args

from hstf.commands import import_dicom
from hstf.config.experiment import Modality
from hstf.config.load import load_config
from hstf.datasets.importers.advice import suitable_kinds, ways_out
from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels, Note
from hstf.datasets.importers.extract import extract, needs_extraction
from hstf.datasets.importers.headers import find_label_maps, label_values, read_grids
from hstf.datasets.importers.options import PATIENT, Options
from hstf.datasets.importers.registry import CONVERTED, IMPORTERS, find_importer
from hstf.datasets.importers.slicer import check_segments, segment_names
from hstf.datasets.importers.split import (
    Request,
    assign,
    read_groups,
    read_names,
    read_splits,
)
from hstf.datasets.importers.structures import combine, measure
from hstf.datasets.importers.summary import NO_TEST, show, show_pairs
from hstf.datasets.importers.write import (
    check_suitable,
    config_text,
    sheet_path,
    write_sheet,
)
from hstf.experiment.cases import Split
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import write_text

KINDS_OF_OPTIONS = {
    "--images": ("folder",),
    "--labels GLOB": ("folder",),
    "--labels NAME=VALUE": ("folder", "bids"),
    "--match": ("folder",),
    "--filter": ("bids",),
    "--modalities": ("folder", "bids"),
    "--patient": ("folder", "nnunet", "msd"),
    "--site": ("folder",),
    "--output": tuple(IMPORTERS),
    "--accept-few-values": tuple(IMPORTERS),
    "--labelled": tuple(IMPORTERS),
    "--test": tuple(IMPORTERS),
    "--validation": tuple(IMPORTERS),
    "--test-site": tuple(IMPORTERS),
    "--order": tuple(IMPORTERS),
    "--split": tuple(IMPORTERS),
    "--modality": ("dicom",),
    "--series": ("dicom",),
    "--mapping": ("dicom",),
    "--keep-identifiers": ("dicom",),
}
"""Kinds that use an option. The other kinds know what it states."""
MAXIMUM_PROBLEMS = 40
"""Number of problems that an error message lists."""


def run(args: argparse.Namespace) -> int:
    """Import a folder."""
    _refuse_unused_options(args)
    if args.kind in CONVERTED:
        return import_dicom.run(args)
    if not args.dry_run:
        _check_output(args)
    dataset = _find(args)
    grids = read_grids(dataset)
    if args.dry_run:
        show_pairs(dataset, args.folder)
    _handle_problems(dataset, args)
    if args.split:
        _apply_groups(dataset, args.split)
    volumes = {name: grid.voxel_volume for name, grid in grids.items()}
    try:
        splits = assign(dataset, _request(args), volumes)
    except HstfError as error:
        questions = [f"\nQuestion: {question}" for question in dataset.questions]
        raise HstfError(f"{error}{''.join(questions)}") from error
    labelled = {name for name, split in splits.items() if split is Split.LABELLED}
    sizes = measure(dataset, labelled)
    labels = _labels(dataset, labelled)
    if Split.TEST not in splits.values():
        dataset.comments.append(NO_TEST)
    dataset.comments += [f"Question: {question}" for question in dataset.questions]
    if args.dry_run:
        show(dataset, labels, splits, grids)
        print("Nothing was written, because of --dry-run.")
        return 0
    command = ["hstf", *sys.argv[1:]]
    # All checks come first, so that nothing is written if one of them fails.
    text = config_text(args.output, dataset, labels, splits, grids, command)
    if args.sheet:
        config = load_config(args.output)
        check_suitable(config, dataset, labels, args.output)
    _extract(dataset, args)
    combine(dataset, _label_folder(args), sizes)
    write_sheet(args.sheet or sheet_path(args.output), dataset, splits)
    if not args.sheet:
        write_text(args.output, text)
    show(dataset, labels, splits, grids)
    print(_next_steps(args))
    return 0


def _refuse_unused_options(args: argparse.Namespace) -> None:
    """Refuse options that the kind does not use: they would be ignored.

    Raises:
        HstfError: if there is any.
    """
    patterns = [item for item in args.labels if isinstance(item, str)]
    classes = len(args.labels) > len(patterns) or args.classes
    given = {
        "--images": args.images,
        "--labels GLOB": patterns,
        "--labels NAME=VALUE": classes,
        "--match": args.match,
        "--filter": args.filter,
        "--modalities": args.modalities,
        "--patient": args.patient != PATIENT,
        "--site": args.site,
        "--output": args.output,
        "--accept-few-values": args.accept_few_values,
        "--labelled": args.labelled,
        "--test": args.test,
        "--validation": args.validation,
        "--test-site": args.test_site,
        "--order": args.order,
        "--split": args.split,
        "--modality": args.modality,
        "--series": args.series,
        "--mapping": args.mapping,
        "--keep-identifiers": args.keep_identifiers,
    }
    for option, kinds in KINDS_OF_OPTIONS.items():
        if given[option] and args.kind not in kinds:
            advice = " hstf import folder reads any folder."
            if args.kind in CONVERTED:
                advice = " First convert and label scans, then import their folder."
            raise HstfError(
                f"{option}: kind {args.kind} does not use it, only {', '.join(kinds)}.{advice}"
            )


def _find(args: argparse.Namespace) -> DataSet:
    """Return the cases in the folder.

    Raises:
        HstfError: if there is none. The message shows what was found and other ways.
    """
    classes = [item for item in args.labels if isinstance(item, tuple)]
    options = Options(
        modalities=_modalities(args),
        labels=dict(classes + args.classes),
        patient=args.patient,
        site=args.site,
        images=tuple(args.images),
        label_files=tuple(item for item in args.labels if isinstance(item, str)),
        match=args.match,
        filters=dict(args.filter),
        written=_written(args),
    )
    try:
        dataset = find_importer(args.kind)(args.folder, options)
    except HstfError as error:
        raise HstfError(f"{error}\n{ways_out(args.folder, args.kind)}".rstrip()) from error
    if args.kind == "folder":
        for kind in suitable_kinds(args.folder, dataset, args.kind):
            dataset.questions.append(
                f"Names look like those of {kind}. Does hstf import {kind} suit? It knows more"
                " about the data set, for instance its classes."
            )
    if not args.accept_few_values:
        find_label_maps(dataset)
    if not dataset.has_labels and not dataset.problems:
        raise HstfError(
            f"{args.folder}: {len(dataset.cases)} images, but no label: 0 labelled patients,"
            f" expected at least 2.\n{ways_out(args.folder, args.kind)}"
        )
    return dataset


def _written(args: argparse.Namespace) -> tuple[Path, ...]:
    """Return the folders of volumes that the import writes."""
    if args.output is None:
        return ()
    return (_label_folder(args),)


def _label_folder(args: argparse.Namespace) -> Path:
    """Return the folder of labels that are made from masks of structures."""
    if args.extract:
        return args.extract
    sheet = args.sheet or sheet_path(args.output)
    if sheet.name == "cases.csv":
        return sheet.parent / "combined_labels"
    return sheet.parent / f"{sheet.stem}_combined_labels"


def _apply_groups(dataset: DataSet, sheet: Path) -> None:
    """Take the patients of cases from the column ``group`` of a sheet, which counts most."""
    groups = read_groups(sheet)
    changed = []
    cases = []
    for case in dataset.cases:
        group = groups.get(case.case_id, case.group)
        if group != case.patient and case.case_id in groups:
            changed.append(case.case_id)
            case = dataclasses.replace(case, group=group)
        cases.append(case)
    dataset.cases = cases
    if changed:
        dataset.rules.append(
            Note("patients", f"{len(changed)} scans have the group of {sheet}, not that of names")
        )


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
        f"  snakemake --cores 8 --configfile {args.output}\n"
        f"Without a GPU: snakemake --cores all --configfile {args.output} config/presets/cpu.yaml"
    )


def _check_output(args: argparse.Namespace) -> None:
    """Check that no existing file is replaced, because a user may have edited it.

    Raises:
        HstfError: if a file exists and ``--force`` is not given.
    """
    if args.output is None:
        raise HstfError("--output config/NAME.yaml is missing; only --dry-run works without it.")
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
        error = _problems_error(dataset, args.folder)
        raise HstfError(f"{error}\n{ways_out(args.folder, args.kind)}")
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
    paths += case.label_files
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
        validation=_number_or_names(args.validation) or 0,
        order=order,
        splits=splits,
        seed=args.seed,
        test_sites=frozenset(args.test_site),
    )


def _number_or_names(value: int | Path | None) -> int | list[str] | None:
    if isinstance(value, Path):
        return read_names(value)
    return value


def _labels(dataset: DataSet, labelled: Collection[str]) -> Labels:
    """Return the classes. If the files define them, only labels of labelled cases are read."""
    paths = []
    for case in dataset.cases:
        if case.label is not None and case.case_id in labelled:
            paths.append(case.label)
    if isinstance(dataset.labels, Labels):
        check_segments(paths, dataset.labels)
        return dataset.labels
    values = label_values(paths)
    return segment_names(paths) or dataset.labels(values)
