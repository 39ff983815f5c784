"""Random changes of training patches, on the device that trains and for a whole batch at once.

Image, target probabilities and voxel weights move through one interpolation, so partial volume stays true and whatever
comes from outside the scan has weight 0. Patches turn, grow and bend in millimetres, and nothing moves across thick slices,
between which there is nothing to interpolate. How intensities change is for each modality what its scanners do. All
randomness comes from the generator that is passed in.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.training import AugmentationConfig
from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.geometry import ANISOTROPY, Spacing, edges

MARGIN = 1.25  # how much larger than the patch the region is that is read for a rotated or zoomed-out patch
CONTROL_POINTS = 16  # voxels of the finest axis between the control points of a deformation
CT_NOISE_HU = 30.0  # largest standard deviation: a thin slice at a low dose
DARK = 1e-3  # intensities this close to the darkest of an ultrasound patch are no echo
UPTAKE_SPREAD = 0.4  # of arcsinh(uptake over the body's median) in a body, which differs by scan and is divided out

Change = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Acquisition:
    """How scans were taken: what decides which changes are believable."""

    spacing: Spacing = (1.0, 1.0, 1.0)
    """Voxel size (mm) of the grid."""
    channels: tuple[tuple[str, Normalisation], ...] = ()
    """Modality (``mr``, ``ct``, ``pet``, ``us``, ``other``) and normalisation of each; empty: all are MR."""

    @classmethod
    def of(cls, plan: Plan, modalities: Iterable[str]) -> "Acquisition":
        """What a plan says of scans with ``modalities``, in channel order."""
        return cls(plan.spacing, tuple(zip(modalities, plan.normalisation, strict=True)))


ISOTROPIC_MR = Acquisition()


def region_size(patch_size: Sequence[int]) -> tuple[int, int, int]:
    """Voxels to read around a patch for :func:`spatial`: the same on either side, so that voxels meet voxels."""
    return tuple(n + 2 * math.ceil((MARGIN - 1) / 2 * n) for n in patch_size)  # type: ignore[return-value]


def spatial(
    region: Tensor,
    patch_size: Sequence[int],
    config: AugmentationConfig,
    generator: torch.Generator,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Tensor:
    """A patch ``(B, C, *patch_size)`` of ``region`` ``(B, C, *region_size(patch_size))``, flipped and deformed.

    Rotation, zoom and deformation are those of the anatomy: they act in the millimetres of ``spacing``. An axis over three
    times as coarse as the finest stays as it is: patches turn within its slices, grow and bend within them (the
    "dummy 2D" augmentation of nnU-Net, Isensee et al. 2021).
    """
    batch, device = region.shape[0], region.device
    chance = _uniform(batch, 0, 1, generator, device)
    matrix = torch.where(
        (chance < config.affine_probability)[:, None, None],
        _random_matrices(batch, config, spacing, generator, device),
        torch.eye(3, device=device).expand(batch, 3, 3),
    )
    matrix = matrix * _random_signs(batch, config.flip_axes, generator, device)[:, None, :]
    offsets = _voxel_offsets(patch_size, device)
    moved = torch.einsum("bij,dhwj->bdhwi", matrix, offsets)
    moved = moved + _elastic(batch, patch_size, config, spacing, generator, device)
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
    batch: int,
    config: AugmentationConfig,
    spacing: Spacing,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Rotation times zoom, ``(B, 3, 3)``, mapping patch offsets to region offsets, both in voxels."""
    edge = torch.tensor(edges(spacing), device=device)
    limits = torch.tensor(config.rotation_degrees, device=device) * math.pi / 180 * _turnable(edge)
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
    zoom = torch.where(edge > ANISOTROPY, 1.0, zoom)
    return (x @ y @ z) / zoom[:, None, :] * (edge / edge[:, None])


def _turnable(edge: Tensor) -> Tensor:
    """``(3,)``: whether a turn about each axis keeps to directions of about the same voxel size."""
    others = torch.stack([edge[[axis - 2, axis - 1]] for axis in range(3)])
    return others.amax(1) <= ANISOTROPY * others.amin(1)


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
    spacing: Spacing,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """A smooth displacement (voxels), ``(B, D, H, W, 3)``, of cubic-like control points."""
    chance = _uniform(batch, 0, 1, generator, device) < config.elastic_probability
    if not chance.any():
        return torch.zeros(1, 1, 1, 1, 3, device=device)
    edge = edges(spacing)
    points = [max(2, round(n * e / CONTROL_POINTS)) for n, e in zip(patch_size, edge, strict=True)]
    reach = torch.tensor(
        [0.0 if e > ANISOTROPY else config.elastic_voxels / e for e in edge], device=device
    )
    coarse = torch.randn((batch, 3, *points), generator=generator, device=device)
    coarse = coarse * reach[:, None, None, None]
    field = F.interpolate(coarse, size=tuple(patch_size), mode="trilinear", align_corners=True)
    return (field * chance[:, None, None, None, None]).permute(0, 2, 3, 4, 1)


def intensity(
    image: Tensor,
    config: AugmentationConfig,
    generator: torch.Generator,
    acquisition: Acquisition = ISOTROPIC_MR,
) -> Tensor:
    """Random changes of intensity, each with its own chance: see :func:`_changes`. Each modality is changed by itself.

    Args:
        image: ``(B, C, D, H, W)``, about zero mean and unit variance.
    """
    channels = acquisition.channels or (("mr", Normalisation("zscore")),) * image.shape[1]
    kinds = list(dict.fromkeys(channels))
    if len(kinds) == 1:
        return _changed(image, kinds[0], config, generator, acquisition.spacing)
    result = torch.empty_like(image)
    for kind in kinds:
        own = [index for index, channel in enumerate(channels) if channel == kind]
        result[:, own] = _changed(image[:, own], kind, config, generator, acquisition.spacing)
    return result


def _changed(
    image: Tensor,
    kind: tuple[str, Normalisation],
    config: AugmentationConfig,
    generator: torch.Generator,
    spacing: Spacing,
) -> Tensor:
    """Channels ``(B, C, D, H, W)`` of one kind, changed."""
    modality, scale = kind
    before = image
    for change in _changes(modality, scale, spacing):
        chosen = (
            _uniform(image.shape[0], 0, 1, generator, image.device) < config.intensity_probability
        )
        if chosen.any():
            image = torch.where(chosen[:, None, None, None, None], change(image, generator), image)
    if modality == "ct":  # what its window cut off stays cut off
        return image.clamp(
            (scale.lower - scale.mean) / scale.std, (scale.upper - scale.mean) / scale.std
        )
    if modality == "us":  # beside the fan there is nothing that could change
        return torch.where(_dark(before), before, image)
    return image


def _changes(modality: str, scale: Normalisation, spacing: Spacing) -> tuple[Change, ...]:
    """The changes of a modality, in their order.

    MR has no unit: its contrast and brightness are arbitrary, receiver coils shade it (bias field), and its noise is that of
    the receiver. CT has no coil: no bias field; its noise has a size in Hounsfield units and the grain of the
    reconstruction. PET counts decays: its noise grows with the root of the uptake; scatter and attenuation are corrected,
    so there is no field, and no offset, for uptake begins at 0. Ultrasound interferes with itself: its noise is a
    factor (speckle), gain acts about black, and where no echo came from stays black. Of ``other`` nothing is known: as MR.
    """
    blur, low_resolution = (
        partial(_blur, spacing=spacing),
        partial(_low_resolution, spacing=spacing),
    )
    if modality == "ct":
        noise = partial(_ct_noise, sigma=CT_NOISE_HU / scale.std, spacing=spacing)
        return _contrast, _brightness, _gamma, blur, low_resolution, noise
    if modality == "pet":
        return _contrast, _gamma, blur, low_resolution, _count_noise
    if modality == "us":
        return _gain, _gamma, blur, low_resolution, partial(_speckle, spacing=spacing)
    return _contrast, _brightness, _gamma, _bias_field, blur, low_resolution, _noise


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
    coarse = (
        torch.randn((image.shape[0], 1, 3, 3, 3), generator=generator, device=image.device) * 0.2
    )
    field = F.interpolate(coarse, size=image.shape[2:], mode="trilinear", align_corners=True)
    return image * field.exp()


def _blur(image: Tensor, generator: torch.Generator, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
    """Gaussian blur of 0.5 to 1 voxel of the finest axis, the same for the batch."""
    return _smoothed(image, float(_uniform(1, 0.5, 1.0, generator, image.device)), spacing)


def _smoothed(image: Tensor, sigma: float, spacing: Spacing) -> Tensor:
    """Gaussian of ``sigma`` voxels of the finest axis, one axis after the other, thick slices left out."""
    offsets = torch.arange(-2, 3, device=image.device)
    channels = image.shape[1]
    for axis, edge in enumerate(edges(spacing)):
        if edge > ANISOTROPY:
            continue
        kernel = torch.exp(-0.5 * (offsets / (sigma / edge)) ** 2).to(image.dtype)
        kernel = kernel / kernel.sum()
        shape, pad = [1, 1, 1], [0] * 6
        shape[axis], pad[4 - 2 * axis], pad[5 - 2 * axis] = 5, 2, 2
        weights = kernel.reshape(1, 1, *shape).expand(channels, 1, *shape)
        image = F.conv3d(F.pad(image, pad, mode="replicate"), weights, groups=channels)
    return image


def _low_resolution(
    image: Tensor, generator: torch.Generator, spacing: Spacing = (1.0, 1.0, 1.0)
) -> Tensor:
    """As if taken with cubic voxels up to twice the finest edge: an axis that is as coarse already stays."""
    factor = float(_uniform(1, 0.5, 1.0, generator, image.device))
    shape = image.shape[2:]
    size = [
        max(2, round(n * min(1.0, factor * e))) for n, e in zip(shape, edges(spacing), strict=True)
    ]
    small = F.interpolate(image, size=size, mode="trilinear", align_corners=False)
    return F.interpolate(small, size=image.shape[2:], mode="trilinear", align_corners=False)


def _noise(image: Tensor, generator: torch.Generator) -> Tensor:
    sigma = _per_channel(image, 0.0, 0.2, generator)
    return image + sigma * torch.randn(image.shape, generator=generator, device=image.device)


def _ct_noise(image: Tensor, generator: torch.Generator, sigma: float, spacing: Spacing) -> Tensor:
    """Noise of up to ``sigma`` with the grain of a reconstruction: neighbours have much of it in common."""
    return image + _per_channel(image, 0.0, sigma, generator) * _grain(image, generator, spacing)


def _count_noise(image: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson-like noise of uptake ``a``, which is normalised to arcsinh(a) over its spread: the variance is proportional
    to ``a``.

    The darkest voxel of a patch is taken for no uptake.
    """
    low = image.amin((2, 3, 4), keepdim=True)
    uptake = (UPTAKE_SPREAD * (image - low)).sinh()
    sigma = _per_channel(image, 0.0, 0.3, generator)
    noise = sigma * torch.randn(image.shape, generator=generator, device=image.device)
    return (uptake + uptake.sqrt() * noise).clamp_min(0).asinh() / UPTAKE_SPREAD + low


def _gain(image: Tensor, generator: torch.Generator) -> Tensor:
    """Contrast about black: the corners beside the fan have no part in it, as they would in a mean."""
    low = image.amin((2, 3, 4), keepdim=True)
    return (image - low) * _per_channel(image, 0.7, 1.4, generator) + low


def _speckle(image: Tensor, generator: torch.Generator, spacing: Spacing) -> Tensor:
    """Multiplicative noise in grains of a few voxels: bright tissue has more of it, black has none."""
    low = image.amin((2, 3, 4), keepdim=True)
    factor = 1 + _per_channel(image, 0.0, 0.3, generator) * _grain(image, generator, spacing)
    return (image - low) * factor.clamp_min(0) + low


def _grain(image: Tensor, generator: torch.Generator, spacing: Spacing) -> Tensor:
    """Smooth noise of unit variance, of the shape of ``image``."""
    noise = _smoothed(
        torch.randn(image.shape, generator=generator, device=image.device), 0.7, spacing
    )
    return noise / noise.std((2, 3, 4), keepdim=True).clamp_min(1e-6)


def _dark(image: Tensor) -> Tensor:
    """Whether each voxel is as dark as the darkest of its patch and channel."""
    return image <= image.amin((2, 3, 4), keepdim=True) + DARK


def _per_channel(image: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    return _uniform((*image.shape[:2], 1, 1, 1), low, high, generator, image.device)


def _uniform(
    shape: int | tuple[int, ...],
    low: float,
    high: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    size = (shape,) if isinstance(shape, int) else shape
    return low + (high - low) * torch.rand(size, generator=generator, device=device)
