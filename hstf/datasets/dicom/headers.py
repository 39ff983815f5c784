"""Headers of the DICOM files below a folder, by series.

Links are followed as by the other imports: a folder or file that is reached twice is read once.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hstf.datasets.dicom.packages import quiet
from hstf.datasets.importers.walk import Note, walk
from hstf.runtime.errors import HstfError
from hstf.runtime.progress import track

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

TAGS = (
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "Modality",
    "SeriesDescription",
    "SeriesNumber",
    "ImageType",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
)
"""What is read of a header. Neither the name nor the date of birth of the patient is."""

RESCALE_TAGS = ("RescaleSlope", "RescaleIntercept")
DICOMDIR = "1.2.840.10008.1.3.10"
"""The kind of an index of files."""
NOT_READ = {
    "a link to ": (
        "links",
        "to folders that are read already or contain this one, or to missing documents",
    ),
    "a device, ": ("devices, pipes or sockets", "no files"),
}
"""What is not read and why, by the beginning of the reason that :func:`walk` returns."""
EXAMPLE = "for example "
"""Beginning of the reason of hidden files and folders."""


@dataclass(frozen=True)
class Header:
    """What is read of a DICOM file."""

    path: Path
    uid: str
    """SOPInstanceUID."""
    series_uid: str
    study_uid: str
    patient_id: str
    modality: str
    description: str
    series_number: str
    image_type: tuple[str, ...]
    frames: int
    is_coloured: bool
    """Whether pixels are colours: three values, or the number of a colour in a table."""
    shape: tuple[int, int]
    """Rows and columns; zeros for an object that is no image."""
    pixel_spacing: tuple[float, ...]
    """Distance (mm) of rows, and of columns."""
    position: tuple[float, ...]
    """Centre of the first pixel, mm, in the axes of DICOM (left, posterior, superior)."""
    orientation: tuple[float, ...]
    """Direction in which the column number increases, and that of the row number."""
    slope: float
    intercept: float
    rescale_tags: tuple[str, ...] = ()
    """The tags of slope and intercept that the file has."""
    has_lookup_table: bool = False
    """Whether the values of the pixels are in a table instead of slope and intercept."""


@dataclass
class Headers:
    """The files below a folder."""

    series: dict[str, list[Header]] = field(default_factory=dict)
    """Headers by SeriesInstanceUID."""
    unmarked: list[Path] = field(default_factory=list)
    """Files without the mark of DICOM (DICM)."""
    indices: int = 0
    """Number of indices of files (DICOMDIR)."""
    damaged: int = 0
    """Number of DICOM files whose header cannot be read."""
    broken: list[Path] = field(default_factory=list)
    """Links whose target is missing or cannot be read."""
    not_read: list[Note] = field(default_factory=list)
    """What is not read on purpose, without names."""


def read_headers(folders: Iterable[Path], wanted: frozenset[str] | None = None) -> Headers:
    """Read the headers of all files below folders. Links are followed.

    Args:
        folders: the folders; a file that is below two of them, or linked twice, is read once.
        wanted: SeriesInstanceUID of the series that are kept; None for all.

    Raises:
        HstfError: if a folder cannot be read.
    """
    found = Headers()
    paths = {path for folder in folders for path in _files(found, folder)}
    with quiet():
        for path in track(_each_once(paths), "DICOM headers"):
            _read_into(found, path, wanted)
    return found


def _each_once(paths: Iterable[Path]) -> list[Path]:
    """Return one path of each file, if possible not a link to it."""
    by_file: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        by_file.setdefault(os.path.realpath(path), path)
    return sorted(by_file.values())


def _files(found: Headers, folder: Path) -> list[Path]:
    """Return all files below a folder, and record broken links and what is not read.

    Raises:
        HstfError: if it is no folder, or if a folder below it cannot be read.
    """
    if not folder.is_dir():
        raise HstfError(
            "the DICOM folder is not a folder, or it cannot be read. Give the folder of the series."
        )
    entries = walk(folder)
    for name, why in entries.problems:
        path = Path(name)
        is_link = os.path.islink(path)  # noqa: PTH114 - Path raises in a folder without permission
        if path == folder or not is_link:
            raise HstfError(
                f"a part of the DICOM folder cannot be used: {why}. Its series are unknown. Change"
                " its permissions."
            )
        found.broken.append(path)
    found.not_read += _describe_not_read(entries.left_out)
    return [*entries.volumes, *entries.others]


def _describe_not_read(left_out: Iterable[Note]) -> list[Note]:
    """Return what is not read on purpose without names, which may be those of patients."""
    notes = []
    reasons = [note.why for note in left_out]
    for note in left_out:
        if note.why.startswith(EXAMPLE):  # its example is a name
            notes.append(Note(note.what, "not read"))
    for start, (what, why) in NOT_READ.items():
        count = sum(reason.startswith(start) for reason in reasons)
        if count:
            notes.append(Note(f"{count} {what}", why))
    return notes


def _read_into(found: Headers, path: Path, wanted: frozenset[str] | None) -> None:
    """Read a file and add it to what was found."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
        header = _header(path, dataset)
    except InvalidDicomError:
        found.unmarked.append(path)
        return
    except Exception:  # damaged bytes raise exceptions of many types
        found.damaged += 1
        return
    if not header.series_uid:
        is_index = dataset.file_meta.get("MediaStorageSOPClassUID") == DICOMDIR
        found.indices += is_index
        found.damaged += not is_index
    elif wanted is None or header.series_uid in wanted:
        found.series.setdefault(header.series_uid, []).append(header)


def _header(path: Path, dataset: "Dataset") -> Header:
    return Header(
        path=path,
        uid=_text(dataset, "SOPInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        patient_id=_text(dataset, "PatientID"),
        modality=_text(dataset, "Modality").upper(),
        description=_text(dataset, "SeriesDescription"),
        series_number=_text(dataset, "SeriesNumber"),
        image_type=tuple(str(item).upper() for item in _items(dataset, "ImageType")),
        frames=int(_number(dataset, "NumberOfFrames", 1)),
        is_coloured=_is_coloured(dataset),
        shape=(int(_number(dataset, "Rows", 0)), int(_number(dataset, "Columns", 0))),
        pixel_spacing=_numbers(dataset, "PixelSpacing"),
        position=_numbers(dataset, "ImagePositionPatient"),
        orientation=_numbers(dataset, "ImageOrientationPatient"),
        slope=_number(dataset, "RescaleSlope", 1),
        intercept=_number(dataset, "RescaleIntercept", 0),
        rescale_tags=tuple(name for name in RESCALE_TAGS if _text(dataset, name)),
        has_lookup_table="ModalityLUTSequence" in dataset,
    )


def _is_coloured(dataset: "Dataset") -> bool:
    has_table = _text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    return has_table or _number(dataset, "SamplesPerPixel", 1) > 1


def _text(dataset: "Dataset", name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()


def _number(dataset: "Dataset", name: str, default: float) -> float:
    value = dataset.get(name)
    return float(default if value is None or value == "" else value)


def _items(dataset: "Dataset", name: str) -> Sequence[Any]:
    value = dataset.get(name)
    if value is None or isinstance(value, str):
        return [value] if value else []
    return list(value)


def _numbers(dataset: "Dataset", name: str) -> tuple[float, ...]:
    return tuple(float(item) for item in _items(dataset, name))
