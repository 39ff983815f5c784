"""The experiment that is looked at: its cases, its rounds and its tables."""

import os
import secrets
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from hstf.config.experiment import Config
from hstf.config.load import config_of_results
from hstf.experiment import decisions
from hstf.experiment.cases import Case, Split, read_cases
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import LABELS, LESIONS, REFINE
from hstf.experiment.schedule import Schedule
from hstf.runtime.errors import HstfError
from hstf.runtime.stamps import Stamp, stamp_of
from hstf.runtime.tables import Table

T = TypeVar("T")
Rows = list[dict[str, Any]]
LAST = "last"
THIRD = "third"
CONSENSUS = (LAST, THIRD)
"""Whose decision is in force if reviewers disagree: that of the last one, or of a third one."""


@dataclass
class Desk:
    """An experiment with pseudo-labels, and the sessions of the browsers that look at it."""

    config: Config
    worker: Executor
    """Runs what reads whole volumes, so that they do not stay in the memory of the server."""
    cache: Path
    """A folder for converted volumes, which is removed at the end."""
    start_round: int | None = None
    """The round that is shown first; None: the last one."""
    consensus: str = LAST
    reviewer: str = ""
    """The name of a new session; empty: the browser asks for it."""
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    reviewers: dict[str, str] = field(default_factory=dict)
    """Name of the reviewer by session."""
    _tables: dict[Path, tuple[tuple[int, int], Any]] = field(default_factory=dict)
    _run: tuple[Stamp | None, ...] = ()
    """State of the files from which a run of the workflow is seen."""

    def __post_init__(self) -> None:
        """Note the last run of the workflow."""
        self._run = self._run_on_disk()

    def renew(self) -> None:
        """Read the configuration and the case sheet again if the workflow has run since.

        Raises:
            HstfError: if they cannot be read.
        """
        run = self._run_on_disk()
        if run == self._run:
            return
        self.config = config_of_results(self.layout.root)
        for name in ("layout", "schedule", "cases"):
            self.__dict__.pop(name, None)
        _ = self.cases  # raises if the case sheet has problems
        self._run = run

    def _run_on_disk(self) -> tuple[Stamp | None, ...]:
        files = [self.layout.refine(number) for number in range(1, self.schedule.last + 1)]
        return tuple(stamp_of(path) for path in (self.layout.config, *files))

    @cached_property
    def layout(self) -> Layout:
        """The files of the experiment."""
        return Layout.of(self.config)

    @cached_property
    def schedule(self) -> Schedule:
        """The rounds of the experiment."""
        return Schedule.of(self.config)

    @cached_property
    def cases(self) -> dict[str, Case]:
        """The unlabelled cases by name."""
        return {case.case_id: case for case in read_cases(self.config).of(Split.UNLABELLED)}

    def rounds(self) -> list[int]:
        """Return the rounds that have pseudo-labels."""
        numbers = range(1, self.schedule.last + 1)
        return [number for number in numbers if self.layout.refine(number).is_file()]

    def first_round(self) -> int:
        """Return the round that is shown first.

        Raises:
            HstfError: if it has no pseudo-labels.
        """
        rounds = self.rounds()
        if not rounds:
            raise HstfError(
                f"{self.layout.root}: no round has pseudo-labels yet (round_1/refine.csv is"
                " missing). Run the workflow first."
            )
        if self.start_round is None:
            return rounds[-1]
        if self.start_round not in rounds:
            raise HstfError(
                f"--round {self.start_round}: this round has no pseudo-labels. There are those of"
                f" round {', '.join(map(str, rounds))}."
            )
        return self.start_round

    def refined(self, number: int) -> Rows:
        """Return the pseudo-labels of a round, least predicted Dice first."""
        return self.read(self.layout.refine(number), REFINE.records)

    def refined_case(self, number: int, case_id: str) -> dict[str, Any]:
        """Return the row of a pseudo-label.

        Raises:
            HstfError: if the round has no such pseudo-label.
        """
        for row in self.refined(number):
            if row["case_id"] == case_id:
                return row
        raise HstfError(f"{self.layout.refine(number)}: has no case {case_id}.")

    def lesions(self, number: int, case_id: str) -> Rows:
        """Return the lesions of a pseudo-label; empty if the configuration has no lesions."""
        path = self.layout.pseudo_labels(number) / f"{case_id}.lesions.csv"
        return self.optional(LESIONS, path) if self.config.lesions else []

    def labels(self, number: int) -> Rows:
        """Return what the student of a round learned from; empty if it is not there yet."""
        return self.optional(LABELS, self.layout.labels_table(number))

    def optional(self, table: Table, path: Path) -> Rows:
        """Return the rows of a table; none if it is missing."""
        return self.read(path, table.records) if path.is_file() else []

    def read(self, path: Path, reader: Callable[[Path], T]) -> T:
        """Read a file, and again only if it has changed."""
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        known = self._tables.get(path)
        if known is None or known[0] != state:
            known = (state, reader(path))
            self._tables[path] = known
        return known[1]


def version_of(row: dict[str, Any]) -> str:
    """Return the SHA-256 of the pseudo-label of a row of ``refine.csv``.

    Raises:
        HstfError: if the row has none.
    """
    version = decisions.version_of(row)
    if not version:
        raise HstfError(f"refine.csv: has no pseudo-label of {row['case_id']}.")
    return version


def open_experiment(results: Path) -> Config:
    """Read the configuration of an experiment and change to the folder in which it was run.

    The paths in a configuration are relative to this folder.

    Raises:
        HstfError: if the folder has no results, or if the results were moved.
    """
    config = config_of_results(results)
    root = Layout.of(config).root
    for folder in (Path.cwd(), *results.resolve().parents):
        if (folder / root).is_dir() and (folder / root).samefile(results):
            os.chdir(folder)
            return config
    raise HstfError(
        f"{results}: its configuration names the folder {root}. Move the results back, or change"
        " 'output' and 'experiment' in its config.yaml."
    )
