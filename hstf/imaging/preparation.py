"""Read the images of a case, bring them to the planned grid and normalise them."""

from collections.abc import Collection, Mapping, Sequence
from math import prod
from pathlib import Path

import numpy as np

from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.affines import to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.guards import MASK
from hstf.imaging.intensity import MAXIMUM_MASK_VALUE, field_of_view, normalise
from hstf.imaging.volumes import Volume, grid_mismatch, read_image
from hstf.imaging.voxel_summaries import NON_FINITE
from hstf.runtime.errors import HstfError, join_problems, numbers

LARGE_GRID = 1 << 24
"""Number of grid voxels up to which the growth of a scan is not limited."""
MAXIMUM_GROWTH = 64
"""Maximum number of voxels of a large grid for each voxel of the scan."""
AFFINE_TOLERANCE_MM = 1.0
"""Maximum distance of the corners of two modalities: the highest tolerance of ``check``."""
UNCHANGED = Normalisation(scheme="mask")
"""The normalisation of the modality ``mask``."""


def read_images(paths: Sequence[Path], modalities: Mapping[str, str]) -> list[Volume]:
    """Read the images of a case.

    Args:
        paths: one for each modality, in channel order.
        modalities: name and kind of each modality: ct, mr, pet, us, other or mask.

    Raises:
        HstfError: as :func:`~hstf.imaging.volumes.read_image`.
    """
    kinds = modalities.values()
    return [read_image(path, kind == MASK) for path, kind in zip(paths, kinds, strict=True)]


def prepare_image(
    volumes: Sequence[Volume],
    plan: Plan,
    config: PreprocessConfig,
    modalities: Collection[str],
) -> tuple[np.ndarray, Geometry]:
    """Bring the channels of a scan to the planned grid and normalise them.

    Training and prediction both prepare their images with this function.

    Args:
        volumes: one for each modality, in channel order, on the same voxels.
        plan: spacing of the grid and normalisation of each channel.
        config: configuration section.
        modalities: names of the modalities, for error messages.

    Returns:
        Float32 ``(C, X, Y, Z)``, and the geometry of the scan on the grid.

    Raises:
        HstfError: if channels are missing, have different voxels, or have NaN or infinite values,
            or if the values of a mask are too large.
    """
    _check_volumes(volumes, plan, list(modalities))
    masks = []
    for volume, normalisation in zip(volumes, plan.normalisation, strict=True):
        masks.append(field_of_view(volume.data, normalisation.scheme))
    first = volumes[0]
    box = None
    if config.crop:
        box = bounding_box(to_ras(_scanned(masks, plan), first.affine, config.axes))
    geometry = Geometry.of(
        first.data.shape,
        first.affine,
        plan.spacing,
        box,
        config.axes,
    )
    _check_growth(geometry)
    image = np.empty((len(volumes), *geometry.grid_shape), np.float32)
    for channel, volume in enumerate(volumes):
        normalisation = plan.normalisation[channel]
        cropped = np.array(
            geometry.cropped(volume.data),
            np.float32,
            order="C",
        )
        mask = geometry.cropped(masks[channel])
        image[channel] = _normalised_on_grid(geometry, cropped, mask, normalisation)
    return image, geometry


def _scanned(
    masks: Sequence[np.ndarray],
    plan: Plan,
) -> np.ndarray:
    """Return the voxels that were scanned in any channel; masks count only if there is no scan."""
    measured = []
    for mask, normalisation in zip(masks, plan.normalisation, strict=True):
        if normalisation.scheme != "mask":
            measured.append(mask)
    return np.logical_or.reduce(measured or masks)


def _normalised_on_grid(
    geometry: Geometry,
    cropped: np.ndarray,
    mask: np.ndarray,
    normalisation: Normalisation,
) -> np.ndarray:
    """Normalise the crop of a channel, which changes in place, and resample it to the grid."""
    if normalisation.scheme == "mask":
        on_grid = geometry.mask_to_grid(cropped)
        normalise(on_grid, on_grid != 0, normalisation)
        return on_grid
    normalise(cropped, mask, normalisation)
    return geometry.crop_to_grid(cropped)


def constant_channels(
    image: np.ndarray,
    modalities: Collection[str],
) -> list[str]:
    """Describe channels of a prepared image from which a network learns nothing.

    Args:
        image: ``(C, X, Y, Z)``, normalised.
        modalities: names of the channels.

    Returns:
        Sentences without a full stop.
    """
    found = []
    for name, channel in zip(modalities, image, strict=True):
        low = channel.min()
        if low == channel.max():
            found.append(f"{name}: every voxel is {low:g} after normalisation")
    return found


def _check_volumes(
    volumes: Sequence[Volume],
    plan: Plan,
    names: Sequence[str],
) -> None:
    channels = len(plan.normalisation)
    if len(volumes) != channels or len(names) != channels:
        raise HstfError(
            f"{len(volumes)} images and {len(names)} modalities ({', '.join(names)}) for a plan of"
            f" {channels} channels. Provide one image for each channel, in this order."
        )
    problems = []
    first = volumes[0]
    for name, volume in zip(names, volumes, strict=True):
        mismatch = grid_mismatch(volume, first, AFFINE_TOLERANCE_MM)
        if mismatch:
            problems.append(f"{name}: {mismatch}, {names[0]}; {_advice(volume, first)}")
        if not np.isfinite(volume.data).all():
            problems.append(
                f"{name}: has values that are {NON_FINITE}; replace them, for example by 0"
            )
    problems += _mask_problems(volumes, plan, names)
    if problems:
        raise join_problems("The images cannot be used.", problems)


def _advice(volume: Volume, first: Volume) -> str:
    """Return what to do about an image that does not have the voxels of the first one."""
    if volume.data.shape != first.data.shape:
        return "resample it onto the same grid"
    return "if the voxels correspond one to one, copy the geometry; otherwise resample it"


def _mask_problems(
    volumes: Sequence[Volume],
    plan: Plan,
    names: Sequence[str],
) -> list[str]:
    """Describe masks whose values are too large for float16, in which they are stored."""
    problems = []
    for name, volume, normalisation in zip(names, volumes, plan.normalisation, strict=True):
        if normalisation != UNCHANGED:
            continue
        highest = float(np.abs(volume.data).max())
        if highest > MAXIMUM_MASK_VALUE:
            problems.append(
                f"{name}: a mask is left as it is, but it has values up to {highest:g}, expected at"
                f" most {MAXIMUM_MASK_VALUE}; divide it, or set its modality to other"
            )
    return problems


def _check_growth(geometry: Geometry) -> None:
    """Refuse a scan whose voxels would fill the memory, because their claimed size is absurd."""
    grid_voxels = prod(geometry.grid_shape)
    scan_voxels = prod(geometry.crop_shape)
    if grid_voxels > max(LARGE_GRID, MAXIMUM_GROWTH * scan_voxels):
        raise HstfError(
            f"voxels of {numbers(geometry.source_spacing)} mm would become {grid_voxels} voxels of"
            f" {numbers(geometry.spacing)} mm, more than {MAXIMUM_GROWTH} for each voxel."
            " Check the voxel sizes in the header of the file."
        )
