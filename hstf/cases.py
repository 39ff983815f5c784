"""The case sheet: which scans there are, which are labelled, and who belongs together."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from hstf.config import Config
from hstf.errors import HstfError, join_faults
from hstf.files import read_csv

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
OPTIONAL_COLUMNS = {"group", "site"}


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
            raise PermissionError(f"the label of {self.split} case {self.case_id} is withheld from training")
        return self.reference


@dataclass(frozen=True)
class CaseSheet:
    """All cases, in the order of the sheet."""

    cases: tuple[Case, ...]

    def of(self, split: Split) -> list[Case]:
        """The cases of one split, in order."""
        return [case for case in self.cases if case.split is split]

    def by_id(self) -> dict[str, Case]:
        """Cases by ``case_id``."""
        return {case.case_id: case for case in self.cases}

    def shards(self, split: Split, size: int) -> dict[str, list[Case]]:
        """The cases of ``split`` in shards ``<split>_<k>`` of ``size``: new cases at the end touch the last one only."""
        cases = self.of(split)
        return {
            f"{split}_{start // size}": cases[start : start + size] for start in range(0, len(cases), size)
        }

    def shard(self, name: str, size: int) -> list[Case]:
        """The cases of the shard called ``name``.

        Raises:
            HstfError: there is no such shard.
        """
        shards = {name: cases for split in Split for name, cases in self.shards(split, size).items()}
        if name not in shards:
            raise HstfError(f"no shard {name!r}; there are {', '.join(shards)}.")
        return shards[name]


def read_cases(config: Config) -> CaseSheet:
    """Read the case sheet of ``config``. Relative paths start at the sheet's own folder.

    Raises:
        HstfError: with every fault of the sheet: columns, ids, splits, labels that labelled cases lack.
    """
    path = Path(config.cases)
    if not path.is_file():
        raise HstfError(f"{path}: the case sheet is missing. Set 'cases:' in the configuration to its path.")
    rows = read_csv(path)
    columns = list(config.modalities)
    missing = [c for c in ("case_id", "split", *columns) if rows and c not in rows[0]]
    if not rows or missing:
        found = ", ".join(rows[0]) if rows else "nothing"
        raise HstfError(f"{path}: lacks the columns {', '.join(missing) or 'and rows'}; it has {found}.")
    faults = [fault for number, row in enumerate(rows, start=2) for fault in _row_faults(row, number, columns)]
    counts = Counter(row["case_id"] for row in rows)
    faults += [f"case_id {name!r} appears {n} times; it must be unique" for name, n in counts.items() if n > 1]
    if faults:
        raise join_faults(f"{path}: {len(faults)} faults in the case sheet.", faults)
    return CaseSheet(tuple(_case(row, columns, path.parent) for row in rows))


def _row_faults(row: dict[str, str], number: int, columns: Sequence[str]) -> list[str]:
    case_id, split = row["case_id"], row["split"]
    faults = []
    if not CASE_ID.fullmatch(case_id or ""):
        faults.append(f"line {number}: case_id {case_id!r} must be letters, digits, '.', '_' or '-' (at most 128)")
    if split not in set(Split):
        faults.append(f"line {number} ({case_id}): split {split!r} is none of {', '.join(Split)}")
    faults += [f"line {number} ({case_id}): no file in column {c!r}" for c in columns if not row[c]]
    if split in (Split.LABELLED, Split.TEST) and not row.get("label"):
        faults.append(f"line {number} ({case_id}): a {split} case needs a file in column 'label'")
    return faults


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
