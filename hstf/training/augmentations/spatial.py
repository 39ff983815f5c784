"""Random changes of the geometry of a batch.

Image, target probabilities and voxel weights go through one linear interpolation. Hence targets
keep partial volume, and everything that comes from outside the scan has weight 0.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.imaging.spacing import Spacing, Triple
from hstf.training.augmentations.affine import random_matrices
from hstf.training.augmentations.draws import uniform
from hstf.training.augmentations.elastic import random_displacements
from hstf.training.augmentations.flip import random_flips

MARGIN = 1.25
"""Size of the region that is read for a patch, relative to the patch: room for rotation and
zoom."""


def region_size(patch_size: Sequence[int]) -> Triple:
    """Return the size (voxels) of the region that :func:`change_geometry` needs for a patch.

    The margin is the same on both sides, so that the voxels of an unchanged patch are voxels of the
    region.
    """
    return tuple(n + 2 * math.ceil((MARGIN - 1) / 2 * n) for n in patch_size)  # type: ignore[return-value]


def change_geometry(
    region: Tensor,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    generator: torch.Generator,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Tensor:
    """Sample patches ``(B, C, *patch_size)`` that are flipped, rotated, zoomed and deformed.

    Args:
        region: ``(B, C, *region_size(patch_size))``.
        patch_size: size of the patches (voxels).
        config: ranges and probabilities.
        generator: source of all random numbers, on the device of ``region``.
        spacing: voxel size (mm).
    """
    batch = region.shape[0]
    device = region.device
    # The order of the draws must stay: chance, matrices, flips, displacements.
    chance = uniform(
        (batch,),
        0,
        1,
        generator,
        device,
    )
    matrix = torch.where(
        (chance < config.affine_probability)[:, None, None],
        random_matrices(
            batch,
            config,
            spacing,
            generator,
            device,
        ),
        torch.eye(3, device=device).expand(batch, 3, 3),
    )
    matrix = (
        matrix
        * random_flips(
            batch,
            config.flip_axes,
            generator,
            device,
        )[:, None, :]
    )
    positions = torch.einsum("bij,dhwj->bdhwi", matrix, _voxel_offsets(patch_size, device))
    displacements = random_displacements(
        batch,
        patch_size,
        config,
        spacing,
        generator,
        device,
    )
    return _sample(region, positions + displacements)


def _voxel_offsets(patch_size: Sequence[int], device: torch.device) -> Tensor:
    """Return the offset ``(D, H, W, 3)`` of each voxel from the centre of the patch (voxels)."""
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in patch_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _sample(region: Tensor, offsets: Tensor) -> Tensor:
    """Interpolate ``region`` linearly at ``offsets`` ``(B, D, H, W, 3)`` from its centre (voxels).

    Outside the region, the result is 0.
    """
    half = torch.tensor(region.shape[2:], device=region.device) / 2
    grid = (offsets / half).flip(-1)  # grid_sample expects the last axis first
    return F.grid_sample(
        region,
        grid.to(region.dtype),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
