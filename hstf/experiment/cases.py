"""The case sheet: which scans there are, which are labelled, and which belong to one patient.

A sheet may have 100,000 rows and is read by every job, so it is checked column by column.
"""

import difflib
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hstf.config.experiment import Config
from hstf.runtime.encoding import escape_invisible, refuse_unreadable_names
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_columns
from hstf.runtime.home import at_home

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
OPTIONAL_COLUMNS = ("label", "group", "site")
PATIENT_NAMES = {
    "patient",
    "patient_id",
    "patientid",
    "subject",
    "subject_id",
    "subjectid",
    "participant",
    "participant_id",
    "mrn",
}
"""Names of other programs for the column ``group``, in lower case."""
FILE_ENDINGS = (".", ".nii", ".gz", ".csv", ".json", ".weight")
"""Endings of the files of a case: a case_id with such an ending could name another case's file."""
MANY_CASES = 20_000
"""Cases of a split from which on shards are large, so that a dry run takes less than a minute."""
SMALL_SHARD = 100
LARGE_SHARD = 500


class Split(StrEnum):
    """What a case is used for."""

    LABELLED = "labelled"
    UNLABELLED = "unlabelled"
    VALIDATION = "validation"
    TEST = "test"

    @property
    def is_training(self) -> bool:
        """Whether training may read the images: not those of validation and test cases."""
        return self in (Split.LABELLED, Split.UNLABELLED)


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the case sheet.

    The label of all other cases than labelled ones is withheld. Only ``check`` (is the file
    damaged?) and ``evaluate`` (how good is what was already written?) may read :attr:`reference`.
    Everything else reads :attr:`training_label`.
    """

    case_id: str
    image_files: tuple[str, ...]
    """One file per modality, in channel order."""
    label_file: str | None
    split: Split
    group: str
    """The patient; default: the case itself. Cases of a patient are in one fold, and those of a
    validation or test patient are in one split."""
    site: str

    @property
    def images(self) -> tuple[Path, ...]:
        """One file per modality, in channel order."""
        return tuple(Path(file) for file in self.image_files)

    @property
    def reference(self) -> Path | None:
        """The label file, withheld or not."""
        return Path(self.label_file) if self.label_file is not None else None

    @property
    def training_label(self) -> Path:
        """The label file of a labelled case.

        Raises:
            PermissionError: if the case is not labelled.
        """
        if self.split is not Split.LABELLED or self.label_file is None:
            raise PermissionError(
                f"the label of {self.split} case {self.case_id} is withheld from training"
            )
        return Path(self.label_file)


def evenly_spaced(cases: Sequence[Case], count: int) -> list[Case]:
    """Return ``count`` of ``cases``, evenly spaced; all of them if there are fewer."""
    if count >= len(cases):
        return list(cases)
    return [cases[k * len(cases) // count] for k in range(count)]


def names_of(cases: Iterable[Case]) -> list[str]:
    """Return the ``case_id`` of each case."""
    return [case.case_id for case in cases]


@dataclass(frozen=True)
class CaseSheet:
    """All cases, in the order of the sheet."""

    cases: tuple[Case, ...]
    unread_columns: tuple[str, ...] = ()
    """Names of columns that are not read."""

    def of(self, split: Split) -> list[Case]:
        """Return the cases of a split, in order."""
        return [case for case in self.cases if case.split is split]

    def shards(self, split: Split, size: int | None) -> dict[str, list[Case]]:
        """Return the cases of ``split`` in shards ``<split>_<k>`` of ``size`` cases.

        New cases at the end of the sheet change only the last shard. ``None`` chooses the size from
        the number of cases: Snakemake needs 6 ms for each job.
        """
        cases = self.of(split)
        if size is None:
            size = LARGE_SHARD if len(cases) > MANY_CASES else SMALL_SHARD
        shards = {}
        for start in range(0, len(cases), size):
            shards[f"{split}_{start // size}"] = cases[start : start + size]
        return shards

    def shard(self, name: str, size: int | None) -> list[Case]:
        """Return the cases of the shard called ``name``.

        Raises:
            HstfError: if there is no such shard.
        """
        shards: dict[str, list[Case]] = {}
        for split in Split:
            shards |= self.shards(split, size)
        if name not in shards:
            raise HstfError(
                f"--shard {name}: there is no such shard. There are {', '.join(shards)}."
            )
        return shards[name]


def read_cases(config: Config) -> CaseSheet:
    """Read the case sheet of ``config``. Relative paths start at the folder of the sheet.

    CSV as spreadsheets save it is accepted, see :func:`hstf.runtime.files.read_columns`. With
    ``withheld_labels`` the unlabelled cases become labelled cases.

    Raises:
        HstfError: with all problems of the sheet: columns, ids, splits, missing file names, and
            test patients with cases in other splits.
    """
    path = Path(config.cases)
    if path.is_dir():
        raise HstfError(f"{path}: is a folder. Set 'cases:' to the case sheet, a CSV file.")
    if not path.is_file():
        raise HstfError(
            f"{path}: the case sheet is missing. Set 'cases:' in the configuration to its path."
        )
    with _paused_garbage_collection():
        return _read(path, config)


def _read(path: Path, config: Config) -> CaseSheet:
    modalities = list(config.modalities)
    known = ("case_id", "split", *OPTIONAL_COLUMNS, *modalities)
    header, lines, columns = read_columns(path, known)
    if "split" in columns:
        columns["split"] = [split.casefold() for split in columns["split"]]
    problems = _header_problems(header, modalities)
    if not problems and not lines:
        problems = ["it has no case: add a line for each case"]
    if not problems:
        problems = _row_problems(lines, columns, modalities)
    if not problems and config.withheld_labels:
        problems = _withheld_problems(lines, columns)
    if problems:
        raise join_problems(f"{path}: {len(problems)} problems in the case sheet.", problems)
    for name in (*modalities, "label"):
        refuse_unreadable_names(str(path), columns.get(name, ()))
    cases = _cases(columns, modalities, path.parent)
    refuse_straddling_patients(cases, path)
    if config.withheld_labels:
        cases = [_as_labelled(case) for case in cases]
    unread = [name for name in header if name and name not in known]
    return CaseSheet(tuple(cases), tuple(unread))


@contextmanager
def _paused_garbage_collection() -> Iterator[None]:
    """Pause the garbage collector, which would visit all rows of a large sheet several times."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


Columns = dict[str, list[str]]
"""The cells of each column; the column "" has the cells beyond the header."""


def _cases(columns: Columns, modalities: Sequence[str], folder: Path) -> list[Case]:
    case_ids = columns["case_id"]
    empty = [""] * len(case_ids)
    splits = {str(split): split for split in Split}
    prefix = str(folder / "_").removesuffix("_")
    images = [_joined(prefix, columns[name]) for name in modalities]
    labels = _joined(prefix, columns.get("label", empty))
    groups = columns.get("group", empty)
    sites = columns.get("site", empty)
    cases = []
    rows = zip(case_ids, zip(*images, strict=True), labels, columns["split"], strict=True)
    for index, (case_id, image_files, label, split) in enumerate(rows):
        group = groups[index] or case_id
        cases.append(Case(case_id, image_files, label or None, splits[split], group, sites[index]))
    return cases


def _joined(prefix: str, files: Sequence[str]) -> list[str]:
    """Put the folder of the sheet before relative paths; an empty cell stays empty."""
    joined = []
    for file in files:
        path = at_home(file) if file.startswith("~") else file
        joined.append(path if not path or path.startswith("/") else prefix + path)
    return joined


def _as_labelled(case: Case) -> Case:
    """Return an unlabelled case as a labelled one."""
    return replace(case, split=Split.LABELLED) if case.split is Split.UNLABELLED else case


def _header_problems(header: Sequence[str], modalities: Sequence[str]) -> list[str]:
    """Describe columns that are missing, are there twice, or are misspelt."""
    names = [name for name in header if name]
    required = ["case_id", "split", *modalities]
    problems = []
    shown = ", ".join(map(escape_invisible, names))
    for name in required:
        if name not in names:
            problems.append(f"column {name!r} is missing; there are: {shown}")
    for name, count in Counter(names).items():
        if count > 1:
            problems.append(f"column {name!r} appears {count} times")
    absent = [name for name in OPTIONAL_COLUMNS if name not in names]
    for name in names:
        if "group" in absent and name.lower() in PATIENT_NAMES and name not in required:
            problems.append(
                f"column {name!r} is not read; if it names the patients, rename it to 'group', so"
                " that all scans of a patient are in one split"
            )
            continue
        near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if near and name not in required:
            problems.append(f"column {name!r} is unknown; did you mean {near[0]!r}?")
    return problems


def _row_problems(lines: Sequence[int], columns: Columns, modalities: Sequence[str]) -> list[str]:
    """Describe all problems of all rows, in the order of the sheet."""
    found = [
        *_id_problems(columns["case_id"]),
        *_split_problems(columns),
        *_file_problems(columns, modalities),
        *_surplus_cells(columns.get("", [])),
    ]
    problems = []
    for row, message in sorted(found, key=lambda problem: problem[0]):
        problems.append(f"line {lines[row]} ({columns['case_id'][row]}): {message}")
    return problems + _duplicate_ids(columns["case_id"])


RowProblem = tuple[int, str]
"""Number of the row, and what is wrong."""


def _id_problems(case_ids: Sequence[str]) -> Iterator[RowProblem]:
    for row, case_id in enumerate(case_ids):
        if not CASE_ID.fullmatch(case_id):
            yield (
                row,
                f"case_id {case_id!r} must be letters, digits, '.', '_' or '-', at most 128,"
                " and begin with a letter or digit",
            )
        elif case_id.lower().endswith(FILE_ENDINGS):
            yield (
                row,
                f"case_id must not end like a file ({', '.join(FILE_ENDINGS)}): it names files",
            )


def _split_problems(columns: Columns) -> Iterator[RowProblem]:
    splits = set(Split)
    needs_label = {Split.LABELLED, Split.VALIDATION, Split.TEST}
    labels = columns.get("label", [""] * len(columns["split"]))
    for row, (split, label) in enumerate(zip(columns["split"], labels, strict=True)):
        if split not in splits:
            yield row, f"split {split!r} is not one of {', '.join(Split)}"
        elif not label and split in needs_label:
            yield row, f"a {split} case needs a file in column 'label'"


def _file_problems(columns: Columns, modalities: Sequence[str]) -> Iterator[RowProblem]:
    for name in modalities:
        for row, file in enumerate(columns[name]):
            if not file:
                yield row, f"no file in column {name!r}"
    for name in (*modalities, "label"):
        for row, file in enumerate(columns.get(name, [])):
            if "{" in file or "}" in file:
                yield (
                    row,
                    f"{file!r} has a brace, which the workflow takes for a wildcard;"
                    " rename the file",
                )


def _surplus_cells(cells: Sequence[str]) -> Iterator[RowProblem]:
    for row, surplus in enumerate(cells):
        if surplus:
            yield (
                row,
                f"more cells than columns, the last are {surplus!r};"
                " quote cells that contain a separator",
            )


def _duplicate_ids(case_ids: Sequence[str]) -> list[str]:
    """Describe ids that name the same files on a disk that ignores letter case."""
    lower = [case_id.lower() for case_id in case_ids]
    if len(set(lower)) == len(lower):
        return []
    same: dict[str, list[str]] = {}
    for key, case_id in zip(lower, case_ids, strict=True):
        same.setdefault(key, []).append(case_id)
    problems = []
    for ids in same.values():
        if len(ids) == 1:
            continue
        names = " and ".join(repr(name) for name in sorted(set(ids)))
        if len(set(ids)) == 1:
            problems.append(f"case_id {names} appears {len(ids)} times; it must be unique")
        else:
            problems.append(f"case_id {names}: names must differ in more than their letter case")
    return problems


def _withheld_problems(lines: Sequence[int], columns: Columns) -> list[str]:
    """Describe unlabelled cases without the label that ``withheld_labels`` needs."""
    labels = columns.get("label", [""] * len(lines))
    problems = []
    for line, case_id, split, label in zip(
        lines, columns["case_id"], columns["split"], labels, strict=True
    ):
        if split == Split.UNLABELLED and not label:
            problems.append(
                f"line {line} ({case_id}): withheld_labels needs a file in column 'label' of every"
                " unlabelled case"
            )
    return problems


def refuse_straddling_patients(cases: Sequence[Case], path: Path) -> None:
    """Refuse patients with a validation or test case and cases of another split.

    The score of these cases would be too high.

    Raises:
        HstfError: with all such patients.
    """
    held_out = {case.group for case in cases if not case.split.is_training}
    others: dict[str, dict[Split, str]] = {}
    for case in cases:
        if case.group in held_out:
            others.setdefault(case.group, {}).setdefault(case.split, case.case_id)
    problems = []
    for group, case_of_split in others.items():
        if len(case_of_split) > 1:
            splits = [f"{split} ({case_id})" for split, case_id in case_of_split.items()]
            problems.append(f"patient {group} is {' and '.join(splits)}")
    if problems:
        raise join_problems(
            f"{path}: validation or test patients are in other splits too. Move all cases of a"
            " patient to one split: otherwise the model has seen these patients.",
            problems,
        )
