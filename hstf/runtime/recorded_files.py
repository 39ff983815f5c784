"""Files of cases that are compared with their SHA-256 when they are first opened.

A training may read very many files. It would take long to compare all of them before the first
step.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file

REMEDY = "and run the workflow again: only this case is computed again"


@dataclass
class RecordedFile:
    """A file of a case, and its SHA-256 in the table of its shard."""

    case_id: str
    path: Path
    sha256: str
    table: Path
    """The table of the shard."""
    _is_checked: bool = field(default=False, init=False, repr=False, compare=False)

    def check(self) -> None:
        """Compare the file with its SHA-256, once in a process.

        Raises:
            HstfError: if the file is missing or has changed.
        """
        if self._is_checked:
            return
        problem = self.problem()
        if problem:
            raise HstfError(f"{problem}.")
        self._is_checked = True

    def problem(self) -> str:
        """Describe how the file differs from what was written. Returns ``""`` if it does not."""
        problem = self.missing()
        if not problem and sha256_file(self.path) != self.sha256:
            problem = (
                f"{self.case_id}: {self.path} was changed after it was written, or is damaged: its"
                f" SHA-256 is not the one in the table. Delete it and {self.table}, {REMEDY}"
            )
        return problem

    def missing(self) -> str:
        """Describe a missing file. Returns ``""`` if it is there."""
        if self.path.is_file():
            return ""
        return f"{self.case_id}: {self.path} is missing. Delete {self.table} {REMEDY}"
