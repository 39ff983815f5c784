"""Work on the cases of a shard: what is done is not done again, and nothing damaged is used.

Each case of a stage has a record in ``.records/<case>.json`` beside its files: a key of the inputs,
parameters and version it was made from, and the SHA-256 of each of its files. A job skips the cases
whose record is still valid.
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.runtime.errors import HstfError, join_problems, shortened, write_error
from hstf.runtime.files import (
    read_csv,
    read_json,
    remove_leftovers,
    sha256_file,
    sha256_json,
    write_json,
)
from hstf.runtime.locks import exclusive
from hstf.runtime.processes import ProcessDied, map_processes
from hstf.runtime.progress import Progress
from hstf.runtime.tables import Table, split_list

Row = Mapping[str, Any]
"""A row of the table of a shard, with Python values."""


@dataclass(frozen=True)
class CaseWork:
    """The work on one case.

    ``run`` writes the files of the case and returns the columns of its row in the table of the
    shard.
    """

    case_id: str
    inputs: Mapping[str, str]
    """Name and SHA-256 (or another fingerprint) of everything that the case is made from."""
    outputs: Sequence[Path]
    run: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True)
class _Job:
    """A case that must be computed."""

    work: CaseWork
    key: str
    """Key of its record."""
    folder: Path
    """Folder of the table."""


def run_shard(
    table: Table,
    path: Path,
    parameters: Mapping[str, Any],
    works: Iterable[CaseWork],
    title: str,
    workers: int = 1,
    structures: Sequence[str] = (),
) -> int:
    """Compute the cases of a shard that are not done yet and write the table of the shard.

    Args:
        table: description of the table.
        path: where the table is written; paths of files in it are relative to its folder.
        parameters: version and configuration of the stage.
        works: the work on each case.
        title: title of the progress bar.
        workers: number of processes; with more than one, ``run`` of the works must be picklable.
        structures: classes or regions with columns of their own.

    Returns:
        The number of cases that were computed; the others were up to date.

    Raises:
        HstfError: if a file that somebody has edited would be overwritten, or if a case fails.
    """
    with exclusive(path.parent / ".records" / f"{path.stem}.lock", title):
        works = list(works)
        rows, jobs = _split_done(works, parameters, path)
        with Progress(title, len(works), done=len(rows)) as progress:
            for row in _compute_all(jobs, workers):
                rows[row["case_id"]] = row
                progress.advance(row["case_id"])
        table.write(path, [rows[work.case_id] for work in works], structures)
    print(f"{title}: {len(jobs)} computed, {len(works) - len(jobs)} up to date", flush=True)
    return len(jobs)


def read_shard(
    table: Table,
    path: Path,
    case_ids: Iterable[str],
    verify: bool = True,
    endings: tuple[str, ...] = ("",),
) -> dict[str, dict[str, Any]]:
    """Read the rows of a table by case.

    Args:
        table: description of the table.
        path: the table of a shard, or the joined table of a round.
        case_ids: the cases that the table must have.
        verify: whether to compare the files that the table names with their SHA-256.
        endings: only files whose names end so are compared.

    Raises:
        HstfError: if the table has other cases, or if files are missing or have changed. The
            message names all of them.
    """
    rows = table.records(path)
    check_case_ids(rows, case_ids, path)
    if verify:
        refuse_changed_files(rows, path, endings)
    return {row["case_id"]: row for row in rows}


def refuse_changed_files(rows: Iterable[Row], path: Path, endings: tuple[str, ...] = ("",)) -> None:
    """Compare the files of a table with their SHA-256.

    Args:
        rows: the rows of the table.
        path: the table.
        endings: only files whose names end so are compared.

    Raises:
        HstfError: if files are missing or have changed. The message names all of them.
    """
    problems = [problem for row in rows for problem in file_problems(row, path.parent, endings)]
    if problems:
        raise join_problems(
            f"{path}: {len(problems)} files are not as they were written.", problems
        )


def check_case_ids(rows: Iterable[Row], case_ids: Iterable[str], path: Path) -> None:
    """Check that a table has each case exactly once, and no other case.

    Args:
        rows: the rows of the table.
        case_ids: the cases that the table must have, from the case sheet.
        path: the table, for the message.

    Raises:
        HstfError: with the cases that are missing, that are there twice, or that are unknown.
    """
    found = Counter(row["case_id"] for row in rows)
    expected = dict.fromkeys(case_ids)
    problems = [f"{name}: is missing" for name in expected if name not in found]
    for name, count in found.items():
        if name not in expected:
            problems.append(f"{name}: is not a case of this table in the case sheet")
        elif count > 1:
            problems.append(f"{name}: has {count} rows")
    if problems:
        raise join_problems(
            f"{path}: does not have the cases of the case sheet ({len(found)} found,"
            f" {len(expected)} expected)."
            " Delete the table and run its stage again: only what is missing is computed.",
            shortened(problems),
        )


def recorded_row(folder: Path, case_id: str) -> Row | None:
    """Return the row of one case without reading the table; None if the case is not done.

    Args:
        folder: folder of the table.
        case_id: the case.
    """
    record = _read_record(_record_path(folder, case_id))
    return record["row"] if record is not None else None


def has_records(folder: Path) -> bool:
    """Return whether cases of a table have records.

    Args:
        folder: folder of the table.
    """
    return (folder / ".records").is_dir()


def forget_record(folder: Path, case_id: str) -> None:
    """Remove the record of a case, so that the next job computes it again.

    Args:
        folder: folder of the table.
        case_id: the case.
    """
    _record_path(folder, case_id).unlink(missing_ok=True)


def read_file_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of any table that name files; other tables have none."""
    rows: list[dict[str, Any]] = []
    for row in read_csv(path):
        if row.get("files"):
            lists = {name: split_list(row.get(name) or "") for name in ("files", "sha256")}
            rows.append({**row, **lists})
    return rows


def digest_of(rows: Mapping[str, Row], case_id: str, name: str) -> str:
    """Return the SHA-256 of the files of a case, as one text.

    Args:
        rows: a table by case.
        case_id: the case.
        name: what the table is called in the error message.

    Raises:
        HstfError: if the table does not have the case.
    """
    if case_id not in rows:
        raise HstfError(
            f"{case_id}: is not in the {name} table of its shard."
            " Run the stage that writes it again."
        )
    return ";".join(rows[case_id]["sha256"])


def file_problems(row: Row, folder: Path, endings: tuple[str, ...] = ("",)) -> list[str]:
    """Describe the files of ``row`` that are missing or have changed since they were written.

    Args:
        row: the row of a case.
        folder: folder of the table.
        endings: only files whose names end so are compared.
    """
    try:
        files = [file for file in _listed_files(row) if file[0].endswith(endings)]
        part = {
            "case_id": row["case_id"],
            "files": [name for name, _ in files],
            "sha256": [digest for _, digest in files],
        }
        return _missing_files(part, folder) + _edited_files(part, folder)
    except (KeyError, TypeError, ValueError):
        name = row.get("case_id")
        return [
            f"{name}: its row was edited, 'files' and 'sha256' do not match;"
            " delete the table and run its stage again"
        ]


def _split_done(
    works: Sequence[CaseWork], parameters: Mapping[str, Any], path: Path
) -> tuple[dict[str, Row], list[_Job]]:
    """Separate the rows of cases that are done from the jobs of the others."""
    folder = path.parent
    records = {work.case_id: _read_record(_record_path(folder, work.case_id)) for work in works}
    _refuse_edited([record["row"] for record in records.values() if record], path)
    rows: dict[str, Row] = {}
    jobs: list[_Job] = []
    for work in works:
        key = sha256_json({"parameters": parameters, "inputs": dict(work.inputs)})
        record = records[work.case_id]
        is_valid = record is not None and record["key"] == key
        if record is not None and is_valid and not _missing_files(record["row"], folder):
            rows[work.case_id] = record["row"]
        else:
            jobs.append(_Job(work, key, folder))
    return rows, jobs


def _compute_all(jobs: Sequence[_Job], workers: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of ``jobs`` in the order in which they are done."""
    if workers == 1 or len(jobs) < 2:
        yield from map(_compute, jobs)
        return
    for job, row in map_processes(_compute, jobs, workers):
        if isinstance(row, ProcessDied):
            raise HstfError(
                f"{job.work.case_id}: its process was killed, most likely because it ran out of"
                " memory. Use fewer workers or a machine with more memory."
            )
        yield row


def _compute(job: _Job) -> dict[str, Any]:
    """Run the work of a case.

    The record is removed first and written last, so that it is never valid for half of the files.
    """
    work = job.work
    record_path = _record_path(job.folder, work.case_id)
    _clear(record_path, work.outputs)
    columns = work.run()
    files = [str(path.relative_to(job.folder)) for path in work.outputs]
    digests = [sha256_file(path) for path in work.outputs]
    row = {"case_id": work.case_id, **columns, "files": files, "sha256": digests}
    record = {
        "key": job.key,
        "row": row,
        "inputs": dict(work.inputs),
        "machine": platform.node(),
    }
    write_json(record_path, record | {"sha256": sha256_json(record)})
    return row


def _clear(record_path: Path, outputs: Sequence[Path]) -> None:
    """Remove the record of a case, and what a killed process left of its files.

    Raises:
        HstfError: if a folder cannot be written.
    """
    try:
        record_path.unlink(missing_ok=True)
        for path in (record_path, *outputs):
            remove_leftovers(path)
    except OSError as error:
        raise write_error(error.filename, error) from error


def _record_path(folder: Path, case_id: str) -> Path:
    return folder / ".records" / f"{case_id}.json"


def _read_record(path: Path) -> dict[str, Any] | None:
    """Read the record of a case; a missing or damaged record is None."""
    if not path.is_file():
        return None
    try:
        record = read_json(path)
        _listed_files(record["row"])
    except (HstfError, KeyError, TypeError, ValueError):
        return None
    # A damaged number of the row would get into the table of the shard.
    digest = record.pop("sha256", None)  # a record of an earlier version has none
    is_damaged = digest is not None and digest != sha256_json(record)
    return None if is_damaged or "key" not in record else record


def _refuse_edited(rows: Iterable[Row], path: Path) -> None:
    """Stop before a file is overwritten that somebody has edited."""
    problems = [problem for row in rows for problem in _edited_files(row, path.parent)]
    if problems:
        raise join_problems(
            f"{path}: {len(problems)} files that were edited by hand would be lost.", problems
        )


def _listed_files(row: Row) -> list[tuple[str, str]]:
    """Return name and SHA-256 of the files of a row; a case may have none.

    Raises:
        ValueError: if names and digests do not match, or a name leads out of the folder.
    """
    names = row["files"]
    files = list(zip(names, row["sha256"], strict=True))
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"files outside of the folder of the table: {names}")
    return files


def _missing_files(row: Row, folder: Path) -> list[str]:
    problems = []
    for name, _ in _listed_files(row):
        if not (folder / name).is_file():
            problems.append(
                f"{row['case_id']}: {folder / name} is missing;"
                " delete the table beside it and run its stage again"
            )
    return problems


def _edited_files(row: Row, folder: Path) -> list[str]:
    problems = []
    for name, digest in _listed_files(row):
        path = folder / name
        if path.is_file() and sha256_file(path) != digest:
            problems.append(
                f"{row['case_id']}: {path} was changed after it was written. To correct a"
                f" pseudo-label, put the file in the overrides folder; to restore it, delete {path}"
                " and the table beside it and run its stage again"
            )
    return problems
