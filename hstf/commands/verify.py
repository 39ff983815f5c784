"""``hstf verify results/X``: are the results, the scans and the code still those that provenance and tables name?"""

import argparse
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hstf import __version__
from hstf.experiment.provenance import code_sha256, packages
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.files import read_csv, read_json, sha256_file
from hstf.runtime.progress import track
from hstf.runtime.shards import file_faults


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``hstf verify``."""
    parser.add_argument(
        "results", type=Path, metavar="FOLDER", help="results of an experiment: results/<name>"
    )
    parser.add_argument(
        "--no-data", action="store_true", help="leave out the scans and labels that it learned from"
    )


def run(args: argparse.Namespace) -> int:
    """Verify a results folder."""
    for line in verify(args.results, data=not args.no_data):
        print(line, flush=True)
    return 0


def verify(root: Path, data: bool = True) -> list[str]:
    """Recompute every SHA-256 that an experiment has written down; returns what was found in order.

    Raises:
        HstfError: no finished experiment, or files that are missing or changed; all of them are named.
    """
    path = root / "provenance.json"
    if not path.is_file():
        raise HstfError(
            f"{root}: has no provenance.json. It is written with the report: let the workflow finish first."
        )
    made = read_json(path)
    try:
        return _verify(root, made, data)
    except (KeyError, TypeError, AttributeError) as error:
        raise HstfError(
            f"{path}: is damaged ({error!r}). Delete it and rerun the report stage."
        ) from error


def _verify(root: Path, made: dict[str, Any], data: bool) -> list[str]:
    files = [(root / name, digest) for name, digest in made["files"].items()]
    sources = (made["case_sheet"], made["data"])
    files += [(Path(source["file"]), source["sha256"]) for source in sources if source["sha256"]]
    files += list(_exported(root))
    faults = [
        fault for path, digest in track(files, "verify files") for fault in fault_of(path, digest)
    ]
    tables = [
        table
        for table in (root / name for name in made["files"])
        if table.suffix == ".csv" and table.is_file()
    ]
    rows = [(table, row) for table in tables for row in read_csv(table) if row.get("files")]
    for table, row in track(rows, "verify cases"):
        faults += file_faults(row, table.parent)
    scans = list(_scans(Path(made["data"]["file"]))) if data else []
    faults += [
        fault for path, digest in track(scans, "verify data") for fault in fault_of(path, digest)
    ]
    if faults:
        raise join_faults(f"{root}: {len(faults)} files do not fit.", list(dict.fromkeys(faults)))
    counted = f"{len(files)} files, {len(rows)} cases of {len(tables)} tables"
    scanned = f" and {len(scans)} scans and labels" if data else ""
    return [f"{root}: {counted}{scanned} are as they were written.", *_differences(made)]


def fault_of(path: Path, digest: str) -> list[str]:
    """What is wrong with a file that should have ``digest``."""
    if not path.is_file():
        return [f"{path} is missing"]
    found = sha256_file(path)
    return (
        []
        if found == digest
        else [f"{path} was changed: SHA-256 {found[:12]}…, expected {digest[:12]}…"]
    )


def _scans(table: Path) -> Iterator[tuple[Path, str]]:
    """Scans and labels with the hash that ``check`` found."""
    rows: Iterable[dict[str, str]] = read_csv(table) if table.is_file() else []
    yield from {(Path(row["file"]), row["sha256"]) for row in rows if row.get("sha256")}


def _exported(root: Path) -> Iterator[tuple[Path, str]]:
    """Weights of the exported model."""
    path = root / "export" / "model.json"
    for member in read_json(path)["members"] if path.is_file() else []:
        yield path.parent / "members" / f"{member['name']}.pt", member["sha256"]


def _differences(made: dict[str, Any]) -> list[str]:
    """How this installation differs from the one that made the results: no fault, but other bytes would come out."""
    here = {"hstf": __version__, "code": code_sha256()[:12], **packages()}
    then = {"hstf": made["hstf"], "code": made["code_sha256"][:12], **made["packages"]}
    changed = [
        f"{name} {then.get(name)}, here {here[name]}"
        for name in here
        if then.get(name) != here[name]
    ]
    return [f"Made with other software: {'; '.join(changed)}."] if changed else []
