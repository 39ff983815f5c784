"""Decide by content what must run.

Snakemake decides by time stamps. They mislead it: a copied file is older than the result that it
should change, a killed run leaves results of unknown parameters, and a copied folder has the times
of the copy. So while the workflow is read, the record of each job (:mod:`hstf.experiment.records`)
is compared with what the job would read now, and the time stamps are set right: each rule has a key
file among its inputs, which is made newer than the results if they were made from something else.
Results that are up to date are made as new as their inputs.
"""

import json
import os
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hstf.experiment.job import Job
from hstf.experiment.job_files import KEY_FOLDER
from hstf.experiment.job_inputs import facts_of, sources_of
from hstf.experiment.jobs import Jobs
from hstf.experiment.last_run import benchmark_of
from hstf.experiment.records import (
    CHANGED,
    MISSING,
    JobRecord,
    ResultsNow,
    job_key,
    read_record,
    results_now,
    source_digests,
)
from hstf.runtime.errors import HstfError, few, join_problems
from hstf.runtime.files import atomic_path, make_folder
from hstf.runtime.stamps import HashedFile, Stamp, hash_file, stamp_of

SECOND = 1_000_000_000
"""In nanoseconds; some disks store time stamps in whole seconds."""
READ_BYTES = 500_000_000
"""Scans with a new time stamp are read while the workflow starts, up to this many bytes. Beyond it
they count as changed; the jobs read them and find what has changed."""


@dataclass
class State:
    """Whether the results of a job are up to date."""

    reasons: list[str]
    """Why the job must run; empty if its results are up to date."""
    digest: str = ""
    """Digest of its results, if they are up to date."""


@dataclass
class Keys:
    """The key files of an experiment."""

    jobs: Jobs
    sets_times: bool = True
    """Whether time stamps are set right; otherwise results are only compared."""
    _states: dict[Job, State] = field(default_factory=dict)
    _records: dict[Job, JobRecord | None] = field(default_factory=dict)
    _results: dict[Job, ResultsNow] = field(default_factory=dict)
    _newest_source: dict[Job, int] = field(default_factory=dict)
    _budget: int = READ_BYTES

    def __post_init__(self) -> None:
        """Make the keys known to the experiments that reuse results of this one."""
        _experiments[self.jobs.layout.root.absolute()] = self

    def file(self, job: Job) -> Path:
        """Return the key file of a job, with the time stamp that makes Snakemake run it or not."""
        path = self.jobs.key(job)
        reasons = self.state(job).reasons
        if reasons:
            self._write(path, job, reasons)
        else:
            self._mark_as_current(path, job)
        return path

    def state(self, job: Job) -> State:
        """Return whether the results of a job are up to date."""
        if job not in self._states:
            self._states[job] = self._examine(job)
        return self._states[job]

    def causes(self, job: Job) -> list[str]:
        """Return what has changed since a job and the jobs before it ran; nothing if none has."""
        found = []
        left = [job]
        seen = set(left)
        while left:
            current = left.pop()
            before = self.jobs.before(current)
            runs = {f"{earlier.name} runs" for earlier in before}
            own = [reason for reason in self.state(current).reasons if reason not in runs]
            if own:
                found.append(f"{current.name} ({own[0]})")
            left += [earlier for earlier in before if earlier not in seen]
            seen.update(before)
        return found

    def is_recorded(self, job: Job) -> bool:
        """Return whether a job has run."""
        return read_record(self.jobs.record(job)) is not None

    def refuse_edited(self, jobs: Collection[Job]) -> None:
        """Refuse to run while results have been edited, or if there can be no key files.

        Raises:
            HstfError: with all edited results.
        """
        make_folder(self.jobs.layout.root / KEY_FOLDER)
        edited: list[str] = []
        for job in jobs:
            if self._home(job) is self and self._record(job) is not None:
                edited += self._results[job].edited
        if edited:
            raise join_problems(
                f"{self.jobs.layout.root}: {len(edited)} results were edited.", edited
            )

    def _record(self, job: Job) -> JobRecord | None:
        """Read the record of a job and compare its results with it, once."""
        if job not in self._records:
            record = read_record(self.jobs.record(job))
            self._records[job] = record
            if record is not None:
                now = results_now(self.jobs.root(job), record)
                self._results[job] = now
                if now.touched:
                    self._refresh(job, {"outputs": {**record.outputs, **now.touched}})
        return self._records[job]

    def _examine(self, job: Job) -> State:
        home = self._home(job)
        if home is not self:
            return home.state(job) if home else self._recorded_elsewhere(job)
        record = self._record(job)
        reasons = []
        before = {}
        for earlier in self.jobs.before(job):
            state = self.state(earlier)
            before[earlier.name] = state.digest
            if state.reasons:
                reasons.append(f"{earlier.name} runs")
        if record is None:
            return State(["it has not run yet", *reasons])
        missing = self._results[job].missing
        rewritten = self._results[job].rewritten
        if missing:
            reasons.append(f"{few(missing)} missing")
        if rewritten:
            reasons.append(f"{few(rewritten)} written by another job")
        reasons = [*self._differences(job, record, before), *reasons]
        if not reasons and self.sets_times:
            self._touch_results(job)
        return State(reasons, record.digest)

    def _home(self, job: Job) -> "Keys | None":
        """Return the keys of the experiment that a job belongs to; None if it is not read here."""
        root = self.jobs.root(job)
        if root == self.jobs.layout.root:
            return self
        return _experiments.get(root.absolute())

    def _recorded_elsewhere(self, job: Job) -> State:
        """Return the state of a job of an experiment that this workflow does not run."""
        record = read_record(self.jobs.record(job))
        return State([], record.digest if record else "")

    def _differences(self, job: Job, record: JobRecord, before: dict[str, str]) -> list[str]:
        """Describe what the job would read now that it did not read then."""
        facts = facts_of(self.jobs, job)
        sources = self._sources(job, record)
        if job_key(facts, sources, before) == record.key:
            return []
        reasons = []
        for name in _differing(facts, record.facts):
            reasons.append(f"{name} changed")
        for name in _differing(sources, source_digests(record.sources)):
            reasons.append(f"{name} changed")
        for name in _differing(before, record.before):
            reasons.append(f"the results of {name} changed")
        return reasons or ["its record is not valid"]

    def _sources(self, job: Job, record: JobRecord) -> dict[str, str]:
        """Return the SHA-256 of each source; files with the recorded stamp are not read."""
        digests = {}
        touched = {}
        newest = 0
        for source in sources_of(self.jobs, job):
            stamp = stamp_of(source.path)
            newest = max(newest, stamp.modified if stamp else 0)
            known = record.sources.get(source.name)
            if known and known.path == str(source.path) and known.stamp == stamp:
                digests[source.name] = known.sha256
                continue
            file = self._hash_within_budget(source.path, stamp)
            digests[source.name] = file.sha256 if file else CHANGED if stamp else MISSING
            if file and known and file.sha256 == known.sha256:
                touched[source.name] = file
        self._newest_source[job] = newest
        if touched:
            self._refresh(job, {"sources": {**record.sources, **touched}})
        return digests

    def _refresh(self, job: Job, update: dict[str, Any]) -> None:
        """Note the new stamps of copies with the same content, so that they are not read again."""
        record = self._records[job]
        assert record is not None
        refreshed = record.model_copy(update=update)
        self._records[job] = refreshed
        with suppress(HstfError):  # in a read-only folder they are read each time
            refreshed.save(self.jobs.record(job))

    def _hash_within_budget(self, path: Path, stamp: Stamp | None) -> HashedFile | None:
        """Hash a file; None if it is missing or too large to be read now."""
        if stamp is None or stamp.size > self._budget:
            return None
        self._budget -= stamp.size
        return hash_file(path)

    def _write(self, path: Path, job: Job, reasons: list[str]) -> None:
        """Write a key file that is newer than the results of the job.

        Its content is new each time: Snakemake ignores a newer file with a known content. Without
        results the job runs in any case.
        """
        if not self._times(job) and path.is_file():
            _renew_reasons(path, reasons)
            return
        content = {"job": job.name, "runs_because": reasons, "written": time.time_ns()}
        _write_quickly(path, content)
        # The disk sets the time: its clock may differ from that of this machine, and Snakemake
        # refuses new results that are older than an input.
        written = path.stat().st_mtime_ns
        for output in self.jobs.outputs(job):
            _set_time(output, at_most=written - SECOND)

    def _mark_as_current(self, path: Path, job: Job) -> None:
        """Make the key file older than the results of the job."""
        oldest = min(self._times(job), default=0)
        if path.is_file():
            _renew_reasons(path, [])
        else:
            _write_quickly(path, {"job": job.name, "runs_because": []})
        earlier = max(0, oldest - SECOND)
        _set_time(path, at_most=earlier)
        stamp = stamp_of(path)
        if stamp is not None and stamp.modified > earlier:
            # Only the owner of a file may set its time: the key of a colleague is replaced.
            with suppress(HstfError):  # in a read-only folder
                _replace_key(path, {"job": job.name, "runs_because": []})
            _set_time(path, at_most=earlier)

    def _touch_results(self, job: Job) -> None:
        """Make results not older than their inputs, and not dated in the future."""
        times = [self._newest_source.get(job, 0)]
        for earlier in self.jobs.before(job):
            times += self._times(earlier)
        root = self.jobs.root(job)
        record = self._records[job]
        assert record is not None
        now = time.time_ns()
        touched = {}
        for path in self.jobs.outputs(job):
            name = str(path.relative_to(root))
            stamp = _set_time(path, at_most=now, at_least=max(times))
            if stamp is not None and name in record.outputs:
                touched[name] = record.outputs[name].model_copy(update={"stamp": stamp})
        if touched:
            self._refresh(job, {"outputs": {**record.outputs, **touched}})
        # For Snakemake the benchmark is one of the results. The key file is older than all results.
        newest = max([*times, *self._times(job)])
        _set_time(root / benchmark_of(job.name), at_most=now, at_least=newest)

    def _times(self, job: Job) -> list[int]:
        stamps = [stamp_of(path) for path in self.jobs.outputs(job)]
        return [stamp.modified for stamp in stamps if stamp is not None]


def _renew_reasons(path: Path, reasons: list[str]) -> None:
    """Write why a job runs, if it is not what an earlier run wrote.

    The time of the file stays: the job may be running now, and its results must be newer.
    """
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        modified = path.stat().st_mtime_ns
    except (OSError, ValueError):
        return
    if known.get("runs_because") != reasons:
        with suppress(OSError, HstfError):  # in a read-only folder
            _write_quickly(path, known | {"runs_because": reasons})
        _set_time(path, at_most=modified)


def _write_quickly(path: Path, content: dict[str, Any]) -> None:
    """Write a key file. Nothing reads its content but people, so it need not be atomic."""
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except PermissionError:
        _replace_key(path, content)


def _replace_key(path: Path, content: dict[str, Any]) -> None:
    """Replace the key file of another user, in a folder that both may change.

    Raises:
        HstfError: if the folder cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _set_time(path: Path, at_most: int, at_least: int = 0) -> Stamp | None:
    """Move the time of a file between two bounds, in nanoseconds.

    Returns:
        The new stamp; None if nothing was changed: the time is between the bounds, the file is
        missing, or the folder is read-only.
    """
    stamp = stamp_of(path)
    if stamp is None or at_least <= stamp.modified <= at_most:
        return None
    moved = at_most if stamp.modified > at_most else min(at_least, at_most)
    try:
        os.utime(path, ns=(moved, moved))
    except OSError:
        if stamp.modified > at_most or not _touch(path):
            return None
    return stamp_of(path)


def _touch(path: Path) -> bool:
    """Set the time of a file to now, which all may do who may write it; return whether it is so."""
    try:
        os.utime(path)
    except OSError:
        return False
    return True


_experiments: dict[Path, Keys] = {}
"""The keys of all experiments of this process, by their folder."""


def _differing(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
