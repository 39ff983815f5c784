"""Bring the images of a case to the planned grid and normalise them."""

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.plan import Plan
from hstf.imaging.affines import geometry_mismatch, to_ras
from hstf.imaging.geometry import Geometry, bounding_box
from hstf.imaging.intensity import field_of_view, normalise
from hstf.imaging.volumes import Volume
from hstf.runtime.errors import HstfError, join_problems, numbers

LARGE_GRID = 1 << 24
"""Number of grid voxels up to which the growth of a scan is not limited."""
MAXIMUM_GROWTH = 64
"""Maximum number of voxels of a large grid for each voxel of the scan."""
AFFINE_TOLERANCE_MM = 1.0
"""Maximum distance of the corners of two modalities: the highest tolerance of ``check``."""


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
        HstfError: if channels are missing, have different voxels, or have NaN or infinite values.
    """
    _check_volumes(volumes, plan, list(modalities))
    masks = []
    for volume, normalisation in zip(volumes, plan.normalisation, strict=True):
        masks.append(field_of_view(volume.data, normalisation.scheme))
    first = volumes[0]
    box = None
    if config.crop:
        scanned = np.logical_or.reduce(masks)
        box = bounding_box(to_ras(scanned, first.affine))
    geometry = Geometry.of(
        first.data.shape,
        first.affine,
        plan.spacing,
        box,
    )
    _check_growth(geometry)
    image = np.empty((len(volumes), *geometry.grid_shape), np.float32)
    for channel, volume in enumerate(volumes):
        cropped = np.array(
            geometry.cropped(volume.data),
            np.float32,
            order="C",
        )
        mask = geometry.cropped(masks[channel])
        normalise(cropped, mask, plan.normalisation[channel])
        image[channel] = geometry.crop_to_grid(cropped)
    return image, geometry


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
        if geometry_mismatch(
            volume.data.shape, volume.affine, first.data.shape, first.affine, AFFINE_TOLERANCE_MM
        ):
            problems.append(f"{name}: its voxels differ from those of {names[0]}; resample it")
        if not np.isfinite(volume.data).all():
            problems.append(f"{name}: has NaN or infinite values; replace them, for example by 0")
    if problems:
        raise join_problems("The images cannot be used.", problems)


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
