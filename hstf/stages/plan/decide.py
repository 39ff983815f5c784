"""The decisions of a plan: rules over the fingerprint, without training.

They follow nnU-Net (Isensee et al., Nature Methods 2021). Each function returns its choice and the
reason. Values that are set in the configuration are used as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from hstf.config.experiment import Config
from hstf.config.plan import PlanConfig
from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.intensity import has_spread
from hstf.imaging.spacing import ANISOTROPY, Spacing, Triple, slice_axis
from hstf.runtime.errors import HstfError
from hstf.stages.plan.fingerprint import Fingerprint
from hstf.stages.plan.intensities import ChannelIntensities
from hstf.stages.plan.orientation import in_plane_orientation

SET = "Set in the configuration."
MAXIMUM_LEVELS = 5
MINIMUM_EDGE = 4
"""Voxels that a level keeps at least along an axis that is halved."""
START_VOXELS = 256**3
"""Voxels of the patch with which the reduction starts."""
SMALL_SCAN = 64**3
"""Scans with at most this number of voxels get a patch that holds the 90th percentile shape."""
BYTES_PER_FEATURE = 48
"""Memory in training for each feature of each level: 12 float32 values, measured on the network."""
MINIMUM_BATCH = 2
MAXIMUM_BATCH = 4


@dataclass(frozen=True)
class Levels:
    """Resolution levels of the network."""

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]

    @property
    def total_stride(self) -> Triple:
        """Product of the strides along each axis; the patch size is a multiple of it."""
        x, y, z = np.prod(self.strides, axis=0)
        return int(x), int(y), int(z)

    def padded(self, shape: Triple) -> Triple:
        """Round ``shape`` up to multiples of the total stride."""
        steps = np.array(self.total_stride)
        return _triple(-(-np.array(shape) // steps) * steps)


def make_plan(config: Config, fingerprint: Fingerprint) -> Plan:
    """Make all decisions.

    Args:
        config: the sections ``plan``, ``preprocess`` and ``modalities``.
        fingerprint: properties of the scans.

    Raises:
        HstfError: if the patch size of the configuration does not allow its number of levels.
    """
    section = config.plan
    spacing, spacing_reason = target_spacing(section, fingerprint)
    shapes = grid_shapes(fingerprint, spacing)
    patch, patch_reason = patch_size(section, shapes, spacing)
    levels, levels_reason = network_levels(section, patch, spacing)
    batch, batch_reason = batch_size(section, patch, levels)
    channels = level_channels(section, levels)
    channels_reason = f"Doubled at each level from {channels[0]}, at most {section.max_channels}."
    schemes, normalisation_reasons = normalisations(config, fingerprint)
    by_slices = config.preprocess.axes == "slices"
    orientation = in_plane_orientation(fingerprint, spacing, by_slices)
    return Plan(
        spacing=spacing,
        patch_size=patch,
        batch_size=batch,
        channels=channels,
        strides=levels.strides,
        kernels=levels.kernels,
        normalisation=schemes,
        median_shape=_triple(np.median(shapes, axis=0).round()),
        flip_axes=orientation.flip_axes,
        quarter_turns=orientation.quarter_turns,
        reasons={
            "spacing": spacing_reason,
            "patch_size": patch_reason,
            "strides": levels_reason,
            "batch_size": batch_reason,
            "channels": channels_reason,
            **normalisation_reasons,
            "quarter_turns": orientation.reason,
        },
    )


def target_spacing(config: PlanConfig, fingerprint: Fingerprint) -> tuple[Spacing, str]:
    """Choose the voxel size (mm) of the grid: the median of the scans.

    A coarse axis gets the 10th percentile instead, so that thin slices stay thin.
    """
    if config.spacing is not None:
        return config.spacing, SET
    spacings = np.array([scan.spacing for scan in fingerprint.scans])
    voxels = np.median([scan.shape for scan in fingerprint.scans], axis=0)
    target = np.median(spacings, axis=0)
    reason = f"Median of {len(spacings)} scans."
    coarse = int(np.argmax(target))
    others = np.delete(np.arange(3), coarse)
    next_mm = target[others].max()
    has_coarse_voxels = target[coarse] > ANISOTROPY * next_mm
    has_few_voxels = voxels[coarse] * ANISOTROPY < voxels[others].min()
    if has_coarse_voxels and has_few_voxels:
        # Scans with thick slices across another axis are fine along this one.
        axes = [slice_axis(scan.spacing) for scan in fingerprint.scans]
        comparable = [axis in (None, coarse) for axis in axes]
        fine = float(np.percentile(spacings[comparable, coarse], 10))
        reason += (
            f" Axis {coarse} is coarse: {target[coarse]:.3g} mm compared with {next_mm:.3g} mm, and"
            f" fewer voxels. It gets the 10th percentile, {fine:.3g} mm."
        )
        target[coarse] = max(fine, next_mm)
    x, y, z = (float(f"{mm:.6g}") for mm in target)
    return (x, y, z), reason


def grid_shapes(fingerprint: Fingerprint, spacing: Spacing) -> np.ndarray:
    """Return the shapes ``(N, 3)`` of the cropped scans on the grid."""
    shapes = np.array([scan.cropped_shape for scan in fingerprint.read])
    extent = shapes * np.array([scan.spacing for scan in fingerprint.read])
    return np.maximum(1, np.rint(extent / np.array(spacing))).astype(int)


def patch_size(config: PlanConfig, shapes: np.ndarray, spacing: Spacing) -> tuple[Triple, str]:
    """Choose the patch size (voxels): a whole scan if it fits, otherwise the maximum that fits."""
    if config.patch_size is not None:
        return config.patch_size, SET
    bounds = f"max_patch_voxels ({config.max_patch_voxels}) and a memory of {config.memory_gb:g} GB"
    candidates = (
        ("90th percentile", 90, SMALL_SCAN),
        ("median", 50, config.max_patch_voxels),
    )
    for name, percentile, maximum_voxels in candidates:
        shape = _triple(np.ceil(np.percentile(shapes, percentile, axis=0)))
        patch = _levels(shape, spacing, config.stages).padded(shape)
        if prod(patch) <= maximum_voxels and _fits(config, patch, spacing):
            return patch, (
                f"Holds a scan of the {name} shape ({_written(shape)}), rounded up to the strides,"
                f" within {bounds}."
            )
    median = np.median(shapes, axis=0)
    reason = (
        f"The median scan ({_written(median)}) does not fit {bounds}. The patch has equal edges in"
        " mm within this scan. The axis that covers the maximum fraction of the scan is shortened"
        " until the patch fits."
    )
    return _reduced(config, median, spacing), reason


def _written(shape: Sequence[float] | np.ndarray) -> str:
    return "x".join(f"{size:.0f}" for size in shape)


def _reduced(config: PlanConfig, median: np.ndarray, spacing: Spacing) -> Triple:
    """Return the isotropic patch within ``median`` after shortening it until it fits.

    Each step shortens the axis along which the patch covers the maximum fraction of the scan.
    """
    edges = 1 / np.array(spacing)
    isotropic = edges * (START_VOXELS / edges.prod()) ** (1 / 3)
    shape = _triple(np.ceil(np.minimum(median, isotropic)))
    levels = _levels(shape, spacing, config.stages)
    patch = levels.padded(shape)
    while not _fits(config, patch, spacing):
        steps = levels.total_stride
        reducible = [axis for axis in range(3) if patch[axis] > steps[axis]]
        if not reducible:
            break
        axis = max(reducible, key=lambda candidate: patch[candidate] / median[candidate])
        shorter = np.array(patch)
        shorter[axis] -= steps[axis]
        shape = _triple(shorter)
        levels = _levels(shape, spacing, config.stages)
        patch = levels.padded(shape)
    return patch


def _fits(config: PlanConfig, patch: Triple, spacing: Spacing) -> bool:
    """Return whether a batch of the patch is within the limits of the configuration."""
    batch = config.batch_size or MINIMUM_BATCH
    levels = _levels(patch, spacing, config.stages)
    used_gb = batch * training_gb(config, patch, levels)
    return prod(patch) <= config.max_patch_voxels and used_gb <= config.memory_gb


def training_gb(config: PlanConfig, patch: Triple, levels: Levels) -> float:
    """Estimate the memory (GB) of the activations of a training step for one patch, in float32."""
    voxels = float(prod(patch))
    features = 0.0
    for stride, channels in zip(levels.strides, level_channels(config, levels), strict=True):
        voxels /= prod(stride)
        features += voxels * channels
    return BYTES_PER_FEATURE * features / 1e9


def level_channels(config: PlanConfig, levels: Levels) -> tuple[int, ...]:
    """Return the number of channels of each level, the finest level first."""
    count = len(levels.strides)
    return tuple(min(config.base_channels * 2**i, config.max_channels) for i in range(count))


def network_levels(config: PlanConfig, patch: Triple, spacing: Spacing) -> tuple[Levels, str]:
    """Choose strides and kernels of the levels for a patch.

    Raises:
        HstfError: if the patch cannot be halved as often as ``plan.stages`` requires.
    """
    levels = _levels(patch, spacing, config.stages, exact=True)
    required = config.stages or 2
    if len(levels.strides) < required:
        raise HstfError(
            f"plan.patch_size {patch} can be halved {len(levels.strides) - 1} times, but"
            f" {required} stages need {required - 1}. Make its edges multiples of"
            f" {2 ** (required - 1)}."
        )
    reason = f"{len(levels.strides)} levels: "
    if config.stages:
        reason += SET
    else:
        reason += (
            f"each axis is halved while it keeps {MINIMUM_EDGE} voxels,"
            f" at most {MAXIMUM_LEVELS} levels."
        )
    if any(1 in kernel for kernel in levels.kernels):
        reason += (
            " An axis that is more than twice as coarse as the finest axis is not halved and has"
            " kernel size 1 until the others are as coarse."
        )
    return levels, reason


def _levels(patch: Triple, spacing: Spacing, stages: int | None, exact: bool = False) -> Levels:
    """Return the levels of a network for a patch.

    Each level halves the axes that are within a factor of two of the finest axis that can still be
    halved.

    Args:
        patch: patch size in voxels.
        spacing: voxel size in mm.
        stages: number of levels; the axes may then be halved down to single voxels. With None it
            depends on the patch.
        exact: whether only even edges are halved.
    """
    size = np.array(patch)
    mm = np.array(spacing, dtype=float)
    minimum = 2 if stages else 2 * MINIMUM_EDGE
    strides: list[Triple] = [(1, 1, 1)]
    kernels = [_kernel(mm)]
    while len(strides) < (stages or MAXIMUM_LEVELS):
        possible = (size >= minimum) & ((size % 2 == 0) | (not exact))
        if not possible.any():
            break
        halved = possible & (mm < 2 * mm[possible].min())
        size = np.where(halved, -(-size // 2), size)
        mm = np.where(halved, 2 * mm, mm)
        strides.append(_triple(np.where(halved, 2, 1)))
        # A kernel that is 3 along an axis stays 3 in all coarser levels.
        kernels.append(_triple(np.maximum(kernels[-1], _kernel(mm))))
    return Levels(tuple(strides), tuple(kernels))


def _kernel(mm: np.ndarray) -> Triple:
    """Return 3 for the axes within a factor of two of the finest axis, and 1 for the others."""
    return _triple(np.where(mm < 2 * mm.min(), 3, 1))


def _triple(values: np.ndarray) -> Triple:
    x, y, z = values
    return int(x), int(y), int(z)


def batch_size(config: PlanConfig, patch: Triple, levels: Levels) -> tuple[int, str]:
    """Choose the number of patches in a training batch."""
    if config.batch_size is not None:
        return config.batch_size, SET
    patch_gb = training_gb(config, patch, levels)
    fitting = int(config.memory_gb / patch_gb)
    reason = (
        f"A patch needs about {patch_gb:.2g} GB in training, so that {fitting} fit in"
        f" {config.memory_gb:g} GB. The minimum is {MINIMUM_BATCH}. The maximum is"
        f" {MAXIMUM_BATCH}, because larger batches cost more time than they improve the result."
    )
    return min(max(fitting, MINIMUM_BATCH), MAXIMUM_BATCH), reason


def normalisations(
    config: Config, fingerprint: Fingerprint
) -> tuple[tuple[Normalisation, ...], dict[str, str]]:
    """Choose the normalisation of each channel by its modality.

    Returns:
        The normalisations, and their reasons by ``normalisation <channel>``.
    """
    schemes = []
    reasons = {}
    for channel, (name, kind) in enumerate(config.modalities.items()):
        intensities = ChannelIntensities.of(fingerprint, channel)
        if kind != "mask" and intensities.is_mask:
            scheme, reason = _detected_mask(intensities)
        else:
            scheme, reason = _normalisation(name, kind, fingerprint, intensities)
        schemes.append(scheme)
        reasons[f"normalisation {name}"] = reason
    return tuple(schemes), reasons


def _detected_mask(intensities: ChannelIntensities) -> tuple[Normalisation, str]:
    """Choose the normalisation of a channel whose scans are masks, whatever its modality is."""
    low, high = intensities.low, intensities.high
    return Normalisation(scheme="mask", mean=low, std=high - low), (
        "The scans have few values or are constant where they are not empty: a mask. By percentiles"
        f" of the scan it would be erased. The values {low:g} to {high:g} are mapped to 0 to 1 in"
        " all scans."
    )


def _ct_by_whole_scans(intensities: ChannelIntensities) -> tuple[Normalisation, str]:
    """Choose the normalisation of CT scans whose labelled foreground is constant."""
    lower, upper, mean, std = intensities.pooled
    if not has_spread(mean, std):
        std = 1.0  # all scans are constant
    scheme = Normalisation(scheme="ct", lower=lower, upper=upper, mean=mean, std=std)
    return scheme, (
        "CT values are absolute, but the labelled foreground has one value, to which all scans"
        f" would be clipped. They are clipped to the range of the scans, {lower:.4g} to"
        f" {upper:.4g}, and all scans have the same scale."
    )


def _normalisation(
    name: str, kind: str, fingerprint: Fingerprint, intensities: ChannelIntensities
) -> tuple[Normalisation, str]:
    """Choose the normalisation of the channel ``name`` with the modality ``kind``."""
    if kind == "mask":
        return Normalisation(scheme="mask"), (
            "A mask is left as it is; its values are not normalised and not interpolated."
        )
    if kind == "ct":
        lower, _, upper, mean, std = fingerprint.foreground[name]
        if not has_spread(mean, std):
            return _ct_by_whole_scans(intensities)
        scheme = Normalisation(scheme="ct", lower=lower, upper=upper, mean=mean, std=std)
        return scheme, (
            "CT values are absolute: they are clipped to the range of the labelled foreground,"
            f" {lower:.4g} to {upper:.4g}, and all scans have the same scale."
        )
    if kind == "pet":
        return Normalisation(scheme="uptake"), (
            "PET values start at 0 and have heavy tails, and doses and weights of patients differ:"
            " arcsinh of the value divided by the median of the body, then mean 0 and standard"
            " deviation 1 in the body. The highest values, which are the lesions, keep their order."
        )
    if kind == "us":
        return Normalisation(scheme="fan"), (
            "Gain and compression of ultrasound differ by scan: as for mr, but within the fan. Its"
            " empty corners do not count, black cysts and vessels do."
        )
    return Normalisation(scheme="zscore"), (
        f"The scale of {kind} differs by scan: values are clipped to the 0.5 to 99.5 percentiles of"
        " the scan, then mean 0 and standard deviation 1."
    )
