"""Elastic deformation: a smooth random displacement.

Soft tissue deforms, and anatomy differs between patients. Displacements are drawn at control points
at equal distances and interpolated between them. Nothing moves across thick slices.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.imaging.spacing import ANISOTROPY, Spacing, relative_spacing
from hstf.training.augmentations.draws import chosen

CONTROL_POINT_DISTANCE = 16
"""Distance between control points, in finest voxel edges."""


def random_displacements(
    batch: int,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    spacing: Spacing,
    generator: torch.Generator,
) -> list[Tensor | None]:
    """Draw the displacements (voxels) at the control points, ``(3, d, h, w)`` on the host.

    They are None for patches that are not deformed.
    """
    deformed = chosen(batch, config.elastic_probability, generator)
    if not any(deformed):
        return [None] * batch
    points = []
    sigmas = []
    for size, edge in zip(patch_size, relative_spacing(spacing), strict=True):
        points.append(max(2, round(size * edge / CONTROL_POINT_DISTANCE)))
        sigmas.append(0.0 if edge > ANISOTROPY else config.elastic_voxels / edge)
    sigma = torch.tensor(sigmas)[:, None, None, None]
    coarse = torch.randn((batch, 3, *points), generator=generator) * sigma
    return [field if flag else None for field, flag in zip(coarse, deformed, strict=True)]


def interpolated(
    displacements: Tensor,
    patch_size: Sequence[int],
) -> Tensor:
    """Interpolate displacements ``(3, d, h, w)`` to each voxel of a patch, ``(3, D, H, W)``."""
    return F.interpolate(
        displacements[None],
        size=tuple(patch_size),
        mode="trilinear",
        align_corners=True,
    )[0]
