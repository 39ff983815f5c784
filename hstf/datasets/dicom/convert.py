"""Convert a folder of DICOM series to NIfTI images with a case sheet and ``dicom.csv``."""

import fnmatch
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hstf.datasets.dicom.headers import Header, Headers, read_headers
from hstf.datasets.dicom.lost import Suspect, Suspects, describe, names_of
from hstf.datasets.dicom.mapping import Row, SeriesTable
from hstf.datasets.dicom.pixels import fingerprint, read_voxels
from hstf.datasets.dicom.series import (
    BrokenSeries,
    NotVolume,
    Series,
    build_series,
    is_no_image,
    source_folder,
)
from hstf.datasets.importers.dataset import DataSet, FoundCase, Image, Labels, plain_name
from hstf.datasets.importers.walk import Note
from hstf.experiment.cases import CASE_ID
from hstf.imaging.affines import corner_distance, shear_degrees, without_shear
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path, remove_leftovers
from hstf.runtime.progress import track

TITLE = "Scans converted from DICOM."
MILLIMETRES = "mm"
SCANNER = 1
"""Code of NIfTI for coordinates of the scanner."""
IMPORTED = "imported"
LEFT_OUT = "left out"
PROBLEM = "problem"
TILT_MM = 0.1
"""A tilt of the gantry that displaces voxels by more is reported."""
NOT_CHOSEN = "not chosen by --modality and --series"


@dataclass(frozen=True)
class Selection:
    """Which series are imported, and how they are named."""

    modality: str = ""
    """Modality of DICOM, such as MR; empty: all."""
    series: tuple[str, ...] = ()
    """Patterns of SeriesDescription; empty: all."""
    keep_identifiers: bool = False
    """Whether names and messages contain PatientID and paths."""

    def accepts(self, header: Header) -> bool:
        """Return whether a series is chosen."""
        if self.modality and header.modality != self.modality.upper():
            return False
        description = header.description.lower()
        patterns = [pattern.lower() for pattern in self.series]
        return not patterns or any(fnmatch.fnmatchcase(description, p) for p in patterns)


@dataclass
class Found:
    """The series below a folder."""

    table: SeriesTable
    selection: Selection
    volumes: dict[str, Series] = field(default_factory=dict)
    """The volumes that can be imported, by case."""
    patients: dict[str, str] = field(default_factory=dict)
    """Name of the patient of each case."""
    identifiers: dict[str, str] = field(default_factory=dict)
    """What each name of a patient is made from."""
    dataset: DataSet = field(default_factory=lambda: DataSet(TITLE, {"image": "other"}, Labels({})))
    """Cases, problems, and what is left out, for the case sheet and the messages."""
    not_chosen: int = 0
    """Number of series that the options do not choose."""

    def name_in_messages(self, uid: str, headers: Sequence[Header]) -> str:
        """Return how messages name a series: by a hash, unless identifiers are kept."""
        if self.selection.keep_identifiers:
            return f"series {uid} in {source_folder(headers)}"
        return f"series {self.table.series(uid)}"


def find_series(folder: Path, selection: Selection, table: SeriesTable) -> Found:
    """Find the series below a folder and what each of them is.

    Args:
        folder: the folder.
        selection: which series are imported.
        table: rows of an earlier import, which are updated.

    Raises:
        HstfError: if the folder cannot be read or has no DICOM file.
    """
    headers = read_headers([folder])
    if not headers.series:
        raise HstfError(_describe_no_series(headers))
    found = Found(table, selection)
    suspects = Suspects.of(headers)
    _note_other_files(found, headers, len(suspects.unmarked))
    rest = set(suspects.all)
    for uid, unsorted in headers.series.items():
        # Reports in a series of images do not decide what it is.
        files = sorted(unsorted, key=is_no_image)
        if _sort_in(found, uid, files, suspects.of_series(uid)):
            rest -= set(suspects.of_series(uid))
    _note_rest(found, sorted(rest))
    return found


def _describe_no_series(headers: Headers) -> str:
    """Return what is in a folder without a series, and what to do."""
    found = []
    advice = []
    if headers.damaged:
        found.append(f"{headers.damaged} DICOM files whose headers cannot be read")
        advice.append("Export the series from the PACS again.")
    if headers.broken:
        found.append(f"{len(headers.broken)} broken links")
        advice.append("Fix the links.")
    others = len(headers.unmarked) + headers.indices
    if others or not found:
        found.append(f"{others} other files, without the mark of DICOM (DICM)")
        advice.append("For NIfTI and other volumes use hstf import folder.")
    return f"the folder contains no DICOM series: {', '.join(found)}. {' '.join(advice)}"


def _note_rest(found: Found, suspects: Sequence[Suspect]) -> None:
    """Record files that may be lost slices of a series that is unknown, or is not imported."""
    if not suspects:
        return
    where = ". Add --dry-run and --keep-identifiers to see their names"
    if found.selection.keep_identifiers:
        where = names_of(suspects)
    found.dataset.add_problem("files of no imported series", f"{describe(suspects)}{where}")


def _note_other_files(found: Found, headers: Headers, suspects: int) -> None:
    """Record the files that belong to no series, without those that may be lost slices."""
    others = len(headers.unmarked) + headers.indices - suspects
    if others:
        found.dataset.leave_out(f"{others} files", "not DICOM, or an index (DICOMDIR)")
    for what, why in headers.not_read:
        found.dataset.leave_out(what, why)
    if headers.damaged:
        found.dataset.add_problem(
            f"{headers.damaged} DICOM files",
            "their headers cannot be read, so that slices may be missing. Export their series from"
            " the PACS again",
        )


def _sort_in(found: Found, uid: str, headers: Sequence[Header], lost: Sequence[Suspect]) -> bool:
    """Decide what becomes of a series, and note it in the table.

    Args:
        found: where it is recorded.
        uid: SeriesInstanceUID.
        headers: the headers of its files.
        lost: files that may be lost slices of it.

    Returns:
        Whether it has a problem.
    """
    row = _row(found.table, uid, headers)
    if not found.selection.accepts(headers[0]):
        found.not_chosen += 1
        # An earlier import may have chosen it.
        found.table.rows.setdefault(uid, row | {"state": LEFT_OUT, "reason": NOT_CHOSEN})
        return False
    what = found.name_in_messages(uid, headers)
    try:
        volume = build_series(headers, describe(lost))
        row |= {"case_id": _add(found, uid, volume), "state": IMPORTED}
        _note_doubts(found, what, volume)
    except NotVolume as reason:
        row |= {"state": LEFT_OUT, "reason": str(reason)}
        found.dataset.leave_out(what, str(reason))
    except BrokenSeries as reason:
        row |= {"state": PROBLEM, "reason": f"{reason}{names_of(lost)}"}
        names = names_of(lost) if found.selection.keep_identifiers else ""
        found.dataset.add_problem(what, f"{reason}{names}")
    found.table.rows[uid] = row
    return row["state"] == PROBLEM


def _note_doubts(found: Found, what: str, volume: Series) -> None:
    """Record files of a series that are no slices, and a small tilt of the gantry."""
    if volume.set_aside:
        found.dataset.leave_out(
            f"{volume.set_aside} files of {what}",
            "no slices of the volume (overview images, reports, colour or multi-frame pictures)",
        )
    shear = shear_degrees(volume.affine)
    distance = corner_distance(volume.affine, without_shear(volume.affine), volume.shape)
    if distance > TILT_MM:
        found.dataset.rules.append(
            Note(
                what,
                f"its slices are tilted by {shear:.1f} degrees against the axis of the scan."
                " Programs that ignore this, such as ITK-SNAP, place voxels up to"
                f" {distance:.1f} mm elsewhere. dcm2niix straightens such scans",
            )
        )


def _row(table: SeriesTable, uid: str, headers: Sequence[Header]) -> Row:
    """Return the row of a series whose state is not known yet."""
    first = headers[0]
    return {
        "case_id": "",
        "series": table.series(uid),
        "reason": "",
        "modality": first.modality,
        "description": first.description,
        "slices": len(headers),
        "series_uid": uid,
        "study_uid": first.study_uid,
        "folder": str(source_folder(headers)),
        "fingerprint": table.rows.get(uid, {}).get("fingerprint", ""),
    }


def _add(found: Found, uid: str, volume: Series) -> str:
    """Add a volume to the cases and return its name.

    Raises:
        HstfError: if two patients or series get the same name.
    """
    first = volume.first
    # A scan without a PatientID is a patient of its own study.
    identifier = first.patient_id or first.study_uid
    patient = found.table.patient(identifier)
    name = f"{patient}_{found.table.series(uid)}"
    if found.selection.keep_identifiers:
        patient = plain_name(identifier)
        number = plain_name(first.series_number).replace("_", "-")
        name = f"{patient}_{number}-{found.table.series(uid)}"
    _refuse_ambiguous(found, name, patient, identifier)
    found.volumes[name] = volume
    found.patients[name] = patient
    return name


def _refuse_ambiguous(found: Found, name: str, patient: str, identifier: str) -> None:
    """Check that a name stands for one patient and one series.

    Raises:
        HstfError: if it does not.
    """
    is_other = found.identifiers.setdefault(patient, identifier) != identifier
    if is_other or name in found.volumes or not CASE_ID.fullmatch(name):
        raise HstfError(
            "two patients or series would get the same name, or one that is not valid. Import"
            " without --keep-identifiers, or, if you did, with another --mapping FILE."
        )


def convert(found: Found, folder: Path, replace: bool) -> None:
    """Write an image for each volume to ``folder`` and note it in the table.

    A series that cannot be decoded is recorded as a problem and is no volume any more; its image is
    not written.

    Args:
        found: the series.
        folder: folder of the images.
        replace: whether series that have changed since an earlier import are converted again.
    """
    for name, volume in track(list(found.volumes.items()), "convert DICOM"):
        uid = volume.first.series_uid
        row = found.table.rows[uid]
        target = folder / f"{name}.nii.gz"
        what = found.name_in_messages(uid, volume.slices)
        try:
            voxels = read_voxels(volume)
            digest = fingerprint(volume, voxels)
            known = row["fingerprint"]
            if known not in ("", digest) and not replace:
                raise BrokenSeries(
                    "has changed since it was imported. Labels of its image may not fit any more."
                    " Add --force to convert it again"
                )
            if known != digest or not target.is_file():
                _write(target, voxels, volume.affine)
            row["fingerprint"] = digest
            found.dataset.add(_case(found, name, target))
        except BrokenSeries as reason:
            row |= {"case_id": "", "state": PROBLEM, "reason": str(reason)}
            found.dataset.add_problem(what, str(reason))
            del found.volumes[name], found.patients[name]


def _case(found: Found, name: str, path: Path) -> FoundCase:
    return FoundCase(name, {"image": Image(path)}, group=found.patients[name])


def _write(target: Path, voxels: np.ndarray, affine: np.ndarray) -> None:
    """Write a NIfTI file whose header contains the geometry and no text."""
    import nibabel as nib

    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units(MILLIMETRES)
    image.set_sform(affine, code=SCANNER)
    image.set_qform(affine, code=SCANNER)
    remove_leftovers(target)
    with atomic_path(target) as path:
        nib.save(image, path)


def modalities_of(found: Found) -> str:
    """Return the number of volumes of each modality as text."""
    counts = Counter(volume.first.modality or "unknown" for volume in found.volumes.values())
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
