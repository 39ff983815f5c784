"""``hstf verify``: check that results, scans and code are unchanged."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hstf import __version__
from hstf.config.load import load_config
from hstf.experiment.job_inputs import facts_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.provenance import Provenance, code_sha256, packages
from hstf.experiment.records import JobRecord
from hstf.method.bundle.owner_files import read_digests
from hstf.method.exported_model import (
    DIGEST_FILE,
    MODEL_FILE,
    ExportedModel,
    ModelMember,
    changed_files,
    weights_path,
)
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError, few, join_problems
from hstf.runtime.files import find_files, read_csv, sha256_file
from hstf.runtime.progress import track
from hstf.runtime.shards import file_problems
from hstf.runtime.tables import split_list

FileHash = tuple[Path, str]
"""A file and its expected SHA-256."""
CaseFiles = tuple[Path, dict[str, Any]]
"""A table, and the columns of one of its rows that describe the files of the case."""


def run(args: argparse.Namespace) -> int:
    """Verify the results of an experiment."""
    if args.json:
        found = examine(args.results, data=not args.no_data)
        found.print()
        return 1 if found.problems else 0
    for line in verify(args.results, data=not args.no_data):
        print(line, flush=True)
    return 0


class Verification(Document):
    """What ``hstf verify --json`` prints."""

    stage = "verify"

    folder: str
    files: int
    """Number of files that were compared with their recorded SHA-256."""
    cases: int
    """Number of cases whose files were compared."""
    tables: int
    """Number of tables that list these cases."""
    sources: int | None
    """Number of scans, labels and overrides that were compared; None with ``--no-data``."""
    problems: tuple[str, ...]
    """Files that are missing or changed, and results of other results."""
    software: tuple[str, ...]
    """Differences of the software that may change the results of a new run."""


def verify(root: Path, data: bool = True) -> list[str]:
    """Compute the SHA-256 of all files of an experiment and compare it with the recorded one.

    Args:
        root: results of the experiment.
        data: whether to check the scans, labels and overrides, too.

    Returns:
        What was checked, and differences of the software that may change results.

    Raises:
        HstfError: if there are no records, or if files are missing or changed. The message lists
            all of them.
    """
    found = examine(root, data)
    if found.problems:
        raise join_problems(
            f"{root}: {len(found.problems)} files are missing or changed.", found.problems
        )
    checked = f"{found.files} files, {found.cases} cases of {found.tables} tables"
    if data:
        checked += f" and {found.sources} scans, labels and overrides"
    lines = [f"{root}: {checked} are unchanged.", *found.software]
    former = former_jobs(_jobs(root), read_records(root))
    if former:
        lines.append(
            f"The experiment no longer has {len(former)} of its jobs ({few(former)}): only their"
            " files that are still there were compared, and not what they were made from."
        )
    return lines


def examine(root: Path, data: bool = True) -> Verification:
    """Compare all files of an experiment with their recorded SHA-256, see :func:`verify`.

    Raises:
        HstfError: if there are no records.
    """
    records = read_records(root)
    provenance = _provenance(root)
    if not records and provenance is None:
        raise HstfError(
            f"{root}: has neither records nor provenance.json, so there is nothing to compare with."
            " They are written by the workflow: let it run."
        )
    jobs = _jobs(root)
    former = former_jobs(jobs, records)
    reused = reused_records(jobs) if jobs else {}
    present = {name: record for name, record in records.items() if name not in former}
    left = _recorded_results(root, {name: records[name] for name in former})
    files = [*_recorded_results(root, present), *_provenance_files(root, provenance)]
    files += [file for file in left if file[0].is_file()]
    for folder, others in reused.items():
        files += _recorded_results(folder, others)
    files = list(dict.fromkeys([*files, *_exported_files(root)]))
    tables = [path for path, _ in files if path.suffix == ".csv" and path.is_file()]
    cases = list(_case_files(dict.fromkeys(tables)))
    sources = list(_sources(present, provenance)) if data else []
    problems = _check_files(files, "verify files")
    for table, row in track(cases, "verify cases"):
        problems += file_problems(row, table.parent)
    problems += _check_files(sources, "verify data")
    problems += _changed_meanwhile(present) if data else []
    problems += changed_decisions(jobs, present) if jobs and data else []
    for others in reused.values():
        present |= others
    problems += chain_problems(present)
    problems += missing_experiments(jobs) if jobs else []
    for folder in _export_folders(root):
        problems += _digest_problems(folder)
    return Verification(
        folder=str(root),
        files=len(files),
        cases=len(cases),
        tables=len(dict.fromkeys(tables)),
        sources=len(sources) if data else None,
        problems=tuple(dict.fromkeys(problems)),
        software=tuple(_software_changes(records, provenance)),
    )


def read_records(root: Path) -> dict[str, JobRecord]:
    """Return the records of the jobs of an experiment, by job.

    Raises:
        HstfError: if a record is damaged.
    """
    return {path.stem: JobRecord.load(path) for path in find_files(root, "records/*.json")}


def former_jobs(jobs: Jobs | None, records: Iterable[str]) -> list[str]:
    """Return the recorded jobs that the experiment no longer has, such as those of a removed round.

    No run makes their results again, so that they may be older than everything else. Without a
    readable configuration and case sheet, none is known.
    """
    if jobs is None:
        return []
    names = {job.name for job in jobs.with_results()}
    return [name for name in records if name not in names]


def _jobs(root: Path) -> Jobs | None:
    """Return the jobs of an experiment; None without a readable configuration and case sheet."""
    try:
        jobs = Jobs(load_config(root / "config.yaml"))
        _ = jobs.sheet
    except HstfError:
        return None
    return jobs


def reused_records(jobs: Jobs) -> dict[Path, dict[str, JobRecord]]:
    """Return the records of the jobs whose results are those of other experiments, by folder.

    Raises:
        HstfError: if a record is damaged.
    """
    records: dict[Path, dict[str, JobRecord]] = {}
    for job in jobs.with_results():
        folder = jobs.root(job)
        if folder != jobs.layout.root and jobs.record(job).is_file():
            records.setdefault(folder, {})[job.name] = JobRecord.load(jobs.record(job))
    return records


def missing_experiments(jobs: Jobs) -> Iterator[str]:
    """Describe the experiments of ``reuse:`` that do not exist any more."""
    for folder in dict.fromkeys((jobs.layout.data, jobs.layout.warmup)):
        if folder != jobs.layout.root and not folder.is_dir():
            yield f"{folder} is missing: 'reuse:' takes results from there"


def changed_decisions(jobs: Jobs, records: Mapping[str, JobRecord]) -> Iterator[str]:
    """Describe labels that were made with other decisions or corrected labels than those now."""
    for job in jobs.with_results():
        if job.rule != "labels_shard" or job.name not in records:
            continue
        try:
            now = facts_of(jobs, job)["overrides"]
        except HstfError as error:
            yield " ".join(str(error).split())
            return
        then = records[job.name].facts.get("overrides", [])
        differing = [row for row in (*now, *then) if row not in now or row not in then]
        if differing:
            cases = few(dict.fromkeys(row["case_id"] for row in differing))
            yield (
                f"{job.name}: was made with other decisions or corrected labels than those in"
                f" {jobs.layout.overrides} ({cases}). Run snakemake again"
            )


def chain_problems(records: Mapping[str, JobRecord]) -> list[str]:
    """Describe results that were made from other results than those that are there now."""
    problems = []
    for name, record in records.items():
        for earlier, digest in record.before.items():
            if earlier in records and records[earlier].digest != digest:
                problems.append(
                    f"{name}: was made from other results of {earlier} than those that are there"
                    " now. Run snakemake again"
                )
    return problems


def _provenance(root: Path) -> Provenance | None:
    path = root / "provenance.json"
    return Provenance.load(path) if path.is_file() else None


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
    try:
        found = sha256_file(path)
    except HstfError as error:
        return str(error)
    if found == expected:
        return ""
    return f"{path} was changed: SHA-256 {found[:12]}…, expected {expected[:12]}…"


def _recorded_results(root: Path, records: Mapping[str, JobRecord]) -> Iterator[FileHash]:
    """Yield the results of all jobs."""
    for record in records.values():
        for name, file in record.outputs.items():
            yield root / name, file.sha256


def _provenance_files(root: Path, provenance: Provenance | None) -> Iterator[FileHash]:
    """Yield the files that the provenance lists, with the case sheet and the table of scans."""
    if provenance is None:
        return
    for name, digest in provenance.files.items():
        yield root / name, digest
    for source in (provenance.case_sheet, provenance.data):
        if source.sha256:
            yield Path(source.file), source.sha256


def _sources(records: Mapping[str, JobRecord], provenance: Provenance | None) -> Iterator[FileHash]:
    """Yield the scans, labels and overrides that the jobs read."""
    files: set[FileHash] = set()
    for record in records.values():
        for file in record.sources.values():
            if file is not None:
                files.add((Path(file.path), file.sha256))
    if provenance is not None:
        # A test case may have been corrected after the check: its evaluation has the new SHA-256.
        known = {path for path, _ in files}
        checked = _data_files(Path(provenance.data.file))
        files |= {(path, digest) for path, digest in checked if path not in known}
    yield from sorted(files)


def _changed_meanwhile(records: Mapping[str, JobRecord]) -> Iterator[str]:
    """Describe the scans, labels and overrides that were changed while a job ran."""
    for name, record in records.items():
        for source, file in record.sources.items():
            if file is None:
                yield f"{name}: {source} was changed while the job ran. Run snakemake again"


def _exported_files(root: Path) -> Iterator[FileHash]:
    """Yield the files of the exported models, if there are any."""
    for folder in _export_folders(root):
        for name, digest in read_digests(folder / DIGEST_FILE).items():
            yield folder / name, digest
        for member in _exported_members(folder):
            yield weights_path(folder, member.name), member.sha256


def _exported_members(folder: Path) -> list[ModelMember]:
    """Return the members of an exported model; none if ``model.json`` is damaged."""
    try:
        return ExportedModel.load(folder / MODEL_FILE).members
    except HstfError:
        return []  # SHA256SUMS has the SHA-256 of model.json and of the weights


def _digest_problems(folder: Path) -> list[str]:
    """Describe what is wrong with the list of the files of an exported model."""
    is_listed = MODEL_FILE in read_digests(folder / DIGEST_FILE)
    return changed_files(folder, [] if is_listed else [MODEL_FILE])


def _export_folders(root: Path) -> list[Path]:
    """Return the folders of the exported ensemble and of single exported members."""
    folders = [root / "export", *find_files(root, "export_*")]
    names = (MODEL_FILE, DIGEST_FILE)
    return [folder for folder in folders if any((folder / name).is_file() for name in names)]


def _case_files(tables: Iterable[Path]) -> Iterator[CaseFiles]:
    """Yield the cases that have files."""
    for table in tables:
        for row in _rows_of(table):
            if row.get("files"):
                columns = {
                    "case_id": row.get("case_id"),
                    "files": split_list(row["files"]),
                    "sha256": split_list(row.get("sha256", "")),
                }
                yield table, columns


def _rows_of(table: Path) -> list[dict[str, str]]:
    """Read a table. One that is not readable has no rows: it was changed, or is not of hstf."""
    try:
        return read_csv(table)
    except HstfError:
        return []  # its SHA-256 is compared as that of any other file


def _data_files(table: Path) -> set[FileHash]:
    """Return the scans and labels with the SHA-256 that ``hstf check`` recorded."""
    files: set[FileHash] = set()
    if not table.is_file():
        return files
    for row in _rows_of(table):
        if row.get("sha256"):
            files.add((Path(row["file"]), row["sha256"]))
    return files


def _software_changes(records: Mapping[str, JobRecord], provenance: Provenance | None) -> list[str]:
    """Return how the installed software differs from that of the results.

    This is not an error, but results of a new run may differ.
    """
    here = _versions(__version__, code_sha256(), packages())
    jobs: dict[str, list[str]] = {}
    for name, record in records.items():
        then = _versions(record.hstf, record.code_sha256, record.packages)
        jobs.setdefault(_difference(then, here), []).append(name)
    if not records and provenance is not None:
        then = _versions(provenance.hstf, provenance.code_sha256, provenance.packages)
        jobs[_difference(then, here)] = ["all results"]
    lines = []
    for difference, names in jobs.items():
        if difference:
            lines.append(f"Computed with other software ({few(names)}): {difference}.")
    return lines


def _versions(hstf: str, code: str, installed: Mapping[str, str | None]) -> dict[str, str | None]:
    return {"hstf": hstf, "code": code[:12], **installed}


def _difference(then: Mapping[str, str | None], here: Mapping[str, str | None]) -> str:
    changes = []
    for name, version in here.items():
        if then.get(name) != version:
            changes.append(f"{name} {then.get(name)}, here {version}")
    return "; ".join(changes)
