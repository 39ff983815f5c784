"""What a person tells an importer about a folder whose owners fixed no form."""

import re
from dataclasses import dataclass, field

from hstf.config.experiment import Modality

PATIENT = r"((?:patient|subject|sub|pat|pt)[-_]?[A-Za-z]*\d+)(?=[-_.]|$)"
"""The part of a name that says which patient it is of: ``patient003`` of ``patient003_frame01``."""


@dataclass(frozen=True)
class Options:
    """Modalities, classes, and how names tell patients and sites; empty: found by the importer."""

    modalities: dict[str, Modality | None] = field(default_factory=dict)
    """Name and kind of each; ``None``: as the name says."""
    labels: dict[str, int] = field(default_factory=dict)
    patient: str = PATIENT
    """Regular expression whose first group, found in the name of a case, is the patient."""
    site: str = ""
    """Likewise the site."""

    def patient_of(self, name: str) -> str:
        """The patient of the case called ``name``; empty: the name does not tell."""
        return _group(self.patient, name)

    def site_of(self, name: str) -> str:
        """The site of the case called ``name``."""
        return _group(self.site, name)


def _group(pattern: str, name: str) -> str:
    match = re.search(pattern, name, re.IGNORECASE) if pattern else None
    return match[1] if match else ""
