"""The decisions of a plan, in the manner of nnU-Net (Isensee et al. 2021): rules over the fingerprint, no training.

Every function returns what it chose and why. What the configuration sets is taken as it is.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from hstf.config.experiment import Config
from hstf.config.plan import PlanConfig
from hstf.experiment.plan import Normalisation, Plan
from hstf.imaging.spacing import ANISOTROPY, Spacing, Triple
from hstf.runtime.errors import HstfError
from hstf.stages.plan.fingerprint import Fingerprint

SET = "Set in the configuration."
MAX_STAGES = 5
MIN_EDGE = 4  # voxels that a level keeps along an axis that is halved
START_VOXELS = 256**3  # the patch from which shrinking starts
SMALL = 64**3  # scans of up to so many voxels are seen whole, even the large ones of a set
BYTES_PER_FEATURE = (
    48  # kept in training for each feature of each level: 12 float32, measured on the network
)
MIN_BATCH, MAX_BATCH = 2, 4


@dataclass(frozen=True)
class Levels:
    """Resolution levels of the network."""

    strides: tuple[Triple, ...]
    kernels: tuple[Triple, ...]

    @property
    def total_stride(self) -> Triple:
        """Product of the strides along each axis: what a patch must be a multiple of."""
        return tuple(prod(stride[axis] for stride in self.strides) for axis in range(3))  # type: ignore[return-value]

    def padded(self, shape: Triple) -> Triple:
        """``shape`` rounded up to multiples of the total stride."""
        return tuple(-(-n // step) * step for n, step in zip(shape, self.total_stride, strict=True))  # type: ignore[return-value]


def make_plan(config: Config, fingerprint: Fingerprint) -> Plan:
    """All decisions.

    Raises:
        HstfError: the configuration asks for a network that its patch does not allow.
    """
    reasons: dict[str, str] = {}
    spacing, reasons["spacing"] = target_spacing(config.plan, fingerprint)
    shapes = grid_shapes(fingerprint, spacing)
    patch, reasons["patch_size"] = patch_size(config.plan, shapes, spacing)
    levels, reasons["strides"] = network_levels(config.plan, patch, spacing)
    batch, reasons["batch_size"] = batch_size(config.plan, patch, levels)
    channels = level_channels(config.plan, levels)
    reasons["channels"] = (
        f"Doubled at each level from {channels[0]}, at most {config.plan.max_channels}."
    )
    schemes, why = normalisations(config, fingerprint)
    reasons |= why
    median = tuple(int(v) for v in np.median(shapes, axis=0).round())
    return Plan(
        spacing=spacing,
        patch_size=patch,
        batch_size=batch,
        channels=channels,
        strides=levels.strides,
        kernels=levels.kernels,
        normalisation=schemes,
        median_shape=median,  # type: ignore[arg-type]
        reasons=reasons,
    )


def target_spacing(config: PlanConfig, fingerprint: Fingerprint) -> tuple[Spacing, str]:
    """Voxel size (mm) of the grid: the median; of a coarse axis the 10th percentile, so that thin slices stay thin."""
    if config.spacing is not None:
        return config.spacing, SET
    spacings = np.array([scan.spacing for scan in fingerprint.scans])
    target, reason = np.median(spacings, axis=0), f"Median of {len(spacings)} scans."
    voxels = np.median([scan.shape for scan in fingerprint.scans], axis=0)
    worst = int(np.argmax(target))
    others = np.delete(np.arange(3), worst)
    if (
        target[worst] > ANISOTROPY * target[others].max()
        and voxels[worst] * ANISOTROPY < voxels[others].min()
    ):
        fine = float(np.percentile(spacings[:, worst], 10))
        reason += (
            f" Axis {worst} is coarse ({target[worst]:.3g} mm against {target[others].max():.3g} mm, with fewer voxels):"
            f" there the 10th percentile, {fine:.3g} mm."
        )
        target[worst] = max(fine, target[others].max())
    return tuple(float(f"{v:.6g}") for v in target), reason  # type: ignore[return-value]


def grid_shapes(fingerprint: Fingerprint, spacing: Spacing) -> np.ndarray:
    """Shapes ``(N, 3)`` of the cropped scans on the grid."""
    read = fingerprint.read
    extent = np.array([scan.cropped_shape for scan in read]) * np.array(
        [scan.spacing for scan in read]
    )
    return np.maximum(1, np.rint(extent / np.array(spacing))).astype(int)


def patch_size(config: PlanConfig, shapes: np.ndarray, spacing: Spacing) -> tuple[Triple, str]:
    """Patch (voxels): whole scans where they fit, else the largest with the scans' proportions that does."""
    if config.patch_size is not None:
        return config.patch_size, SET
    bounds = f"max_patch_voxels ({config.max_patch_voxels}) and a memory of {config.memory_gb:g} GB"
    for name, quantile, most in (
        ("90th percentile", 90, SMALL),
        ("median", 50, config.max_patch_voxels),
    ):
        shape = _triple(np.ceil(np.percentile(shapes, quantile, axis=0)))
        patch = _levels(shape, spacing, config.stages).padded(shape)
        if prod(patch) <= most and _fits(config, patch, spacing):
            text = "x".join(map(str, shape))
            return (
                patch,
                f"Holds a scan of the {name} shape ({text}), rounded up to the strides, within {bounds}.",
            )
    median = np.median(shapes, axis=0)
    return _shrunk(config, median, spacing), (
        f"The median scan ({'x'.join(f'{v:.0f}' for v in median)}) does not fit {bounds}: a patch of equal edges in mm"
        " within it, shortened where it covers most of the scan until it fits."
    )


def _shrunk(config: PlanConfig, median: np.ndarray, spacing: Spacing) -> Triple:
    """The isotropic patch within ``median``, shortened step by step where it covers the largest share of the scan."""
    edges = 1 / np.array(spacing)
    shape = _triple(np.ceil(np.minimum(median, edges * (START_VOXELS / edges.prod()) ** (1 / 3))))
    levels = _levels(shape, spacing, config.stages)
    patch = levels.padded(shape)
    while not _fits(config, patch, spacing):
        steps = levels.total_stride
        shrinkable = [axis for axis in range(3) if patch[axis] > steps[axis]]
        if not shrinkable:
            break
        axis = max(shrinkable, key=lambda a: patch[a] / median[a])
        shorter = _triple(np.array(patch) - np.eye(3, dtype=int)[axis] * steps[axis])
        levels = _levels(shorter, spacing, config.stages)
        patch = levels.padded(shorter)
    return patch


def _fits(config: PlanConfig, patch: Triple, spacing: Spacing) -> bool:
    batch = config.batch_size or MIN_BATCH
    used = batch * training_gb(config, patch, _levels(patch, spacing, config.stages))
    return prod(patch) <= config.max_patch_voxels and used <= config.memory_gb


def training_gb(config: PlanConfig, patch: Triple, levels: Levels) -> float:
    """Memory (GB) of the activations that a training step keeps for one patch, in float32."""
    voxels, total = float(prod(patch)), 0.0
    for stride, channels in zip(levels.strides, level_channels(config, levels), strict=True):
        voxels /= prod(stride)
        total += voxels * channels
    return BYTES_PER_FEATURE * total / 1e9


def level_channels(config: PlanConfig, levels: Levels) -> tuple[int, ...]:
    """Channels of each level, finest first."""
    return tuple(
        min(config.base_channels * 2**i, config.max_channels) for i in range(len(levels.strides))
    )


def network_levels(config: PlanConfig, patch: Triple, spacing: Spacing) -> tuple[Levels, str]:
    """Strides and kernels of the levels for ``patch``.

    Raises:
        HstfError: the patch of the configuration cannot be halved as often as its stages want.
    """
    levels = _levels(patch, spacing, config.stages, exact=True)
    wanted = config.stages or 2
    if len(levels.strides) < wanted:
        raise HstfError(
            f"plan.patch_size {patch} can be halved {len(levels.strides) - 1} times, {wanted} stages need {wanted - 1}."
            f" Make its edges multiples of {2 ** (wanted - 1)}."
        )
    count = f"{len(levels.strides)} levels: "
    count += (
        SET
        if config.stages
        else f"each axis is halved while it keeps {MIN_EDGE} voxels, at most {MAX_STAGES} levels."
    )
    if any(1 in kernel for kernel in levels.kernels):
        count += " An axis over twice as coarse as the finest is not halved and has kernel 1 until the others catch up."
    return levels, count


def _levels(patch: Triple, spacing: Spacing, stages: int | None, exact: bool = False) -> Levels:
    """Halve the axes of ``patch`` that are within a factor of two of the finest that can still be halved.

    A wanted number of ``stages`` may go down to single voxels. With ``exact`` only even edges are halved.
    """
    size, mm = np.array(patch), np.array(spacing, dtype=float)
    least = 2 if stages else 2 * MIN_EDGE
    strides: list[Triple] = [(1, 1, 1)]
    kernels = [_kernel(mm)]
    while len(strides) < (stages or MAX_STAGES):
        possible = (size >= least) & ((size % 2 == 0) | (not exact))
        if not possible.any():
            break
        halved = possible & (mm < 2 * mm[possible].min())
        size, mm = np.where(halved, -(-size // 2), size), np.where(halved, 2 * mm, mm)
        strides.append(_triple(np.where(halved, 2, 1)))
        kernels.append(_triple(np.maximum(kernels[-1], _kernel(mm))))
    return Levels(tuple(strides), tuple(kernels))


def _kernel(mm: np.ndarray) -> Triple:
    """3 along the axes that are within a factor of two of the finest, 1 along the others."""
    return _triple(np.where(mm < 2 * mm.min(), 3, 1))


def _triple(values: np.ndarray) -> Triple:
    return tuple(int(v) for v in values)  # type: ignore[return-value]


def batch_size(config: PlanConfig, patch: Triple, levels: Levels) -> tuple[int, str]:
    """Patches in a training batch."""
    if config.batch_size is not None:
        return config.batch_size, SET
    each = training_gb(config, patch, levels)
    fitting = int(config.memory_gb / each)
    return min(max(fitting, MIN_BATCH), MAX_BATCH), (
        f"A patch takes about {each:.2g} GB in training, and {config.memory_gb:g} GB are given: {fitting} fit; at least"
        f" {MIN_BATCH}, and at most {MAX_BATCH}, beyond which a step costs more than it gains."
    )


def normalisations(
    config: Config, fingerprint: Fingerprint
) -> tuple[tuple[Normalisation, ...], dict[str, str]]:
    """The normalisation of each channel by its modality, and the reasons by ``normalisation <channel>``."""
    schemes, reasons = [], {}
    for name, kind in config.modalities.items():
        if kind == "ct":
            lower, _, upper, mean, std = fingerprint.foreground[name]
            schemes.append(Normalisation(scheme="ct", lower=lower, upper=upper, mean=mean, std=std))
            why = f"CT is absolute: clipped to the labelled foreground's {lower:.4g}..{upper:.4g}, one scale for all."
        elif kind == "pet":
            schemes.append(Normalisation(scheme="uptake"))
            why = (
                "PET counts from 0 and has heavy tails: arcsinh of the value over the body's median, as doses and weights"
                " differ, then mean 0 and spread 1 in the body; the hottest voxels, which are the lesions, keep their order."
            )
        elif kind == "us":
            schemes.append(Normalisation(scheme="fan"))
            why = (
                "Gain and compression of ultrasound differ by scan: as for mr, within the fan; its empty corners do not"
                " count, black cysts and vessels do."
            )
        else:
            schemes.append(Normalisation(scheme="zscore"))
            why = f"The scale of {kind} differs by scan: clipped to its 0.5..99.5 percentiles, then mean 0 and spread 1."
        reasons[f"normalisation {name}"] = why
    return tuple(schemes), reasons
