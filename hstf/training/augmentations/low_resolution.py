"""Low resolution: the patch is sampled on a coarser grid and back.

Scans of other protocols have fewer, larger voxels. The simulated voxels are cubes with up to twice
the finest edge. An axis that is as coarse already stays as it is.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.imaging.spacing import relative_spacing
from hstf.training.augmentations.acquisition import ChannelKind
from hstf.training.augmentations.draws import uniform_number


def low_resolution(
    image: Tensor,
    generator: torch.Generator,
    kind: ChannelKind,
) -> Tensor:
    """Lower the resolution of ``image`` ``(B, C, D, H, W)``, by the same factor for the batch."""
    factor = uniform_number(
        0.5,
        1.0,
        generator,
    )
    size = []
    for voxels, edge in zip(image.shape[2:], relative_spacing(kind.spacing), strict=True):
        size.append(max(2, round(voxels * min(1.0, factor * edge))))
    small = F.interpolate(
        image,
        size=size,
        mode="trilinear",
        align_corners=False,
    )
    return F.interpolate(
        small,
        size=image.shape[2:],
        mode="trilinear",
        align_corners=False,
    )
