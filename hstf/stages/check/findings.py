"""The rows of the check report, and the files that they are about."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hstf.experiment.cases import Case
from hstf.imaging.guards import Issue, Level
from hstf.imaging.scan import Scan

SHEET = "case sheet"
"""The file of a finding that is about the case sheet."""


@dataclass(frozen=True)
class Finding:
    """A row of the report."""

    level: Level
    case_id: str
    """Empty for a problem of all cases together."""
    file: str
    """A path, or ``case sheet``."""
    found: str
    expected: str = ""
    what_to_do: str = ""

    def sentence(self) -> str:
        """Return the row as text."""
        return (
            f"{self.level}: {self.file}: found: {self.found}; expected: {self.expected}."
            f" {self.what_to_do}"
        )


@dataclass(frozen=True)
class Source:
    """A file of a case: the image of a modality, or the label."""

    case: Case
    column: str
    """The modality, or ``label``."""
    path: Path
    is_mask: bool = False
    """Whether the modality is a mask."""

    @property
    def is_label(self) -> bool:
        """Whether the file is scanned as a label map."""
        return self.column == "label"

    @property
    def kind(self) -> str:
        """How the file is scanned: as a label, mask or image."""
        if self.is_label:
            return "label"
        return "mask" if self.is_mask else "image"

    def error(self, found: str, expected: str, what_to_do: str) -> Finding:
        """Return an error about this file."""
        return self._finding(Level.ERROR, found, expected, what_to_do)

    def warning(self, found: str, expected: str, what_to_do: str) -> Finding:
        """Return a warning about this file."""
        return self._finding(Level.WARNING, found, expected, what_to_do)

    def of(self, issue: Issue) -> Finding:
        """Return an issue of this file as a finding."""
        return self._finding(issue.level, issue.found, issue.expected, issue.what_to_do)

    def ok(self) -> Finding:
        """Return the finding of a file without problems."""
        return Finding(Level.OK, self.case.case_id, str(self.path), "valid")

    def _finding(self, level: Level, found: str, expected: str, what_to_do: str) -> Finding:
        return Finding(level, self.case.case_id, str(self.path), found, expected, what_to_do)


Scans = Mapping[Source, Scan]
"""What was read from each file."""
