"""Quarter turns: patches are turned by multiples of 90 degrees.

Scans whose header has lost their orientation have any of these orientations. A quarter turn keeps
the voxels if their edges in the plane are equal: nothing is interpolated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isclose

import torch
from torch import Tensor

from hstf.imaging.spacing import Spacing, Triple
from hstf.training.augmentations.draws import uniform

EDGE_TOLERANCE = 1e-3
"""Maximum relative difference of two voxel edges that are equal."""


@dataclass(frozen=True)
class QuarterTurn:
    """A turn about an axis."""

    axis: int
    quarters: int
    """Number of turns by 90 degrees, 1 to 3."""

    @property
    def plane(self) -> tuple[int, int]:
        """The axes that are turned."""
        first, second = (axis for axis in range(3) if axis != self.axis)
        return first, second

    def is_exact(self, spacing: Spacing) -> bool:
        """Return whether voxels are mapped to voxels."""
        first, second = self.plane
        is_half = self.quarters == 2
        return is_half or isclose(spacing[first], spacing[second], rel_tol=EDGE_TOLERANCE)

    def apply(self, channels: Tensor) -> Tensor:
        """Turn ``(C, X, Y, Z)`` without interpolation."""
        first, second = self.plane
        return torch.rot90(channels, self.quarters, (first + 1, second + 1))

    def size_before(self, size: Sequence[int]) -> Triple:
        """Return the size that becomes ``size`` when it is turned."""
        before = list(size)
        if self.quarters % 2:
            first, second = self.plane
            before[first], before[second] = before[second], before[first]
        x, y, z = before
        return x, y, z

    def matrix(self, spacing: Spacing) -> Tensor:
        """Return where an offset (voxels) from the centre of the turned patch comes from."""
        first, second = self.plane
        quarter = torch.eye(3)
        quarter[first, first] = quarter[second, second] = 0.0
        quarter[first, second] = spacing[second] / spacing[first]
        quarter[second, first] = -spacing[first] / spacing[second]
        return torch.linalg.matrix_power(quarter, self.quarters)


def random_quarter_turns(
    batch: int,
    axes: Sequence[int],
    generator: torch.Generator,
) -> list[tuple[QuarterTurn, ...]]:
    """Draw the turns of each patch. All positions are equally likely.

    Args:
        batch: number of patches.
        axes: axes about which patches are turned; nothing is drawn without any.
        generator: source of the random numbers.
    """
    if not axes:
        return [()] * batch
    quarters = uniform((batch, 3), 0, 4, generator).int().tolist()
    turns = []
    for of_patch in quarters:
        chosen = [QuarterTurn(axis, min(of_patch[axis], 3)) for axis in axes if of_patch[axis]]
        turns.append(tuple(chosen))
    return turns
