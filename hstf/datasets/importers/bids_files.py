"""Volumes of a BIDS data set with the entities of their names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class File:
    """A volume with the entities of its name."""

    path: Path
    entities: Mapping[str, str]
    suffix: str
    derived: bool
    """Whether it is stored in ``derivatives``."""

    @property
    def session(self) -> str:
        """Subject and session."""
        parts = [f"sub-{self.entities['sub']}"]
        if "ses" in self.entities:
            parts.append(f"ses-{self.entities['ses']}")
        return "_".join(parts)

    @property
    def run(self) -> str:
        """Number of the run, or ``""``."""
        return self.entities.get("run", "")
