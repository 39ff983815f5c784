"""Options for folders without a fixed layout: files, modalities, classes, and names of patients."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hstf.config.experiment import Modality

PATIENT = (
    r"(?<![^\W\d_])"  # no letter before: "dept1" is no "pt1"
    r"((?:patient|subject|sub|pat|pt)(?:[-_][A-Za-z]*)?\d+)(?=[-_. ]|$)"
)
"""Part of a name that identifies the patient: ``patient003`` in ``patient003_frame01``."""


@dataclass(frozen=True)
class Options:
    """Options of an import. The importer determines what is not given."""

    modalities: dict[str, "Modality | None"] = field(default_factory=dict)
    """Type of each modality; ``None``: derived from the name."""
    labels: dict[str, int] = field(default_factory=dict)
    """Value of each class, without the background."""
    patient: str = PATIENT
    """Regular expression. Its first group in the name of a case is the patient."""
    site: str = ""
    """Regular expression. Its first group in the name of a case is the site."""
    images: tuple[str, ...] = ()
    """Patterns of the paths of images; empty: images are recognised by their names."""
    label_files: tuple[str, ...] = ()
    """Patterns of the paths of labels; empty: labels are recognised by their names."""
    match: str = ""
    """Regular expression. Its groups in the path of a file are the case."""
    written: tuple[Path, ...] = ()
    """Folders of files that the import itself writes: an earlier import may have done so."""
    filters: Mapping[str, str] = field(default_factory=dict)
    """Value of each BIDS entity of the files that are used."""

    def patient_of(self, name: str) -> str:
        """Return the patient of the case ``name``, or ``""`` if the name does not show it."""
        return _first_group(self.patient, name)

    def site_of(self, name: str) -> str:
        """Return the site of the case ``name``, or ``""`` if the name does not show it."""
        return _first_group(self.site, name)


def _first_group(pattern: str, name: str) -> str:
    if not pattern:
        return ""
    match = re.search(pattern, name, re.IGNORECASE)
    if match is None:
        return ""
    return match[1] or ""
