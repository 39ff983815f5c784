"""Gaussian smoothing, and noise with a grain."""

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.imaging.spacing import ANISOTROPY, Spacing, relative_spacing
from hstf.training.augmentations.draws import normal_like

RADIUS = 2
"""Voxels on each side of the centre of the kernel."""
GRAIN_SIGMA = 0.7
"""Standard deviation of the smoothing of noise, in finest voxel edges."""


def smooth(
    image: Tensor,
    sigma: float,
    spacing: Spacing,
) -> Tensor:
    """Smooth ``image`` ``(B, C, D, H, W)`` with a Gaussian, one axis after the other.

    Axes with thick slices are left out. The border is replicated: the voxels outside a patch are
    most likely similar to its last voxels, while zeros would add a rim with the mean intensity.

    Args:
        image: the patches.
        sigma: standard deviation in finest voxel edges.
        spacing: voxel size (mm).
    """
    offsets = torch.arange(-RADIUS, RADIUS + 1, device=image.device)
    channels = image.shape[1]
    for axis, edge in enumerate(relative_spacing(spacing)):
        if edge > ANISOTROPY:
            continue
        kernel = torch.exp(-0.5 * (offsets / (sigma / edge)) ** 2).to(image.dtype)
        kernel = kernel / kernel.sum()
        shape = [1, 1, 1]
        shape[axis] = len(kernel)
        weights = kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
        padded = F.pad(image, _padding(axis), mode="replicate")
        image = F.conv3d(padded, weights, groups=channels)
    return image


def _padding(axis: int) -> list[int]:
    """Return the padding for :func:`torch.nn.functional.pad`, which counts axes from the last."""
    padding = [0] * 6
    padding[4 - 2 * axis] = RADIUS
    padding[5 - 2 * axis] = RADIUS
    return padding


def grain(
    image: Tensor,
    generator: torch.Generator,
    spacing: Spacing,
) -> Tensor:
    """Draw smooth noise of unit variance and of the shape of ``image`` ``(B, C, D, H, W)``."""
    noise = smooth(normal_like(image, generator), GRAIN_SIGMA, spacing)
    return noise / noise.std((2, 3, 4), keepdim=True).clamp_min(1e-6)
