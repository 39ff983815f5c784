"""Options for folders without a fixed layout: modalities, classes, and how names show patients."""

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hstf.config.experiment import Modality

PATIENT = r"((?:patient|subject|sub|pat|pt)[-_]?[A-Za-z]*\d+)(?=[-_.]|$)"
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
    return match[1]
