"""The case sheet: which scans there are, which are labelled, and who belongs together."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from hstf.config.experiment import Config
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_sheet

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
BRACES = re.compile(r"[{}]")
OPTIONAL_COLUMNS = ("label", "group", "site")
FILE_ENDINGS = (".", ".nii", ".gz", ".csv", ".json", ".weight")
"""The files of a case are its id and such an ending: an id that has one could be another case's file."""


class Split(StrEnum):
    """What a case is for."""

    LABELLED = "labelled"
    UNLABELLED = "unlabelled"
    TEST = "test"


@dataclass(frozen=True)
class Case:
    """One row of the case sheet.

    The label of an unlabelled or test case is withheld: only ``check`` (is the file sound?) and ``evaluate`` (how good
    is what was already written?) may read :attr:`reference`; everything else reads :attr:`training_label`.
    """

    case_id: str
    images: tuple[Path, ...]
    """One file per modality, in channel order."""
    reference: Path | None
    split: Split
    group: str
    """The patient: cases of one group never straddle a split or a fold. Defaults to the case itself."""
    site: str

    @property
    def training_label(self) -> Path:
        """The label file of a labelled case; it is an error to ask for any other's."""
        if self.split is not Split.LABELLED or self.reference is None:
            raise PermissionError(
                f"the label of {self.split} case {self.case_id} is withheld from training"
            )
        return self.reference


@dataclass(frozen=True)
class CaseSheet:
    """All cases, in the order of the sheet."""

    cases: tuple[Case, ...]

    def of(self, split: Split) -> list[Case]:
        """The cases of one split, in order."""
        return [case for case in self.cases if case.split is split]

    def shards(self, split: Split, size: int) -> dict[str, list[Case]]:
        """The cases of ``split`` in shards ``<split>_<k>`` of ``size``: new cases at the end touch the last one only."""
        cases = self.of(split)
        return {
            f"{split}_{start // size}": cases[start : start + size]
            for start in range(0, len(cases), size)
        }

    def shard(self, name: str, size: int) -> list[Case]:
        """The cases of the shard called ``name``.

        Raises:
            HstfError: there is no such shard.
        """
        shards = {
            name: cases for split in Split for name, cases in self.shards(split, size).items()
        }
        if name not in shards:
            raise HstfError(f"no shard {name!r}; there are {', '.join(shards)}.")
        return shards[name]


def read_cases(config: Config) -> CaseSheet:
    """Read the case sheet of ``config``. Relative paths start at the sheet's own folder.

    CSV as spreadsheets write it is understood: separated by commas, semicolons or tabs, with or without a byte order
    mark, with spaces around cells and empty lines. With ``withheld_labels`` the unlabelled cases are labelled ones.

    Raises:
        HstfError: with every fault of the sheet: columns, ids, splits, files that are not named, test patients that are
            in other splits too.
    """
    path = Path(config.cases)
    if not path.is_file():
        raise HstfError(
            f"{path}: the case sheet is missing. Set 'cases:' in the configuration to its path."
        )
    columns = list(config.modalities)
    header, rows = read_sheet(path)
    faults = _header_faults(header, columns)
    if not rows and not faults:
        faults = ["it holds no case: add a line for each"]
    if not faults:
        faults = [fault for number, row in rows for fault in _row_faults(row, number, columns)]
        faults += _duplicate_faults([row["case_id"] for _, row in rows])
    if config.withheld_labels and not faults:
        faults = [
            f"line {number} ({row['case_id']}): withheld_labels needs a file in column 'label' of every unlabelled case"
            for number, row in rows
            if row["split"] == Split.UNLABELLED and not row.get("label")
        ]
    if faults:
        raise join_problems(f"{path}: {len(faults)} faults in the case sheet.", faults)
    cases = [_case(row, columns, path.parent) for _, row in rows]
    refuse_straddling_patients(cases, path)
    return CaseSheet(tuple(map(_revealed, cases) if config.withheld_labels else cases))


def refuse_straddling_patients(cases: Sequence[Case], path: Path) -> None:
    """A patient with a test case has no other cases: the test would flatter a model that has seen the patient.

    Raises:
        HstfError: with every such patient.
    """
    splits: dict[str, dict[Split, str]] = {}
    for case in cases:
        splits.setdefault(case.group, {}).setdefault(case.split, case.case_id)
    faults = [
        f"patient {group} is {' and '.join(f'{split} ({case_id})' for split, case_id in of.items())}"
        for group, of in splits.items()
        if len(of) > 1 and Split.TEST in of
    ]
    if faults:
        raise join_problems(
            f"{path}: test patients are in other splits too. Move all cases of a patient to one split: the test would"
            " flatter the model.",
            faults,
        )


def refuse_missing_files(sheet: CaseSheet) -> None:
    """Stop where a scan or label of the sheet is gone.

    Snakemake takes results whose input has disappeared as they are: an edit of the configuration would change nothing.

    Raises:
        HstfError: with every file that is missing.
    """
    faults = [
        f"{case.case_id}: {path} is missing"
        for case in sheet.cases
        for path in (*case.images, case.reference)
        if path is not None and not path.exists()
    ]
    if faults:
        raise join_problems(
            f"{len(faults)} files of the case sheet are missing. Put them back, or take the cases out of the sheet.",
            faults,
        )


def refuse_few_patients(labelled: Sequence[Case], folds: int) -> None:
    """Each fold of the warm-up holds out a patient at least.

    Raises:
        HstfError: there are fewer labelled patients than ``folds``.
    """
    patients = len({case.group for case in labelled})
    if patients < folds:
        raise HstfError(
            f"warmup.folds is {folds} but there are {patients} labelled patients: label more, or set warmup.folds to their"
            " number."
        )


def refuse_no_test_cases(sheet: CaseSheet) -> None:
    """Methods are compared on test cases.

    Raises:
        HstfError: there are none.
    """
    if not sheet.of(Split.TEST):
        raise HstfError(
            "compare: there are no test cases to compare the methods on: give some labelled patients the split 'test'."
        )


def _header_faults(header: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Columns that are missing, twice there, or so nearly a known one that they must be meant as it."""
    required = ["case_id", "split", *columns]
    faults = [
        f"column {name!r} is missing; there are: {', '.join(header)}"
        for name in required
        if name not in header
    ]
    faults += [
        f"column {name!r} appears {n} times"
        for name, n in Counter(header).items()
        if n > 1 and name
    ]
    absent = [name for name in OPTIONAL_COLUMNS if name not in header]
    for name in header:
        near = difflib.get_close_matches(name.lower(), absent, n=1, cutoff=0.8)
        if near and name not in required:
            faults.append(f"column {name!r} is not known; did you mean {near[0]!r}?")
    return faults


def _row_faults(row: dict[str, str], number: int, columns: Sequence[str]) -> list[str]:
    case_id, split = row["case_id"], row["split"]
    where = f"line {number} ({case_id})"
    faults = []
    if not CASE_ID.fullmatch(case_id):
        faults.append(
            f"line {number}: case_id {case_id!r} must be letters, digits, '.', '_' or '-', at most 128,"
            " and begin with a letter or digit"
        )
    elif case_id.lower().endswith(FILE_ENDINGS):
        faults.append(
            f"{where}: case_id must not end like a file ({', '.join(FILE_ENDINGS)}); it names files"
        )
    if split not in set(Split):
        faults.append(f"{where}: split {split!r} is none of {', '.join(Split)}")
    faults += [f"{where}: no file in column {c!r}" for c in columns if not row[c]]
    faults += [
        f"{where}: {row[c]!r} holds a brace, which the workflow takes for a wildcard; rename the file"
        for c in (*columns, "label")
        if BRACES.search(row.get(c, ""))
    ]
    if split in (Split.LABELLED, Split.TEST) and not row.get("label"):
        faults.append(f"{where}: a {split} case needs a file in column 'label'")
    if row[""]:
        faults.append(
            f"{where}: more cells than columns, the last are {row['']!r}; quote cells that hold a separator"
        )
    return faults


def _duplicate_faults(case_ids: Sequence[str]) -> list[str]:
    """Ids that name the same files on a disk that takes no notice of case."""
    same: dict[str, list[str]] = {}
    for case_id in case_ids:
        same.setdefault(case_id.lower(), []).append(case_id)
    return [
        f"case_id {' and '.join(repr(name) for name in sorted(set(ids)))} appears {len(ids)} times; it must be unique"
        f"{' whatever its letter case' if len(set(ids)) > 1 else ''}"
        for ids in same.values()
        if len(ids) > 1
    ]


def _case(row: dict[str, str], columns: Sequence[str], folder: Path) -> Case:
    label = row.get("label")
    return Case(
        case_id=row["case_id"],
        images=tuple(folder / row[column] for column in columns),
        reference=folder / label if label else None,
        split=Split(row["split"]),
        group=row.get("group") or row["case_id"],
        site=row.get("site") or "",
    )


def _revealed(case: Case) -> Case:
    """An unlabelled case as a labelled one."""
    return replace(case, split=Split.LABELLED) if case.split is Split.UNLABELLED else case
