"""The volumes of the structures in labelled cases, as the ensemble predicts them out of fold."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hstf.audit.desk import Desk
from hstf.experiment.round_tables import TEACHER
from hstf.runtime.tables import split_list

TOLERANCE = 0.1
"""Part of the volume by which it may be outside the range: there are few labelled cases."""


@dataclass(frozen=True)
class VolumeRange:
    """Minimum and maximum (ml) over the labelled cases."""

    low: float
    high: float

    def is_unusual(self, volume_ml: float) -> bool:
        """Return whether a volume is clearly outside the range."""
        return not self.low * (1 - TOLERANCE) <= volume_ml <= self.high * (1 + TOLERANCE)


def volume_ranges(desk: Desk) -> dict[str, VolumeRange]:
    """Return the range of each structure; empty if the predictions are not there."""
    found: dict[str, list[float]] = {}
    for path in sorted(desk.layout.out_of_fold.glob("*.csv")):
        for structure, volume in _volumes(desk, path):
            found.setdefault(structure, []).append(volume)
    return {name: VolumeRange(min(values), max(values)) for name, values in found.items()}


def _volumes(desk: Desk, path: Path) -> Iterator[tuple[str, float]]:
    for row in desk.optional(TEACHER, path):
        for item in split_list(row["volumes_ml"]):
            structure, _, volume = item.rpartition("=")
            yield structure, float(volume)
