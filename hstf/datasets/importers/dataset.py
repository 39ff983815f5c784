"""What an importer finds in a folder: cases, modalities, labels, and files that it leaves out."""

import json
import re
import stat
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hstf.config.experiment import Modality
from hstf.datasets.importers.walk import Found, Note, walk
from hstf.experiment.cases import CASE_ID, FILE_ENDINGS, OPTIONAL_COLUMNS, Split
from hstf.imaging.volume_files import SUFFIXES
from hstf.runtime.errors import HstfError, join_problems

MAXIMUM_REASONS = 20
"""Number of files or folders that the message about a folder without volumes lists."""
MODALITY_PATTERNS: dict[Modality, str] = {
    "ct": r"ct|cbct|cta",
    "pet": r"pet|pt|suv|fdg|psma",
    "us": r"us|ultrasound|tus|abus",
    "mr": r".*(mr|t1|t2|flair|adc|dwi|dce|swi|lge|bssfp|cine).*|pdw?|hbv",
}
"""Names that data sets use for each modality, in lower case. The first match counts."""


class Image(NamedTuple):
    """An image of a case: a file, or a channel of a 4D file."""

    path: Path
    channel: int | None = None


@dataclass(frozen=True)
class FoundCase:
    """A case as the folder stores it, before it is assigned to a split."""

    case_id: str
    images: Mapping[str, Image]
    """One image for each modality, in channel order."""
    label: Path | None = None
    group: str = ""
    """Name of the patient. If empty, the case is the only one of its patient."""
    site: str = ""
    official: Split | None = None
    """Split that the data set defines: a test case with a label, or a case that is unlabelled."""
    masks: Mapping[str, Path] = field(default_factory=dict)
    """Binary mask of each structure, if they are not in one file."""
    stratum: str = ""
    """Additional criterion for stratified sampling, for instance a diagnosis.

    It is never derived from a label.
    """

    @property
    def patient(self) -> str:
        """Name of the patient. All cases of a patient belong to the same split."""
        return self.group or self.case_id

    @property
    def first_path(self) -> Path:
        """File of the first image."""
        first = next(iter(self.images.values()))
        return first.path

    @property
    def label_files(self) -> list[Path]:
        """The label, or the masks from which it is made."""
        if self.label is not None:
            return [self.label]
        return list(self.masks.values())

    @property
    def has_label(self) -> bool:
        """Whether the case has a label file, or masks from which one is made."""
        return self.label is not None or bool(self.masks)


class Labels(NamedTuple):
    """The classes of a data set and their values in the label files."""

    values: dict[str, int]
    """Value of each class."""
    regions: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    """Values of each overlapping region that the official evaluation scores."""


@dataclass
class DataSet:
    """The result of an importer."""

    title: str
    """One line about the data set: the first comment of the configuration."""
    modalities: dict[str, Modality]
    labels: Labels | Callable[[set[int]], Labels]
    """The classes, or a function that names the values found in the labels of labelled cases."""
    cases: list[FoundCase] = field(default_factory=list)
    left_out: list[Note] = field(default_factory=list)
    problems: list[Note] = field(default_factory=list)
    """Problems of cases or files. Nothing is written while there are any."""
    comments: list[str] = field(default_factory=list)
    """Facts about the data set for the comments of the configuration."""
    questions: list[str] = field(default_factory=list)
    """What may be wrong and only the user knows, with the option that answers it."""
    warnings: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Files with something doubtful in their headers."""
    rules: list[Note] = field(default_factory=list)
    """How pairs and patients were found."""
    _by_name: dict[str, FoundCase] = field(
        default_factory=dict,
        init=False,
        repr=False,
    )
    """The added cases by their names in lower case."""

    @property
    def has_labels(self) -> bool:
        """Whether any case has a label."""
        return any(case.has_label for case in self.cases)

    def add_problem(self, what: str | Path, why: str) -> None:
        """Record a problem of the case or file ``what``."""
        self.problems.append(Note(str(what), why))

    def leave_out(self, what: str | Path, why: str) -> None:
        """Record that ``what`` is not imported."""
        self.left_out.append(Note(str(what), why))

    def note_unlabelled_tests(self, count: int) -> None:
        """State that images of ``imagesTs`` without labels are used for training.

        Args:
            count: their number; with 0, nothing is stated.
        """
        if count:
            text = (
                f"{count} images have no label and are unlabelled cases: students learn from them."
                " If you want to report results on them, move them elsewhere and import again"
            )
            self.rules.append(Note("imagesTs", text))
            self.comments.append(f"imagesTs: {text}.")

    def add(self, case: FoundCase) -> None:
        """Add a case. An invalid or duplicate name is recorded as a problem."""
        name = case.case_id
        if not CASE_ID.fullmatch(name) or name.lower().endswith(FILE_ENDINGS):
            self.add_problem(
                name,
                "is no valid case name: use letters, digits, '.', '_' and '-'",
            )
            return
        # Letter case is ignored: some file systems do not distinguish it.
        first = self._by_name.setdefault(name.lower(), case)
        if first is not case:
            self.add_problem(
                name,
                f"exists twice: {first.first_path} and {case.first_path}; keep one or rename one",
            )
            return
        self.cases.append(case)


def find_volumes(folder: Path, dataset: DataSet) -> list[Path]:
    """Find all volumes below ``folder``, in natural order (2 before 10).

    Everything else is recorded in ``dataset``: as left out, or as a problem if it may be a scan.

    Raises:
        HstfError: if ``folder`` does not exist or has no volume. The message explains what to do
            with DICOM files and archives.
    """
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError:
        is_folder = False
    except OSError as error:
        raise HstfError(f"{folder}: cannot be read ({error.strerror}).") from error
    if not is_folder:
        raise HstfError(f"{folder}: is not a folder. Give the folder of the unpacked data set.")
    found = walk(folder)
    if not found.volumes:
        raise HstfError(_explain_no_volumes(folder, found))
    dataset.problems += found.problems
    dataset.left_out += found.left_out
    return sorted(found.volumes, key=_natural_path)


def _explain_no_volumes(folder: Path, found: Found) -> str:
    """Explain why a folder contains no volume, and what to do."""
    notes = found.problems + found.left_out
    reasons = [f"{note.what}: {note.why}" for note in notes]
    count = len(found.others)
    message = f"{folder}: contains no volumes ({', '.join(SUFFIXES)}); it has {count} other files."
    if not reasons:
        return message
    return str(join_problems(message, reasons[:MAXIMUM_REASONS]))


def _natural_path(path: Path) -> list[tuple[int, str]]:
    return natural(str(path))


def natural(text: str) -> list[tuple[int, str]]:
    """Return a sort key that orders ``volume-2`` before ``volume-10``."""
    key = []
    for part in re.split(r"(\d+)", text):
        if part.isdigit():
            key.append((int(part), ""))
        else:
            key.append((-1, part.lower()))
    return key


def plain_name(text: str) -> str:
    """Convert ``text`` to a valid name of a class, column or case.

    A valid name has letters, digits, ``.``, ``-`` and ``_``.
    """
    name = re.sub(r"[^A-Za-z0-9.-]+", "_", text.strip())
    return name.strip("_.-") or "unnamed"


def plain_names(names: Iterable[str], source: Path) -> dict[str, str]:
    """Return the valid name of each of the ``names`` of classes.

    Args:
        names: names as a data set has them.
        source: file that contains the names, for the error message.

    Raises:
        HstfError: if two of them would become equal: one class would be lost.
    """
    plain: dict[str, str] = {}
    problems = []
    seen: set[str] = set()
    for name in names:
        plain[name] = plain_name(name)
        if plain[name] in seen:
            alike = [other for other in plain if plain[other] == plain[name]]
            problems.append(f"{' and '.join(alike)} would both be called {plain[name]}")
        seen.add(plain[name])
    if problems:
        raise join_problems(
            f"{source}: classes would get equal names. Names have the letters A to Z, digits, '.',"
            " '-' and '_': change the names in the file.",
            problems,
        )
    return plain


def column_names(names: Iterable[str]) -> list[str]:
    """Return the columns of the case sheet for modalities called ``names``.

    A single modality is called ``image``. A name that is used twice, or that another column has,
    gets its position as a suffix.
    """
    plain = [plain_name(name).lower() for name in names]
    if len(plain) == 1:
        return ["image"]
    reserved = {"case_id", "split", *OPTIONAL_COLUMNS}
    columns = []
    for position, name in enumerate(plain):
        if name in reserved or plain.count(name) > 1:
            columns.append(f"{name}_{position}")
        else:
            columns.append(name)
    return columns


def modality_of(name: str) -> Modality:
    """Return the modality for a name that a data set uses, such as ``T1w``, ``CT`` or ``FLAIR``."""
    for modality, pattern in MODALITY_PATTERNS.items():
        if re.fullmatch(pattern, name.lower()):
            return modality
    return "other"


def numbered_classes(values: set[int]) -> Labels:
    """Return classes ``class_<value>`` for ``values`` whose meaning is unknown."""
    classes = {"background": 0}
    for value in sorted(values - {0}):
        classes[f"class_{value}"] = value
    return Labels(classes)


def read_description(folder: Path) -> dict:
    """Read ``dataset.json`` of ``folder``. Editors of Windows put a mark before the text.

    Raises:
        HstfError: if the file is missing, cannot be read, or contains no mapping.
    """
    path = folder / "dataset.json"
    if not path.is_file():
        raise HstfError(
            f"{path}: missing. Give the folder that contains dataset.json, imagesTr and labelsTr."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise HstfError(
            f"{path}: is not readable as JSON ({error}). Correct it in an editor."
        ) from error
    if not isinstance(content, dict):
        raise HstfError(f"{path}: contains {type(content).__name__}, expected names and values.")
    return content


def numbered(names: object, source: Path, key: str) -> list[str]:
    """Return the values of ``{"0": "first", "1": "second"}`` in the order of their numbers.

    Args:
        names: the value of ``key``.
        source: file that contains the value.
        key: name of the value, for the error message.

    Raises:
        HstfError: if ``names`` is no such mapping.
    """
    if isinstance(names, Mapping) and names:
        numbers = [str(number) for number in range(len(names))]
        if all(number in names for number in numbers):
            return [str(names[number]) for number in numbers]
    raise HstfError(f'{source}: {key} is {names!r}, expected {{"0": "first", "1": "second"}}.')
