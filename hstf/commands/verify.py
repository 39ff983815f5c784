"""``hstf verify``: check that results, scans and code are unchanged."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hstf import __version__
from hstf.experiment.provenance import Provenance, code_sha256, packages
from hstf.method.exported_model import MODEL_FILE, ExportedModel, weights_path
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import read_csv, sha256_file
from hstf.runtime.progress import track
from hstf.runtime.shards import file_problems
from hstf.runtime.tables import split_list

FileHash = tuple[Path, str]
"""A file and its expected SHA-256."""
CaseFiles = tuple[Path, dict[str, Any]]
"""A table, and the columns of one of its rows that describe the files of the case."""


def run(args: argparse.Namespace) -> int:
    """Verify the results of an experiment."""
    for line in verify(args.results, data=not args.no_data):
        print(line, flush=True)
    return 0


def verify(root: Path, data: bool = True) -> list[str]:
    """Compute the SHA-256 of all files of an experiment and compare it with the recorded one.

    Args:
        root: results of the experiment.
        data: whether to check the scans and labels of the data set, too.

    Returns:
        What was checked, and differences of the software that may change results.

    Raises:
        HstfError: if the experiment is not finished, or if files are missing or changed. The
            message lists all of them.
    """
    path = root / "provenance.json"
    if not path.is_file():
        raise HstfError(
            f"{root}: has no provenance.json. It is written with the report:"
            " let the workflow finish first."
        )
    provenance = Provenance.load(path)
    files = [*_result_files(root, provenance), *_exported_files(root)]
    tables = _tables(root, provenance)
    cases = list(_case_files(tables))
    check_table = Path(provenance.data.file)
    scans = list(_data_files(check_table)) if data else []
    problems = _check_files(files, "verify files")
    for table, row in track(cases, "verify cases"):
        problems += file_problems(row, table.parent)
    problems += _check_files(scans, "verify data")
    if problems:
        raise join_problems(
            f"{root}: {len(problems)} files are missing or changed.",
            list(dict.fromkeys(problems)),
        )
    checked = f"{len(files)} files, {len(cases)} cases of {len(tables)} tables"
    if data:
        checked += f" and {len(scans)} scans and labels"
    return [f"{root}: {checked} are unchanged.", *_software_changes(provenance)]


def _check_files(files: Sequence[FileHash], title: str) -> list[str]:
    """Return the problems of all ``files``."""
    problems = []
    for path, expected in track(files, title):
        problem = file_problem(path, expected)
        if problem:
            problems.append(problem)
    return problems


def file_problem(path: Path, expected: str) -> str:
    """Describe how a file differs from its ``expected`` SHA-256. Returns ``""`` if it does not."""
    if not path.is_file():
        return f"{path} is missing"
    found = sha256_file(path)
    if found == expected:
        return ""
    return f"{path} was changed: SHA-256 {found[:12]}…, expected {expected[:12]}…"


def _result_files(root: Path, provenance: Provenance) -> Iterator[FileHash]:
    """Yield the files that the provenance lists, with the case sheet and the table of scans."""
    for name, digest in provenance.files.items():
        yield root / name, digest
    for source in (provenance.case_sheet, provenance.data):
        if source.sha256:
            yield Path(source.file), source.sha256


def _exported_files(root: Path) -> Iterator[FileHash]:
    """Yield the weights of the exported model, if there is one."""
    folder = root / "export"
    path = folder / MODEL_FILE
    if path.is_file():
        for member in ExportedModel.load(path).members:
            yield weights_path(folder, member.name), member.sha256


def _tables(root: Path, provenance: Provenance) -> list[Path]:
    tables = []
    for name in provenance.files:
        path = root / name
        if path.suffix == ".csv" and path.is_file():
            tables.append(path)
    return tables


def _case_files(tables: Iterable[Path]) -> Iterator[CaseFiles]:
    """Yield the cases that have files."""
    for table in tables:
        for row in read_csv(table):
            if row.get("files"):
                columns = {
                    "case_id": row.get("case_id"),
                    "files": split_list(row["files"]),
                    "sha256": split_list(row.get("sha256", "")),
                }
                yield table, columns


def _data_files(table: Path) -> set[FileHash]:
    """Return the scans and labels with the SHA-256 that ``hstf check`` recorded."""
    files: set[FileHash] = set()
    if not table.is_file():
        return files
    for row in read_csv(table):
        if row.get("sha256"):
            files.add((Path(row["file"]), row["sha256"]))
    return files


def _software_changes(provenance: Provenance) -> list[str]:
    """Return how the installed software differs from that of the results.

    This is not an error, but results of a new run may differ.
    """
    here: dict[str, str | None] = {
        "hstf": __version__,
        "code": code_sha256()[:12],
        **packages(),
    }
    then = {
        "hstf": provenance.hstf,
        "code": provenance.code_sha256[:12],
        **provenance.packages,
    }
    changes = []
    for name, version in here.items():
        if then.get(name) != version:
            changes.append(f"{name} {then.get(name)}, here {version}")
    if not changes:
        return []
    return [f"Computed with other software: {'; '.join(changes)}."]
