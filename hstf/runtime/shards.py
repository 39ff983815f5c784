"""Cases in shards: what is already done is not done again, and nothing half-done or edited passes for whole.

Each case of a per-case stage has a record beside its files: the inputs, parameters and version it was made from and the
SHA-256 of each file it has. A job skips cases whose record still holds.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.experiment.cases import Case
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import (
    read_csv,
    read_json,
    remove_leftovers,
    sha256_file,
    sha256_json,
    write_csv,
    write_json,
)
from hstf.runtime.locks import alone
from hstf.runtime.processes import ProcessDied, map_processes
from hstf.runtime.progress import Progress

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
    table: Path,
    parameters: Mapping[str, Any],
    works: Iterable[CaseWork],
    columns: Sequence[str],
    title: str,
    workers: int = 1,
) -> int:
    """Do the cases of a shard that are not done yet, then write its ``table``; returns how many were computed.

    ``columns`` are those of the rows that ``run`` returns; the table adds ``case_id``, ``files`` (relative to the
    table's folder, separated by ``;``) and ``sha256`` (of each file, in the same order). With several ``workers``
    the cases are computed side by side in processes, and their ``run`` must be picklable.

    Raises:
        HstfError: a file would be written over that somebody edited since it was made, or a case fails.
    """
    works, folder = list(works), table.parent
    with alone(folder / ".records" / f"{table.stem}.lock", title):
        return _run_shard(table, folder, parameters, works, columns, title, workers)


def _run_shard(
    table: Path,
    folder: Path,
    parameters: Mapping[str, Any],
    works: Sequence[CaseWork],
    columns: Sequence[str],
    title: str,
    workers: int,
) -> int:
    rows: dict[str, Mapping[str, Any]] = {}
    jobs: list[Job] = []
    records = {work.case_id: _read_record(_record_path(folder, work.case_id)) for work in works}
    _refuse_edited([record["row"] for record in records.values() if record], folder, table)
    for work in works:
        key = sha256_json({"parameters": parameters, "inputs": dict(work.inputs)})
        record = records[work.case_id]
        if record and record["key"] == key and not missing_files(record["row"], folder):
            rows[work.case_id] = record["row"]
        else:
            jobs.append((work, key, folder))
    with Progress(title, len(works), done=len(rows)) as progress:
        for row in _computed(jobs, workers):
            rows[row["case_id"]] = row
            progress.advance(row["case_id"])
    write_csv(
        table, (rows[work.case_id] for work in works), ["case_id", *columns, "files", "sha256"]
    )
    print(f"{title}: {len(jobs)} computed, {len(works) - len(jobs)} up to date", flush=True)
    return len(jobs)


Job = tuple[CaseWork, str, Path]
"""The work of a case, the key of its record, the folder of its files."""


def _computed(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, Any]]:
    """The rows of ``jobs``, in the order in which they are done."""
    if workers == 1 or len(jobs) < 2:
        yield from map(_compute, jobs)
        return
    for (work, _, _), row in map_processes(_compute, jobs, workers):
        if isinstance(row, ProcessDied):
            raise HstfError(
                f"{work.case_id}: its process was killed, most likely for want of memory. Use fewer workers or a machine"
                " with more memory."
            )
        yield row


def _compute(job: Job) -> dict[str, Any]:
    """Run the work. The record is gone while files change and is written last: it never vouches for half of them."""
    work, key, folder = job
    record_path = _record_path(folder, work.case_id)
    record_path.unlink(missing_ok=True)
    for path in work.outputs:
        remove_leftovers(path)
    decided = work.run()
    row = {"case_id": work.case_id, **decided, **_file_columns(work.outputs, folder)}
    record = {"key": key, "row": row, "inputs": dict(work.inputs), "machine": platform.node()}
    write_json(record_path, record)
    return row


def _record_path(folder: Path, case_id: str) -> Path:
    return folder / ".records" / f"{case_id}.json"


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record of a case; a torn one is none."""
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        _listed(record["row"])
    except (HstfError, KeyError, TypeError, ValueError):
        return None
    return record if "key" in record else None


def _refuse_edited(rows: Iterable[Mapping[str, Any]], folder: Path, table: Path) -> None:
    """A person's edit is never overwritten; only what is missing or stale is made anew."""
    faults = [fault for row in rows for fault in edited_files(row, folder)]
    if faults:
        raise join_faults(
            f"{table}: {len(faults)} files would be lost that were changed by hand.", faults
        )


def _file_columns(outputs: Sequence[Path], folder: Path) -> dict[str, str]:
    return {
        "files": ";".join(str(path.relative_to(folder)) for path in outputs),
        "sha256": ";".join(sha256_file(path) for path in outputs),
    }


def _listed(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and SHA-256 of the files of a row; a case may have none.

    ``ValueError`` where the two do not match, or a name leads out of the table's folder.
    """
    names, digests = str(row["files"]), str(row["sha256"])
    files = list(zip(names.split(";"), digests.split(";"), strict=True)) if names or digests else []
    if any(Path(name).is_absolute() or ".." in Path(name).parts for name, _ in files):
        raise ValueError(f"files outside of the table's folder: {names}")
    return files


def missing_files(row: Mapping[str, Any], folder: Path) -> list[str]:
    """Sentences about files of ``row`` that are lost."""
    return [
        f"{row['case_id']}: {folder / name} is missing; delete the table beside it and rerun its stage"
        for name, _ in _listed(row)
        if not (folder / name).is_file()
    ]


def edited_files(row: Mapping[str, Any], folder: Path) -> list[str]:
    """Sentences about files of ``row`` that were changed since they were written."""
    return [
        f"{row['case_id']}: {path} was changed after it was written. To correct a pseudo-label, put the file in"
        f" the overrides folder; to restore it, delete {path} and the table beside it and rerun its stage"
        for path, digest in ((folder / name, digest) for name, digest in _listed(row))
        if path.is_file() and sha256_file(path) != digest
    ]


def file_faults(row: Mapping[str, Any], folder: Path) -> list[str]:
    """What is wrong with the files of a table's ``row``: lost, or changed since they were written."""
    try:
        return missing_files(row, folder) + edited_files(row, folder)
    except (KeyError, ValueError):
        name = row.get("case_id")
        return [
            f"{name}: its row was edited, 'files' and 'sha256' do not match; delete the table and rerun its stage"
        ]


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


def row_of(rows: Mapping[str, Mapping[str, str]], case: Case, name: str) -> str:
    """Digests of the files of a case in a table.

    Raises:
        HstfError: the table lacks the case.
    """
    if case.case_id not in rows:
        raise HstfError(
            f"{case.case_id}: is not in the {name} table of its shard. Rerun the stage that writes it."
        )
    return rows[case.case_id]["sha256"]
