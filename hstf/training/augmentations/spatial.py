"""Random changes of the geometry of a batch.

Image, target probabilities and voxel weights go through one linear interpolation. Hence targets
keep partial volume, and everything that comes from outside the scan has weight 0.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.imaging.regions import Box
from hstf.imaging.spacing import Spacing, Triple
from hstf.runtime.devices import to_device
from hstf.training.augmentations.affine import random_matrices
from hstf.training.augmentations.draws import chosen
from hstf.training.augmentations.elastic import interpolated, random_displacements
from hstf.training.augmentations.flip import random_flips
from hstf.training.augmentations.quarter_turns import QuarterTurn, random_quarter_turns

Part = Callable[[Box], Tensor]
"""Returns the channels ``(C, ...)`` of a part of a region."""
MARGIN = 1.25
"""Size of the region that is read for a patch, relative to the patch: room for rotation and
zoom."""

ROUNDING = 1e-3
"""Part of a voxel by which an edge may be too long because of rounding."""


def region_size(
    patch_size: Sequence[int],
    quarter_turns: Sequence[int] = (),
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Triple:
    """Return the size (voxels) of the region that :class:`GeometryChange` needs for a patch.

    The margin is the same on both sides, so that the voxels of an unchanged patch are voxels of the
    region.

    Args:
        patch_size: size of the patch (voxels).
        quarter_turns: axes about which the patch may be turned by 90 degrees.
        spacing: voxel size (mm).
    """
    edges = list(patch_size)
    turned = _turned_axes(quarter_turns)
    longest_mm = max((patch_size[axis] * spacing[axis] for axis in turned), default=0.0)
    for axis in turned:
        edges[axis] = math.ceil(longest_mm / spacing[axis] - ROUNDING)
        edges[axis] += (edges[axis] - patch_size[axis]) % 2
    x, y, z = (n + 2 * math.ceil((MARGIN - 1) / 2 * n) for n in edges)
    return x, y, z


def _turned_axes(quarter_turns: Sequence[int]) -> list[int]:
    """Return the axes that may change places. Turns about two axes exchange all three."""
    if len(quarter_turns) == 1:
        return [axis for axis in range(3) if axis not in quarter_turns]
    return [0, 1, 2] if quarter_turns else []


@dataclass(frozen=True)
class GeometryChange:
    """How the geometry of a patch changes. All values are on the host."""

    mirrored: tuple[int, ...]
    """Axes (0, 1, 2) that are mirrored."""
    matrix: Tensor | None
    """Rotation and zoom ``(3, 3)``; None if there is none."""
    displacements: Tensor | None
    """Displacements (voxels) at the control points; None if the patch is not deformed."""
    turns: tuple[QuarterTurn, ...] = ()
    """Turns by multiples of 90 degrees, before the patch is mirrored."""
    spacing: Spacing = (1.0, 1.0, 1.0)
    """Voxel size (mm)."""

    @property
    def keeps_voxels(self) -> bool:
        """Whether the voxels of the patch are voxels of the region: nothing is interpolated."""
        if self.matrix is not None or self.displacements is not None:
            return False
        return all(turn.is_exact(self.spacing) for turn in self.turns)

    def apply(
        self,
        part: Part,
        size: Sequence[int],
        patch_size: Sequence[int],
    ) -> Tensor:
        """Return the changed patch ``(C, *patch_size)``.

        Args:
            part: returns the channels of a part of the region.
            size: size of the region (voxels).
            patch_size: size of the patch (voxels).
        """
        if self.keeps_voxels:
            return self._turned_and_mirrored(part, size, patch_size)
        region = part(tuple(slice(0, n) for n in size))
        return F.grid_sample(
            region[None],
            self._coordinates(size, patch_size, region.device),
            mode="bilinear",
            padding_mode="zeros",
            align_corners=False,
        )[0]

    def _turned_and_mirrored(
        self,
        part: Part,
        size: Sequence[int],
        patch_size: Sequence[int],
    ) -> Tensor:
        """Return the patch without interpolation."""
        before: Sequence[int] = patch_size
        for turn in reversed(self.turns):
            before = turn.size_before(before)
        channels = part(_middle(size, before))
        for turn in self.turns:
            channels = turn.apply(channels)
        return channels.flip([axis + 1 for axis in self.mirrored])

    def _coordinates(
        self,
        size: Sequence[int],
        patch_size: Sequence[int],
        device: torch.device,
    ) -> Tensor:
        """Return where each voxel comes from, ``(1, D, H, W, 3)``, as grid_sample expects it.

        The coordinates start at the centre of the region, in halves of its size, last axis first.
        """
        unit = (torch.tensor(size) / 2)[:, None]
        matrix = torch.eye(3) if self.matrix is None else self.matrix
        for turn in self.turns:
            matrix = matrix @ turn.matrix(self.spacing)
        directions = torch.tensor([-1.0 if axis in self.mirrored else 1.0 for axis in range(3)])
        steps = to_device((matrix * directions / unit).flip(0), device)
        offsets = [torch.arange(n, device=device) - (n - 1) / 2 for n in patch_size]
        x, y, z = (step[:, None] * offset for step, offset in zip(steps.T, offsets, strict=True))
        coordinates = x[:, :, None, None] + y[:, None, :, None] + z[:, None, None, :]
        if self.displacements is not None:
            relative = (self.displacements / unit[..., None, None]).flip(0)
            coordinates = coordinates + interpolated(to_device(relative, device), patch_size)
        return coordinates.permute(1, 2, 3, 0)[None]


def draw_geometry(
    batch: int,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    generator: torch.Generator,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> list[GeometryChange]:
    """Draw how each of ``batch`` patches is flipped, turned, rotated, zoomed and deformed.

    Args:
        batch: number of patches.
        patch_size: size of the patches (voxels).
        config: ranges and probabilities.
        generator: source of all random numbers, on the host.
        spacing: voxel size (mm).
    """
    # The order of the draws must stay: choice, matrices, flips, displacements, quarter turns.
    turned = chosen(batch, config.affine_probability, generator)
    matrices = random_matrices(batch, config, spacing, generator)
    mirrored = random_flips(batch, config.mirrored_axes, generator)
    displacements = random_displacements(batch, patch_size, config, spacing, generator)
    turns = random_quarter_turns(batch, config.quarter_turns or (), generator)
    changes = []
    for index in range(batch):
        matrix = matrices[index] if turned[index] else None
        change = GeometryChange(
            mirrored[index], matrix, displacements[index], turns[index], spacing
        )
        changes.append(change)
    return changes


def _middle(size: Sequence[int], patch_size: Sequence[int]) -> Box:
    """Return the position of a patch in the middle of a region.

    Raises:
        ValueError: if the patch is larger than the region.
    """
    box = []
    for whole, edge in zip(size, patch_size, strict=True):
        if edge > whole:
            raise ValueError(f"a patch of {tuple(patch_size)} voxels in a region of {tuple(size)}")
        start = (whole - edge) // 2
        box.append(slice(start, start + edge))
    return tuple(box)
