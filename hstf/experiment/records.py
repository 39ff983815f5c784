"""Records of jobs: what results were made from, by which program, and what they were.

``records/<job>.json`` is written when a job has finished. It has the configuration and the SHA-256
of everything that the job read and wrote. With it the workflow decides by content what must run
(:mod:`hstf.experiment.keys`), a job refuses damaged results of the jobs before it, and
``hstf verify`` shows how each result was made.
"""

import argparse
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import hstf
from hstf.config.load import load_config
from hstf.experiment.job import Job, job_of_command
from hstf.experiment.job_inputs import Source, facts_of, sources_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.provenance import code_sha256, commit, packages
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import remove_leftovers, sha256_json
from hstf.runtime.locks import exclusive, is_first_process
from hstf.runtime.shards import has_records, read_file_rows, recorded_row
from hstf.runtime.stamps import HashedFile, Stamp, hash_file, sha256_once, stamp_of

LISTED_RULES = ("refine_shard", "labels_shard")
"""Rules whose files of single cases are for people, who may edit them where they are."""
CASE_ENDINGS = (".weight.nii.gz", ".nii.gz")
"""Ends of the names of these files, after the name of the case."""
CHANGED = "changed while the job ran"
"""In place of a SHA-256: the job may have read the file before or after the change."""
MISSING = "missing"
"""In place of the SHA-256 of a file that does not exist."""


class JobRecord(Document):
    """``records/<job>.json``."""

    stage: ClassVar[str] = "the stage of the record"

    job: str
    key: str
    """SHA-256 of facts, sources and earlier jobs. A job with another key must run."""
    facts: dict[str, Any]
    """Version and configuration of the stage, and the rows of the tables of people."""
    sources: dict[str, HashedFile | None]
    """Scans, labels and overrides that the job read; None for a file that changed meanwhile."""
    before: dict[str, str]
    """For each job whose results were read, a SHA-256 of its key and its results."""
    outputs: dict[str, HashedFile]
    """The results; paths are relative to the folder of the experiment."""
    hstf: str
    """Version of HSTF."""
    commit: str | None
    """Git commit of the source code; None without a repository."""
    code_sha256: str
    """SHA-256 of the source code."""
    packages: dict[str, str | None]
    """Versions of Python and of the main packages."""
    machine: str

    @property
    def digest(self) -> str:
        """SHA-256 of the key and the results."""
        return digest_of_results(self.key, {name: f.sha256 for name, f in self.outputs.items()})


def digest_of_results(key: str, outputs: Mapping[str, str]) -> str:
    """Return the SHA-256 of the results of a job."""
    return sha256_json({"key": key, "outputs": dict(outputs)})


def job_key(facts: Mapping[str, Any], sources: Mapping[str, str], before: Mapping[str, str]) -> str:
    """Return the SHA-256 of everything that a job depends on.

    Args:
        facts: of :func:`hstf.experiment.job_inputs.facts_of`.
        sources: SHA-256 of each source by its name.
        before: digest of each job whose results are read.
    """
    return sha256_json({"facts": facts, "sources": sources, "before": before})


def read_record(path: Path) -> JobRecord | None:
    """Read a record; a missing or damaged record is None."""
    if not path.is_file():
        return None
    try:
        return JobRecord.load(path)
    except HstfError:
        return None


@contextmanager
def recorded(jobs: Jobs, job: Job) -> Iterator[None]:
    """Run the block as a job: refuse damaged inputs, and write the record at the end.

    The old record is removed first. So a record never describes half of the results of a job that
    was killed.

    Raises:
        HstfError: if results of earlier jobs were changed or damaged, or if results of this job
            were edited and would be overwritten.
    """
    path = jobs.record(job)
    with exclusive(path.with_suffix(".lock"), job.name):
        refuse_edited_results(jobs, job)
        before = _results_before(jobs, job)
        facts = facts_of(jobs, job)
        sources = sources_of(jobs, job)
        stamps = [stamp_of(source.path) for source in sources]
        path.unlink(missing_ok=True)
        for result in (path, *jobs.outputs(job)):
            remove_leftovers(result)
        yield
        files = _hash_sources(sources, stamps)
        digests = source_digests(files)
        record = JobRecord(
            job=job.name,
            key=job_key(facts, digests, before),
            facts=facts,
            sources=files,
            before=before,
            outputs=_hash_outputs(jobs, job),
            hstf=hstf.__version__,
            commit=commit(),
            code_sha256=code_sha256(),
            packages=packages(),
            machine=platform.node(),
        )
        record.save(path)


def source_digests(files: Mapping[str, HashedFile | None]) -> dict[str, str]:
    """Return the SHA-256 of each source by its name."""
    return {name: file.sha256 if file else CHANGED for name, file in files.items()}


def _hash_sources(
    sources: Sequence[Source], stamps: Sequence[Stamp | None]
) -> dict[str, HashedFile | None]:
    files: dict[str, HashedFile | None] = {}
    for source, stamp in zip(sources, stamps, strict=True):
        file = hash_file(source.path)
        files[source.name] = file if file is not None and file.stamp == stamp else None
    return files


def _hash_outputs(jobs: Jobs, job: Job) -> dict[str, HashedFile]:
    """Hash the results of a job.

    Raises:
        HstfError: if a result is missing.
    """
    root = jobs.root(job)
    outputs = {}
    for path in [*jobs.outputs(job), *_case_files(jobs, job)]:
        file = hash_file(path)
        if file is None:
            raise HstfError(f"{path}: was not written by {job.name}. Run the job again.")
        name = str(path.relative_to(root))
        outputs[name] = file.model_copy(update={"path": name})
    return outputs


def _case_files(jobs: Jobs, job: Job) -> list[Path]:
    """Return the volumes of single cases that people look at."""
    if job.rule not in LISTED_RULES:
        return []
    files = []
    for table in jobs.outputs(job):
        for row in read_file_rows(table):
            names = [name for name in row["files"] if name.endswith(".nii.gz")]
            files += [table.parent / name for name in names]
    return files


@dataclass(frozen=True)
class ResultsNow:
    """The results of a job on disk, compared with its record."""

    edited: list[str]
    """A sentence for each file with another content."""
    missing: list[str]
    """Names of files that do not exist."""
    touched: dict[str, HashedFile]
    """Files with the same content and another stamp: copies."""
    rewritten: list[str]
    """Names of files of cases that another job has written since: they moved to its shard."""


def results_now(root: Path, record: JobRecord) -> ResultsNow:
    """Compare the results of a job with its record. Files with the recorded stamp are not read.

    Args:
        root: folder of the experiment.
        record: the record of the job.
    """
    now = ResultsNow([], [], {}, [])
    for name, written in record.outputs.items():
        path = root / name
        stamp = stamp_of(path)
        if stamp is None:
            now.missing.append(name)
        elif stamp != written.stamp:
            digest = sha256_once(path)
            if digest == written.sha256:
                now.touched[name] = HashedFile(path=name, sha256=digest, stamp=stamp)
            elif _is_rewritten(path, digest):
                now.rewritten.append(name)
            else:
                now.edited.append(_edited(path))
    return now


def _is_rewritten(path: Path, digest: str) -> bool:
    """Return whether a file has the content that the record of its case has.

    An edit of the case sheet may move a case to another shard, whose job writes its files again.
    The record of the case is removed while they are written.
    """
    ending = next((ending for ending in CASE_ENDINGS if path.name.endswith(ending)), None)
    if ending is None or not has_records(path.parent):
        return False
    row = recorded_row(path.parent, path.name.removesuffix(ending))
    return row is None or (path.name, digest) in zip(row["files"], row["sha256"], strict=True)


def refuse_edited_results(jobs: Jobs, job: Job) -> None:
    """Refuse to overwrite results that somebody has edited.

    Raises:
        HstfError: with all edited files.
    """
    record = read_record(jobs.record(job))
    edited = results_now(jobs.root(job), record).edited if record else []
    if edited:
        raise join_problems(f"{job.name}: {len(edited)} results were edited.", edited)


def _edited(path: Path) -> str:
    if path.name.endswith(".nii.gz"):
        return (
            f"{path}: was changed after it was written. To correct a label, move your file to the"
            " overrides folder. Then delete this file and run snakemake again: it is computed again"
        )
    return (
        f"{path}: was changed or damaged after it was written. Results are not edited where they"
        " are: delete this file (or move it to another place) and run snakemake again, it is"
        " computed again"
    )


def record_command(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Return a context in which a command of a stage runs as its job.

    Commands that are no job of the experiment (a round or shard that does not exist, a stage whose
    results are reused) are not recorded: the stage refuses them.
    """
    jobs = Jobs(load_config(*args.config))
    part = getattr(args, "shard", None) or getattr(args, "member", None) or ""
    job = job_of_command(
        args.command,
        getattr(args, "round", None),
        part,
        getattr(args, "scales", False),
        getattr(args, "validation", False),
    )
    if getattr(args, "show", False) or not jobs.has(job) or not is_first_process():
        return nullcontext()
    return recorded(jobs, job)


def _results_before(jobs: Jobs, job: Job) -> dict[str, str]:
    """Return the digest of the results of each earlier job, after reading them.

    Raises:
        HstfError: with all files that were changed or damaged.
    """
    digests = {}
    problems: list[str] = []
    for earlier in jobs.before(job):
        record = read_record(jobs.record(earlier))
        if record is None:
            # A stage that was run by hand on files from elsewhere.
            digests[earlier.name] = digest_of_results("", _present_results(jobs, earlier))
            continue
        digests[earlier.name] = record.digest
        problems += damaged_results(jobs, earlier, record)
    if problems:
        raise join_problems(
            f"{job.name}: {len(problems)} results that it needs are not as they were written.",
            problems,
        )
    return digests


def damaged_results(jobs: Jobs, job: Job, record: JobRecord) -> list[str]:
    """Describe declared results of a job that do not have the SHA-256 of its record."""
    root = jobs.root(job)
    problems = []
    for path in jobs.outputs(job):
        written = record.outputs.get(str(path.relative_to(root)))
        if not path.is_file():
            problems.append(f"{path}: is missing. Run snakemake again: it is computed again")
        elif written is not None and sha256_once(path) != written.sha256:
            problems.append(_edited(path))
    return problems


def _present_results(jobs: Jobs, job: Job) -> dict[str, str]:
    digests = {}
    for path in jobs.outputs(job):
        digests[path.name] = sha256_once(path) if path.is_file() else MISSING
    return digests
