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
from hstf.training.augmentations.draws import uniform

CONTROL_POINT_DISTANCE = 16
"""Distance between control points, in finest voxel edges."""


def random_displacements(
    batch: int,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    spacing: Spacing,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw displacements (voxels) ``(B, D, H, W, 3)``, or zeros ``(1, 1, 1, 1, 3)``."""
    chosen = (
        uniform(
            (batch,),
            0,
            1,
            generator,
            device,
        )
        < config.elastic_probability
    )
    if not chosen.any():
        return torch.zeros(
            1,
            1,
            1,
            1,
            3,
            device=device,
        )
    points = []
    sigmas = []
    for size, edge in zip(patch_size, relative_spacing(spacing), strict=True):
        points.append(max(2, round(size * edge / CONTROL_POINT_DISTANCE)))
        sigmas.append(0.0 if edge > ANISOTROPY else config.elastic_voxels / edge)
    sigma = torch.tensor(sigmas, device=device)
    coarse = torch.randn((batch, 3, *points), generator=generator, device=device)
    coarse = coarse * sigma[:, None, None, None]
    field = F.interpolate(
        coarse,
        size=tuple(patch_size),
        mode="trilinear",
        align_corners=True,
    )
    return (field * chosen[:, None, None, None, None]).permute(0, 2, 3, 4, 1)
