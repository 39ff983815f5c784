"""What an experiment has written so far: files that are not there yet are empty, unreadable ones are told once."""

import csv
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from hstf.experiment.context import StageContext
from hstf.experiment.tables import EVALUATION_CASES
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_json
from hstf.runtime.tables import Table
from hstf.scoring.absent_classes import presence
from hstf.scoring.rounds import rounds_table


class Results:
    """Reads the files of an experiment for the report."""

    def __init__(self, context: StageContext) -> None:
        self.context = context
        self.config = context.config
        self.layout = context.layout
        self.schedule = context.schedule
        self.faults: list[str] = []
        """Files that exist but cannot be read, as sentences."""

    @property
    def rounds(self) -> list[int]:
        """Rounds of self-training, the warm-up not counted."""
        return list(range(1, self.schedule.last + 1))

    @property
    def structures(self) -> list[str]:
        """Names of the classes, or of the regions where there are any: what tables have a row or column for."""
        return list(self.config.structures)

    @property
    def kind(self) -> str:
        """What these are called: ``class`` or ``region``."""
        return self.config.structure_kind

    @property
    def kinds(self) -> str:
        """The same of several."""
        return "regions" if self.config.regions else "classes"

    @cached_property
    def scores(self) -> list[dict[str, Any]]:
        """A row for each evaluated round, see :func:`hstf.scoring.rounds.rounds_table`, which also writes ``rounds.csv``."""
        try:
            return rounds_table(self.context)
        except (HstfError, KeyError, TypeError) as error:
            self.faults.append(f"The table of rounds could not be made: {error}")
            return []

    @cached_property
    def sites(self) -> dict[str, str]:
        """Site of each case; empty without a readable case sheet."""
        try:
            return {case.case_id: case.site for case in self.context.sheet.cases}
        except HstfError:
            return {}

    def presence(self, number: int) -> dict[str, dict[str, Any]]:
        """Of each structure where the test cases of a round are scored, see :func:`hstf.scoring.absent_classes.presence`."""
        rows = self.table(EVALUATION_CASES, self.layout.evaluation_cases(number))
        return {
            name: presence([r for r in rows if r["class"] == name])
            for name in self.structures
            if rows
        }

    def table(self, table: Table, path: Path) -> list[dict[str, Any]]:
        """Rows of a CSV file; none when it is missing or unreadable."""
        try:
            return table.records(path) if path.is_file() else []
        except (HstfError, OSError, UnicodeDecodeError, csv.Error) as error:
            self._fault(path, error)
            return []

    def document(self, path: Path) -> dict[str, Any]:
        """Content of a JSON file; empty when it is missing or unreadable."""
        try:
            content = read_json(path) if path.is_file() else {}
        except (HstfError, OSError, UnicodeDecodeError) as error:
            self._fault(path, error)
            return {}
        return content if isinstance(content, dict) else {}

    def _fault(self, path: Path, error: Exception) -> None:
        sentence = (
            f"{path} could not be read ({type(error).__name__}); what it holds is missing below."
        )
        if sentence not in self.faults:
            self.faults.append(sentence)


def to_number(value: Any) -> float | None:
    """``value`` as a finite number; None for text, nothing, NaN and infinity."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def column(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """The numbers of a column; cells without one are left out."""
    return [number for row in rows if (number := to_number(row.get(name))) is not None]
