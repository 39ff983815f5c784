"""The jobs that an experiment has without a case, and what its other jobs have left."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hstf.config.load import load_config
from hstf.experiment.cases import CaseSheet, Split, read_cases
from hstf.experiment.job_files import KEY_FOLDER
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import log_of
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json


@dataclass(frozen=True)
class RemainingJobs:
    """The jobs that an experiment has without a case."""

    folder: Path
    """The folder of the experiment."""
    names: set[str]
    """Names of the jobs with results in the folder."""
    results: set[Path]
    """What the next run writes there."""

    @classmethod
    def without(cls, case: str, folder: Path) -> "RemainingJobs":
        """Return the jobs without a case.

        Raises:
            HstfError: if the case sheet cannot be read.
        """
        config = load_config(folder / "config.yaml")
        cases = [other for other in read_cases(config).cases if other.case_id != case]
        jobs = Jobs(config, CaseSheet(tuple(cases)))
        root = jobs.layout.root
        names = {job.name for job in jobs.with_results() if jobs.root(job) == root}
        results: set[Path] = set()
        for job in jobs.all():
            if jobs.root(job) == root:
                # The folder may be a copy of the one in the configuration.
                results |= {folder / path.relative_to(root) for path in jobs.outputs(job)}
        return cls(folder, names, results)

    def gone(self, tables: set[Path], named: Collection[Path]) -> list[Path]:
        """Return the files about the case of other jobs, which the experiment had earlier.

        Args:
            tables: tables with rows of the case. Other results are not returned.
            named: files whose text names the case. This is enough for the job of a shard only: a
                name that is a number is in the record of many jobs.
        """
        found = []
        records = self.folder / "records"
        keys = self.folder / KEY_FOLDER
        names = {path.stem for folder in (records, keys) for path in folder.glob("*.json")}
        for name in sorted(names - self.names):
            record = records / f"{name}.json"
            outputs = [self.folder / output for output in content_of(record).get("outputs", {})]
            results = [path for path in outputs if path in tables - self.results]
            notes = [record, keys / f"{name}.json", self.folder / log_of(name)]
            is_named = _is_of_shard(name) and any(path in named for path in notes)
            if results or is_named:
                found += [path for path in (*results, *notes) if path.is_file()]
        return list(dict.fromkeys(found))


def jobs_without(
    case: str, folders: Iterable[Path], tables: set[Path], named: Collection[Path]
) -> tuple[list[Path], set[Path], str]:
    """Find out which files the next run writes when a case is no longer in the case sheet.

    Args:
        case: the case.
        folders: folders of experiments.
        tables: tables with rows of the case.
        named: files whose text names the case.

    Returns:
        The files of jobs that then do not exist, the results that the next run writes, and the
        reason if neither is known.
    """
    gone: list[Path] = []
    rewritten: set[Path] = set()
    try:
        for folder in folders:
            remaining = RemainingJobs.without(case, folder)
            gone += remaining.gone(tables, named)
            rewritten |= remaining.results
    except HstfError as error:
        return [], set(), str(error).splitlines()[0]
    return gone, rewritten, ""


def _is_of_shard(job_name: str) -> bool:
    """Return whether the name of a job ends with a shard, such as ``labels.round_1.test_0``."""
    split, _, number = job_name.rpartition(".")[2].rpartition("_")
    return split in set(Split) and number.isdecimal()


def content_of(path: Path) -> dict[str, Any]:
    """Return the content of a file about a job; empty if it is missing or damaged."""
    try:
        content = read_json(path)
    except HstfError:
        return {}
    return content if isinstance(content, dict) else {}
