"""``hstf import dicom``: convert DICOM series to NIfTI images with a case sheet.

Written to the folder ``--extract``:

- ``images/<case>.nii.gz``: one image for each series;
- ``cases.csv``: the case sheet, in which all cases are unlabelled;
- ``dicom.csv``: which series each case is. It leads back to the patients, and only its owner can
  read it. It is also written if there are problems, because their messages name series by a hash.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hstf.datasets.dicom.convert import Found, Selection, convert, find_series, modalities_of
from hstf.datasets.dicom.mapping import FILE, SeriesTable
from hstf.datasets.dicom.packages import NEEDED
from hstf.datasets.importers.dataset import Note
from hstf.datasets.importers.write import write_sheet
from hstf.experiment.cases import Split
from hstf.imaging.volume_files import stem
from hstf.runtime.errors import HstfError, few, join_problems, shortened
from hstf.runtime.optional_packages import refuse_missing_packages

PATIENT_PATTERN = "^(.+)_[^_]+$"
"""Finds the patient in the name of a case, for ``hstf import folder``."""
PET = (
    "PET values are those of the file after its rescale, usually Bq/ml. Standardised uptake values"
    " (SUV) are not computed."
)


@dataclass(frozen=True)
class Targets:
    """What is written."""

    folder: Path
    sheet: Path
    mapping: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Targets":
        """Return the targets of the command line.

        Raises:
            HstfError: if the folder is not given.
        """
        if args.extract is None:
            raise HstfError("--extract FOLDER is missing: the folder of the converted images.")
        sheet = args.sheet or args.extract / "cases.csv"
        return cls(args.extract, sheet, args.mapping or _usual_mapping(args.extract, sheet))


def _usual_mapping(folder: Path, sheet: Path) -> Path:
    """Return the mapping beside the images, so that another sheet does not change their names.

    Earlier versions stored it beside the case sheet.
    """
    beside_sheet = sheet.parent / FILE
    if beside_sheet.is_file() and not (folder / FILE).is_file():
        return beside_sheet
    return folder / FILE


def run(args: argparse.Namespace) -> int:
    """Convert the series below a folder."""
    refuse_missing_packages("DICOM", NEEDED, "dicom")
    targets = Targets.of(args)
    if targets.sheet.exists() and not (args.force or args.dry_run):
        raise HstfError(
            f"{targets.sheet}: already exists. Add --force to replace it, or give another --sheet."
            f" Cases keep their names, because {targets.mapping} is used again."
        )
    selection = Selection(args.modality, tuple(args.series), args.keep_identifiers)
    found = find_series(args.folder, selection, SeriesTable.opened(targets.mapping))
    if args.dry_run:
        _show(found)
        print("\n".join(_problems(found)))
        if found.dataset.problems and not args.keep_identifiers:
            print("Add --keep-identifiers to see which series these are.")
        print("Nothing was written, because of --dry-run.")
        return 0
    _write(found, targets, args)
    _show(found, found.dataset.problems)
    _show_other_images(found, targets.folder / "images")
    print(_next_steps(targets))
    return 0


def _write(found: Found, targets: Targets, args: argparse.Namespace) -> None:
    """Write images, case sheet and mapping. The mapping is also written if there are problems."""
    try:
        _handle_problems(found, targets, args.leave_out_invalid)
        # Before the images: without the salt, a killed import would start again with other names.
        found.table.write(targets.mapping)
        convert(found, targets.folder / "images", args.force)
        _handle_problems(found, targets, args.leave_out_invalid)
    finally:
        found.table.write(targets.mapping)
    cases = found.dataset.cases
    write_sheet(targets.sheet, found.dataset, {case.case_id: Split.UNLABELLED for case in cases})


def _handle_problems(found: Found, targets: Targets, leave_out_invalid: bool) -> None:
    """Leave out series with problems if that is asked for.

    Raises:
        HstfError: if there are problems and it is not, or if no series remains.
    """
    if found.dataset.problems and not leave_out_invalid:
        raise join_problems(
            f"{len(found.dataset.problems)} problems, no case sheet was written. Fix them, or leave"
            f" out these series with --leave-out-invalid. {targets.mapping} has the folder of each"
            " series, and the first files that may be lost slices.",
            shortened(_problems(found)),
        )
    if not found.volumes:
        raise join_problems(
            f"no series can be imported; {found.not_chosen} are not chosen by --modality and"
            f" --series. {targets.mapping} has the description of each series.",
            shortened([f"{note.what}: {note.why}" for note in found.dataset.left_out]),
        )


def _problems(found: Found) -> list[str]:
    return [f"{note.what}: {note.why}" for note in found.dataset.problems]


def _show(found: Found, left_out_invalid: Sequence[Note] = ()) -> None:
    """Print what was found and what is left out."""
    patients = len(set(found.patients.values()))
    print(f"{len(found.volumes)} series of {patients} patients: {modalities_of(found)}.")
    for note in [*found.dataset.left_out, *left_out_invalid]:
        print(f"left out: {note.what}: {note.why}.")
    for note in found.dataset.rules:
        print(f"note: {note.what}: {note.why}.")
    if found.not_chosen:
        print(f"left out: {found.not_chosen} series that --modality and --series do not choose.")
    if any(volume.first.modality == "PT" for volume in found.volumes.values()):
        print(PET)


def _show_other_images(found: Found, folder: Path) -> None:
    """Print how many images of earlier imports are in the folder: ``import folder`` reads them."""
    others = [path for path in folder.glob("*.nii.gz") if stem(path) not in found.volumes]
    if others:
        print(
            f"{folder} has {len(others)} images that are not in the case sheet, for example"
            f" {few(path.name for path in others)}: of an earlier import, or of a series that is"
            " left out now. hstf import folder reads them, too: delete those that you do not want."
        )


def _next_steps(targets: Targets) -> str:
    """Return what was written, and what to do next."""
    return (
        f"Wrote {targets.folder / 'images'}, {targets.sheet} and {targets.mapping}. The last one"
        " leads back to the patients: keep it private.\n"
        f"Next: label some scans, store the labels as {targets.folder}/labels/<case>.nii.gz, and\n"
        f"  hstf import folder {targets.folder} --output config/NAME.yaml --labels CLASS=1"
        f" --patient '{PATIENT_PATTERN}'"
    )
