"""Channels of a case on the planned grid, normalised."""

from collections.abc import Collection, Sequence
from math import prod

import numpy as np

from hstf.config.preprocess import PreprocessConfig
from hstf.experiment.plan import Plan
from hstf.imaging.geometry import Geometry, bounding_box, misplacement, to_ras
from hstf.imaging.intensity import field_of_view, normalise
from hstf.imaging.volumes import Volume
from hstf.runtime.errors import HstfError, join_faults, numbers

LARGE_GRID, MOST_GROWTH = (
    1 << 24,
    64,
)  # a grid of more voxels may have so many for each voxel of the scan


AFFINE_MM = 1.0  # modalities of a case may differ by this much at the corners: the most that the check lets pass


def prepare_image(
    volumes: Sequence[Volume], plan: Plan, config: PreprocessConfig, modalities: Collection[str]
) -> tuple[np.ndarray, Geometry]:
    """A scan's channels on the planned grid, normalised: the one way to the network, in training and prediction.

    Args:
        volumes: one per modality, in channel order, on the same voxels.
        modalities: their names, for messages.

    Returns:
        Float32 ``(C, X, Y, Z)``, and the geometry that leads back.

    Raises:
        HstfError: channels that are missing, lie on different voxels, or hold NaN or infinite values.
    """
    _refuse_misfits(volumes, plan, list(modalities))
    first = volumes[0]
    masks = [
        field_of_view(v.data, n.scheme) for v, n in zip(volumes, plan.normalisation, strict=True)
    ]
    box = bounding_box(to_ras(np.logical_or.reduce(masks), first.affine)) if config.crop else None
    geometry = Geometry.of(first.data.shape, first.affine, plan.spacing, box)
    _refuse_growth(geometry)
    image = np.empty((len(volumes), *geometry.grid_shape), np.float32)
    for channel, volume, mask, normalisation in zip(
        image, volumes, masks, plan.normalisation, strict=True
    ):
        cropped = np.array(geometry.cropped(volume.data), np.float32, order="C")
        normalise(cropped, geometry.cropped(mask), normalisation)
        channel[...] = geometry.crop_to_grid(cropped)
    return image, geometry


def _refuse_misfits(volumes: Sequence[Volume], plan: Plan, names: Sequence[str]) -> None:
    if not len(volumes) == len(names) == len(plan.normalisation):
        raise HstfError(
            f"{len(volumes)} images and {len(names)} modalities ({', '.join(names)}) for a plan of"
            f" {len(plan.normalisation)} channels. Give one image for each, in this order."
        )
    faults, first = [], volumes[0]
    for name, volume in zip(names, volumes, strict=True):
        if misplacement(
            volume.data.shape, volume.affine, first.data.shape, first.affine, AFFINE_MM
        ):
            faults.append(f"{name}: its voxels are not those of {names[0]}; resample it to them")
        if not np.isfinite(volume.data).all():
            faults.append(
                f"{name}: holds NaN or infinite values; replace them, by 0 outside the body"
            )
    if faults:
        raise join_faults("The images cannot be used.", faults)


def _refuse_growth(geometry: Geometry) -> None:
    """A few voxels that claim to be metres long must not fill the memory."""
    voxels, source = prod(geometry.grid_shape), prod(geometry.crop_shape)
    if voxels > max(LARGE_GRID, MOST_GROWTH * source):
        raise HstfError(
            f"voxels of {numbers(geometry.source_spacing)} mm would become {voxels} voxels of"
            f" {numbers(geometry.spacing)} mm, over {MOST_GROWTH} for each. See whether the header's voxel sizes are right."
        )
