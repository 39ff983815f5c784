"""What an importer finds in a folder: cases, modalities, labels, and what it leaves out."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hstf.config.experiment import Modality
from hstf.experiment.cases import CASE_ID, FILE_ENDINGS, OPTIONAL_COLUMNS
from hstf.imaging.volumes import SUFFIXES, suffix_of
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import read_json

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".7z", ".rar")


class Image(NamedTuple):
    """An image of a case: a file, or a channel of a 4D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class FoundCase:
    """A case as it lies in the folder, before it has a split."""

    case_id: str
    images: Mapping[str, Image]
    """By modality, in channel order."""
    label: Path | None = None
    group: str = ""
    """The patient; empty: the case itself."""
    site: str = ""
    test: bool = False
    """Part of the owners' test set, with a label."""
    stratum: str = ""
    """What else the drawn cases are to be spread over: a diagnosis, say. Never anything read from a label."""

    @property
    def patient(self) -> str:
        """The patient, who never straddles a split."""
        return self.group or self.case_id


class Note(NamedTuple):
    """A sentence about a case or a file."""

    what: str
    why: str


class Labels(NamedTuple):
    """Classes by their values in the files."""

    values: dict[str, int]
    """Name and value of each class."""
    regions: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    """Overlapping regions as their owners score them: name and values."""


@dataclass
class DataSet:
    """All that an importer found."""

    title: str
    """What it is: the first comment of the configuration."""
    modalities: dict[str, Modality]
    labels: Labels | Callable[[set[int]], Labels]
    """The classes, or how to name the values that are found in the labelled cases."""
    cases: list[FoundCase] = field(default_factory=list)
    left_out: list[Note] = field(default_factory=list)
    faults: list[Note] = field(default_factory=list)
    """What is wrong, by case or file: nothing is written while there is any."""
    comments: list[str] = field(default_factory=list)
    """Facts about the data that whoever reads the configuration should know."""

    def fault(self, what: str | Path, why: str) -> None:
        """Note a fault."""
        self.faults.append(Note(str(what), why))

    def leave_out(self, what: str | Path, why: str) -> None:
        """Note what is not imported."""
        self.left_out.append(Note(str(what), why))

    def add(self, case: FoundCase) -> None:
        """Add a case; a name that no case may have, or another has, is a fault."""
        if not CASE_ID.fullmatch(case.case_id) or case.case_id.lower().endswith(FILE_ENDINGS):
            self.fault(case.case_id, "is no name for a case: use letters, digits, '.', '_' and '-'")
        elif any(other.case_id.lower() == case.case_id.lower() for other in self.cases):
            paths = [
                next(iter(c.images.values())).path
                for c in (*self.cases, case)
                if c.case_id.lower() == case.case_id.lower()
            ]
            self.fault(
                case.case_id,
                f"is there twice: {' and '.join(map(str, paths))}; keep one or rename one",
            )
        else:
            self.cases.append(case)


def find_volumes(folder: Path) -> list[Path]:
    """All volumes below ``folder``, in natural order (2 before 10); hidden files, as tar of macOS leaves them, are not.

    Raises:
        HstfError: no folder, or no volume in it; DICOM and archives are named with what to do.
    """
    if not folder.is_dir():
        raise HstfError(f"{folder}: is no folder. Give the folder of the unpacked data set.")
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    found = [path for path in files if suffix_of(path)]
    dangling = [
        str(path)
        for path in folder.rglob("*")
        if path.is_symlink() and suffix_of(path) and not path.exists()
    ]
    if dangling:
        raise join_faults(
            f"{folder}: {len(dangling)} links lead to nothing. Mend or remove them.", dangling
        )
    if not found:
        raise HstfError(f"{folder}: {_nothing(files)}")
    return sorted(found, key=lambda path: natural(str(path)))


def _nothing(files: list[Path]) -> str:
    """Why a folder with ``files`` has no volume."""
    dicom = next((path for path in files if _is_dicom(path)), None)
    if dicom:
        return (
            f"holds DICOM ({dicom.name}, for one), not volumes. Convert it with dcm2niix:"
            " dcm2niix -z y -o OUTPUT FOLDER"
        )
    archive = next((path for path in files if path.name.lower().endswith(ARCHIVES)), None)
    if archive:
        return f"holds no volumes, but an archive ({archive.name}). Unpack it first."
    return f"holds no volumes ({', '.join(SUFFIXES)}); it has {len(files)} other files."


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key under which ``volume-2`` stands before ``volume-10``."""
    return [
        (int(part), "") if part.isdigit() else (-1, part.lower())
        for part in re.split(r"(\d+)", text)
    ]


def plain_name(text: str) -> str:
    """``text`` as the name of a class, column or case: letters, digits, '.', '-' and '_'."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text.strip()).strip("_.-") or "unnamed"


def column_names(names: Iterable[str]) -> list[str]:
    """Columns of the case sheet for modalities called ``names``; ``image`` where there is only one."""
    plain = [plain_name(name).lower() for name in names]
    taken = {"case_id", "split", *OPTIONAL_COLUMNS}
    return (
        ["image"]
        if len(plain) == 1
        else [
            f"{name}_{number}" if name in taken or plain.count(name) > 1 else name
            for number, name in enumerate(plain)
        ]
    )


KINDS: tuple[tuple[Modality, str], ...] = (
    ("ct", r"ct|cbct|cta"),
    ("pet", r"pet|suv|fdg|psma"),
    ("us", r"us|ultrasound|tus|abus"),
    ("mr", r".*(mr|t1|t2|flair|adc|dwi|dce|swi|lge|bssfp|cine).*|pdw?|hbv"),
)


def modality_of(name: str) -> Modality:
    """What kind of image a challenge's name of a modality (``T1w``, ``CT``, ``FLAIR``) stands for."""
    return next((kind for kind, pattern in KINDS if re.fullmatch(pattern, name.lower())), "other")


def read_description(folder: Path) -> dict:
    """``dataset.json`` of a folder.

    Raises:
        HstfError: it is missing or holds no mapping.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise HstfError(
            f"{path}: missing. Give the folder that holds dataset.json, imagesTr and labelsTr."
        )
    content = read_json(path)
    if not isinstance(content, dict):
        raise HstfError(f"{path}: holds {type(content).__name__}, expected names and values.")
    return content


def numbered(names: object, source: Path, key: str) -> list[str]:
    """The values of ``{"0": ..., "1": ...}`` in the order of their numbers.

    Raises:
        HstfError: ``names`` is no such mapping.
    """
    if isinstance(names, Mapping) and names and all(str(i) in names for i in range(len(names))):
        return [str(names[str(i)]) for i in range(len(names))]
    raise HstfError(f'{source}: {key} is {names!r}, expected {{"0": "first", "1": "second"}}.')
