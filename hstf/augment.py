"""Random changes of training patches, on the device that trains and for a whole batch at once.

Image, target probabilities and voxel weights move through one interpolation, so partial volume stays true and whatever
comes from outside the scan has weight 0. All randomness comes from the generator that is passed in.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import AugmentationConfig

MARGIN = 1.25  # how much larger than the patch the region is that is read for a rotated or zoomed-out patch


def region_size(patch_size: Sequence[int]) -> tuple[int, int, int]:
    """Voxels to read around a patch for :func:`spatial`: the same on either side, so that voxels meet voxels."""
    return tuple(n + 2 * math.ceil((MARGIN - 1) / 2 * n) for n in patch_size)  # type: ignore[return-value]


def spatial(
    region: Tensor, patch_size: Sequence[int], config: AugmentationConfig, generator: torch.Generator
) -> Tensor:
    """A patch ``(B, C, *patch_size)`` of ``region`` ``(B, C, *region_size(patch_size))``, flipped and deformed."""
    batch, device = region.shape[0], region.device
    chance = _uniform(batch, 0, 1, generator, device)
    matrix = torch.where(
        (chance < config.affine_probability)[:, None, None],
        _random_matrices(batch, config, generator, device),
        torch.eye(3, device=device).expand(batch, 3, 3),
    )
    matrix = matrix * _random_signs(batch, config.flip_axes, generator, device)[:, None, :]
    offsets = _voxel_offsets(patch_size, device)
    moved = torch.einsum("bij,dhwj->bdhwi", matrix, offsets)
    moved = moved + _elastic(batch, patch_size, config, generator, device)
    return _sample(region, moved)


def _voxel_offsets(patch_size: Sequence[int], device: torch.device) -> Tensor:
    """Position of each voxel from the patch's centre, in voxels: ``(D, H, W, 3)``."""
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in patch_size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def _sample(region: Tensor, offsets: Tensor) -> Tensor:
    """Linear interpolation of ``region`` at ``offsets`` ``(B, D, H, W, 3)`` (voxels from its centre), 0 outside."""
    half = torch.tensor(region.shape[2:], device=region.device) / 2
    grid = (offsets / half).flip(-1)  # grid_sample wants the last axis first
    return F.grid_sample(
        region, grid.to(region.dtype), mode="bilinear", padding_mode="zeros", align_corners=False
    )


def _random_matrices(
    batch: int, config: AugmentationConfig, generator: torch.Generator, device: torch.device
) -> Tensor:
    """Rotation times zoom, ``(B, 3, 3)``, mapping patch offsets to region offsets."""
    limits = torch.tensor(config.rotation_degrees, device=device) * math.pi / 180
    a, b, c = ((2 * _uniform((batch, 3), 0, 1, generator, device) - 1) * limits).unbind(1)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    rows = [
        [[one, zero, zero], [zero, a.cos(), -a.sin()], [zero, a.sin(), a.cos()]],
        [[b.cos(), zero, b.sin()], [zero, one, zero], [-b.sin(), zero, b.cos()]],
        [[c.cos(), -c.sin(), zero], [c.sin(), c.cos(), zero], [zero, zero, one]],
    ]
    x, y, z = (torch.stack([torch.stack(row, -1) for row in matrix], -2) for matrix in rows)
    low, high = (math.log(s) for s in config.scale_range)
    zoom = _uniform((batch, 1), low, high, generator, device).exp()
    zoom = zoom * (1 + config.anisotropy * (2 * _uniform((batch, 3), 0, 1, generator, device) - 1))
    return (x @ y @ z) / zoom[:, None, :]


def _random_signs(
    batch: int, axes: Sequence[int], generator: torch.Generator, device: torch.device
) -> Tensor:
    signs = torch.ones(batch, 3, device=device)
    coins = _uniform((batch, 3), 0, 1, generator, device) < 0.5
    for axis in axes:
        signs[:, axis] = torch.where(coins[:, axis], -1.0, 1.0)
    return signs


def _elastic(
    batch: int,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """A smooth displacement (voxels), ``(B, D, H, W, 3)``, of cubic-like control points about 16 voxels apart."""
    chance = _uniform(batch, 0, 1, generator, device) < config.elastic_probability
    if not chance.any():
        return torch.zeros(1, 1, 1, 1, 3, device=device)
    points = [max(2, round(n / 16)) for n in patch_size]
    coarse = torch.randn((batch, 3, *points), generator=generator, device=device) * config.elastic_voxels
    field = F.interpolate(coarse, size=tuple(patch_size), mode="trilinear", align_corners=True)
    return (field * chance[:, None, None, None, None]).permute(0, 2, 3, 4, 1)


def intensity(image: Tensor, config: AugmentationConfig, generator: torch.Generator) -> Tensor:
    """Random contrast, brightness, gamma, bias field, blur, low resolution and noise, each with its own chance.

    Args:
        image: ``(B, C, D, H, W)``, about zero mean and unit variance.
    """
    for change in (_contrast, _brightness, _gamma, _bias_field, _blur, _low_resolution, _noise):
        chosen = _uniform(image.shape[0], 0, 1, generator, image.device) < config.intensity_probability
        if chosen.any():
            image = torch.where(chosen[:, None, None, None, None], change(image, generator), image)
    return image


def _contrast(image: Tensor, generator: torch.Generator) -> Tensor:
    factor = _per_channel(image, 0.7, 1.4, generator)
    mean = image.mean((2, 3, 4), keepdim=True)
    return (image - mean) * factor + mean


def _brightness(image: Tensor, generator: torch.Generator) -> Tensor:
    return image + _per_channel(image, -0.3, 0.3, generator)


def _gamma(image: Tensor, generator: torch.Generator) -> Tensor:
    low, high = image.amin((2, 3, 4), keepdim=True), image.amax((2, 3, 4), keepdim=True)
    span = (high - low).clamp_min(1e-6)
    exponent = _per_channel(image, math.log(0.7), math.log(1.5), generator).exp()
    return ((image - low) / span) ** exponent * span + low


def _bias_field(image: Tensor, generator: torch.Generator) -> Tensor:
    coarse = torch.randn((image.shape[0], 1, 3, 3, 3), generator=generator, device=image.device) * 0.2
    field = F.interpolate(coarse, size=image.shape[2:], mode="trilinear", align_corners=True)
    return image * field.exp()


def _blur(image: Tensor, generator: torch.Generator) -> Tensor:
    """Gaussian blur of 0.5 to 1 voxel, the same for the batch, one axis after the other."""
    sigma = float(_uniform(1, 0.5, 1.0, generator, image.device))
    offsets = torch.arange(-2, 3, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2).to(image.dtype)
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = 5
        weights = kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
        image = F.conv3d(image, weights, padding=[s // 2 for s in shape], groups=channels)
    return image


def _low_resolution(image: Tensor, generator: torch.Generator) -> Tensor:
    factor = float(_uniform(1, 0.5, 1.0, generator, image.device))
    size = [max(2, round(n * factor)) for n in image.shape[2:]]
    small = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    return F.interpolate(small, size=image.shape[2:], mode="trilinear", align_corners=False)


def _noise(image: Tensor, generator: torch.Generator) -> Tensor:
    sigma = _per_channel(image, 0.0, 0.2, generator)
    return image + sigma * torch.randn(image.shape, generator=generator, device=image.device)


def _per_channel(image: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return _uniform((*image.shape[:2], 1, 1, 1), low, high, generator, image.device)


def _uniform(
    shape: int | tuple[int, ...], low: float, high: float, generator: torch.Generator, device: torch.device
) -> Tensor:
    size = (shape,) if isinstance(shape, int) else shape
    return low + (high - low) * torch.rand(size, generator=generator, device=device)
