"""Cases in shards: what is already done is not done again, and nothing half-done or edited passes for whole.

Each case of a per-case stage has a record beside its files: the inputs, parameters and version it was made from and the
SHA-256 of each file it has. A job skips cases whose record still holds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.errors import HstfError, join_faults
from hstf.files import read_csv, read_json, sha256_file, sha256_json, write_csv, write_json
from hstf.progress import track

COLUMNS = ("case_id", "files", "sha256")


@dataclass(frozen=True)
class CaseWork:
    """The work of one case.

    ``run`` writes the case's files below ``folder`` and returns the columns of its row in the shard's table.
    """

    case_id: str
    inputs: Mapping[str, str]
    """Name and SHA-256 (or other fingerprint) of everything it is made from."""
    outputs: Sequence[Path]
    run: Callable[[], Mapping[str, Any]]


def run_shard(
    table: Path, parameters: Mapping[str, Any], works: Iterable[CaseWork], columns: Sequence[str], title: str
) -> int:
    """Do the cases of a shard that are not done yet, then write its ``table``; returns how many were computed.

    ``columns`` are those of the rows that ``run`` returns; the table adds ``case_id``, ``files`` (relative to the
    table's folder, separated by ``;``) and ``sha256`` (of each file, in the same order).
    """
    folder, rows, computed = table.parent, [], 0
    for work in track(list(works), title):
        record_path = folder / ".records" / f"{work.case_id}.json"
        key = sha256_json({"parameters": parameters, "inputs": dict(work.inputs)})
        row = _valid_row(record_path, key, folder)
        if row is None:
            record_path.unlink(missing_ok=True)
            decided = work.run()
            row = {"case_id": work.case_id, **decided, **_file_columns(work.outputs, folder)}
            write_json(record_path, {"key": key, "row": row, "inputs": dict(work.inputs)})
            computed += 1
        rows.append(row)
    write_csv(table, rows, ["case_id", *columns, "files", "sha256"])
    print(f"{title}: {computed} computed, {len(rows) - computed} up to date", flush=True)
    return computed


def _file_columns(outputs: Sequence[Path], folder: Path) -> dict[str, str]:
    return {
        "files": ";".join(str(path.relative_to(folder)) for path in outputs),
        "sha256": ";".join(sha256_file(path) for path in outputs),
    }


def _valid_row(record_path: Path, key: str, folder: Path) -> dict[str, Any] | None:
    if not record_path.is_file():
        return None
    try:
        record = read_json(record_path)
    except HstfError:
        return None  # a torn record is no record
    if record["key"] != key or file_faults(record["row"], folder):
        return None
    return record["row"]


def file_faults(row: Mapping[str, Any], folder: Path) -> list[str]:
    """What is wrong with the files of a table's ``row``: lost, or changed since they were written."""
    faults = []
    for name, digest in zip(str(row["files"]).split(";"), str(row["sha256"]).split(";"), strict=True):
        path = folder / name
        if not path.is_file():
            faults.append(f"{row['case_id']}: {path} is missing; delete the table beside it and rerun its stage")
        elif sha256_file(path) != digest:
            faults.append(
                f"{row['case_id']}: {path} was changed after it was written. To correct a pseudo-label, put the file in"
                f" the overrides folder; to restore it, delete {path} and the table beside it and rerun its stage"
            )
    return faults


def read_table(table: Path, verify: bool = True) -> dict[str, dict[str, str]]:
    """Rows of a shard's table by case.

    Raises:
        HstfError: ``verify`` is set and files that the table names are lost or changed; all of them are named.
    """
    rows = read_csv(table)
    faults = [fault for row in rows for fault in file_faults(row, table.parent)] if verify else []
    if faults:
        raise join_faults(f"{table}: {len(faults)} files are not as they were written.", faults)
    return {row["case_id"]: row for row in rows}
