"""What the ensemble found out about a case: mean probabilities, uncertainty and agreement.

The ensemble predicts a case several times: with each member, at several scales and mirrored along
several axes (test-time augmentation, TTA). A :class:`TtaSummary` holds the mean of these views, the
three uncertainty maps of :mod:`hstf.method.uncertainty`, and the Dice between each group of views
and the mean. The stages ``warmup`` and ``teacher`` write it, ``calibrate`` and ``refine`` read it.
This module does not import torch, so that these stages start fast.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hstf.imaging.arrays import read_array, write_array
from hstf.imaging.probabilities import most_likely
from hstf.imaging.regions import Structures
from hstf.runtime.documents import Document
from hstf.scoring.confusion import confusion, table_dice

PROBABILITIES = "probabilities.b2nd"
UNCERTAINTY = "uncertainty.b2nd"
AGREEMENT = "agreement.json"

ENTROPY = 0
"""Channel of the normalised entropy in :attr:`TtaSummary.uncertainty`."""
SCALE_VARIANCE = 1
"""Channel of the variance across scales in :attr:`TtaSummary.uncertainty`."""
DISAGREEMENT = 2
"""Channel of the disagreement of the ensemble members in :attr:`TtaSummary.uncertainty`."""

GroupDice = dict[str, dict[str, float]]
"""Dice of each group of views with the mean of all views: by group, then by structure."""


class Agreement(Document):
    """How well groups of TTA views agree with the mean of all views (``agreement.json``).

    A structure that neither the group nor the mean contains has Dice 1.
    """

    stage = "teacher"

    scales: GroupDice
    """For each scale, the views of all members and flips at this scale."""
    members: GroupDice
    """For each ensemble member, its views."""
    flips: GroupDice
    """For each mirrored axis (``none``: not mirrored), the views of all members and scales."""
    foreground_entropy: dict[str, float]
    """Mean normalised entropy (0 to 1) of the voxels of each structure."""
    volumes_ml: dict[str, float]
    """Volume of each structure in the mean prediction."""
    snapshots: GroupDice | None = None
    """For each earlier training step, the ensemble as it was then; None without snapshots."""

    pairs: dict[str, float] | None = None
    """Mean Dice of all pairs of ensemble members, by structure; None for a single member."""

    def to_json(self) -> dict[str, Any]:
        """Convert the document to plain JSON values; without what there is none of."""
        return self.model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class TtaSummary:
    """Summary of all TTA views of a case on the planned grid."""

    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, 255 times the mean probability, not calibrated."""
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8, 255 times: normalised entropy, scale variance, disagreement."""
    agreement: Agreement

    @property
    def scale_variance(self) -> np.ndarray:
        """``(X, Y, Z)`` uint8, 255 times the variance across scales."""
        return self.uncertainty[SCALE_VARIANCE]

    def with_snapshots(self, labels: Iterable[np.ndarray], structures: Structures) -> "TtaSummary":
        """Return the summary with the Dice between the mean prediction and earlier predictions.

        Networks that still change their prediction at the end of the training are less reliable on
        the case (stability, as in ST++, Yang et al., CVPR 2022).

        Args:
            labels: predictions ``(X, Y, Z)`` of the ensemble at earlier training steps, oldest
                first; may be empty.
            structures: classes of each structure.
        """
        label = most_likely(self.probabilities)
        classes = len(self.probabilities)
        snapshots: GroupDice = {}
        for number, earlier in enumerate(labels, start=1):
            dice = table_dice(confusion(earlier, label, classes), structures)
            snapshots[str(number)] = dict(zip(structures, dice.tolist(), strict=True))
        if not snapshots:
            return self
        agreement = self.agreement.model_copy(update={"snapshots": snapshots})
        return replace(self, agreement=agreement)

    def row(self) -> dict[str, Any]:
        """Return the columns of the summary in the table of cases."""
        agreement = self.agreement
        volumes = [f"{name}={volume:.6g}" for name, volume in agreement.volumes_ml.items()]
        return {
            "entropy": float(np.mean(list(agreement.foreground_entropy.values()))),
            "scale_dice": _mean_dice(agreement.scales),
            "member_dice": _mean_dice(agreement.members),
            "flip_dice": _mean_dice(agreement.flips),
            "volumes_ml": ";".join(volumes),
        }

    @staticmethod
    def files(folder: Path) -> list[Path]:
        """Return the files that :meth:`save` writes."""
        return [
            folder / PROBABILITIES,
            folder / UNCERTAINTY,
            folder / AGREEMENT,
        ]

    def save(self, folder: Path, chunk: int) -> None:
        """Write the files of a case.

        Args:
            folder: folder of the case.
            chunk: edge length of the compressed chunks of the arrays in voxels.
        """
        write_array(
            folder / PROBABILITIES,
            self.probabilities,
            chunk,
        )
        write_array(
            folder / UNCERTAINTY,
            self.uncertainty,
            chunk,
        )
        self.agreement.save(folder / AGREEMENT)

    @classmethod
    def load(cls, folder: Path) -> "TtaSummary":
        """Read the files of a case.

        Raises:
            HstfError: if a file is missing or damaged.

        Example:
            >>> import tempfile
            >>> values = {"members": {}, "flips": {}, "foreground_entropy": {}, "volumes_ml": {}}
            >>> agreement = Agreement(scales={"1.0": {"organ": 0.9}}, **values)
            >>> maps = np.zeros((3, 8, 8, 8), np.uint8)
            >>> folder = Path(tempfile.mkdtemp())
            >>> TtaSummary(maps, maps, agreement).save(folder, chunk=8)
            >>> TtaSummary.load(folder).agreement.scales
            {'1.0': {'organ': 0.9}}
        """
        return cls(
            read_array(folder / PROBABILITIES),
            read_array(folder / UNCERTAINTY),
            Agreement.load(folder / AGREEMENT),
        )


def _mean_dice(groups: GroupDice) -> float:
    values: list[float] = []
    for dice in groups.values():
        values.extend(dice.values())
    return float(np.mean(values))
