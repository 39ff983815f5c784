"""The files of the cases that training and prediction read, with their SHA-256."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hstf.experiment.cases import Case, Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.runtime.errors import HstfError
from hstf.runtime.recorded_files import RecordedFile
from hstf.runtime.shards import Row, read_shard


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case in the table of its shard."""

    case_id: str
    table: Path
    by_path: Mapping[Path, RecordedFile]

    @classmethod
    def of(cls, row: Row, folder: Path, table: Path) -> "CaseFiles":
        """Return the files of a row, whose names are relative to ``folder``."""
        case_id = row["case_id"]
        by_path = {}
        # A row with a file that has no SHA-256 lacks this file.
        for name, digest in zip(row["files"], row["sha256"], strict=False):
            by_path[folder / name] = RecordedFile(case_id, folder / name, digest, table)
        return cls(case_id, table, by_path)

    def at(self, path: Path) -> RecordedFile:
        """Return a file of the case.

        Raises:
            HstfError: if the table does not name it.
        """
        if path not in self.by_path:
            raise HstfError(
                f"{self.case_id}: its row in {self.table} has no SHA-256 of {path}."
                " Delete the table and run its stage again."
            )
        return self.by_path[path]


def preprocessed_files(context: StageContext, cases: Sequence[Case]) -> dict[str, CaseFiles]:
    """Return the preprocessed files of each case. No file is compared yet.

    Raises:
        HstfError: if the table of a shard is missing or has other cases than its shard.
    """
    wanted = set(names_of(cases))
    layout = context.layout
    files = {}
    for split in dict.fromkeys(case.split for case in cases):
        for shard, shard_cases in context.shards(split).items():
            names = names_of(shard_cases)
            if wanted.isdisjoint(names):
                continue
            table = layout.preprocessed_table(shard)
            rows = read_shard(PREPROCESSED, table, names, verify=False)
            for name in wanted.intersection(names):
                files[name] = CaseFiles.of(rows[name], layout.preprocessed, table)
    return files


def label_files(context: StageContext, rows: Mapping[str, Row]) -> dict[str, CaseFiles]:
    """Return the files in ``labels/`` of each case. No file is compared yet.

    Args:
        context: the stage ``student``.
        rows: rows of ``labels.csv`` by case.
    """
    layout = context.layout
    number = context.round
    files = {}
    for shard, cases in context.shards(Split.UNLABELLED).items():
        table = layout.labels_shard_table(number, shard)
        for name in names_of(cases):
            if name in rows:
                files[name] = CaseFiles.of(rows[name], layout.round(number), table)
    return files
