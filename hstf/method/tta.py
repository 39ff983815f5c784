"""Test-time augmentation (TTA): predict a scan many times and measure how much the views differ.

A scan is predicted by each ensemble member, at each scale, not mirrored and mirrored along each
axis. Let ``p`` be the mean over all these views and ``K`` the number of classes. Three maps measure
the uncertainty of a voxel, all in the range 0 to 1:

- entropy ``H = -sum_k p_k log p_k / log K``;
- scale variance ``V``: the mean over the scales of ``KL(p || p_scale)``, at most 1;
- disagreement ``D``: the mean over the members of ``sum_k |p_member,k - p_k| / 2``. A single member
  is replaced by its mirrored views.

Refinement turns the maps into voxel weights (:mod:`hstf.method.plr.weights`). The Dice between each
group of views and the mean becomes a quality feature of the case
(:mod:`hstf.method.plr.predicted_dice`).

A view is as large as the scan times the number of classes. Only the means of the groups are kept in
memory, never all views. The means of very large scans are kept on disk.
"""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import prod
from typing import IO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.imaging.probabilities import MINIMUM_PROBABILITY, entropy
from hstf.imaging.regions import Structures, class_count, membership
from hstf.imaging.slabs import slabs
from hstf.imaging.spacing import Spacing, axis_zooms
from hstf.method.sliding_window import SlidingWindow, flipped_probabilities
from hstf.method.tta_summary import Agreement, GroupDice, TtaSummary
from hstf.runtime.errors import HstfError
from hstf.scoring.confusion import table_dice

IN_MEMORY = 2**28
"""Values of a group mean that are kept in memory as float32 (1 GB). Larger ones go to disk."""
BLOCK_BYTES = 2**23
"""Zeros that are written at once where a system cannot reserve disk space."""
SLAB_VALUES = 2**21
"""Values of a group mean that are summarised at a time; about twenty such arrays exist at once."""

Groups = dict[str, dict[str, np.ndarray]]
"""Arrays by kind of group (scales, members or flips), then by name of the group."""


def predict_with_tta(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    window: SlidingWindow,
    scales: Sequence[float],
    flip_axes: Sequence[int],
    structures: Structures,
    voxel_ml: float,
) -> TtaSummary:
    """Predict ``image`` with every network at every scale, unchanged and mirrored along each axis.

    Args:
        networks: networks of the ensemble, by name.
        image: ``(C, X, Y, Z)``, normalised, on the planned grid.
        window: the sliding window.
        scales: sizes of the anatomy relative to the planned grid.
        flip_axes: axes (0, 1, 2) to mirror, one at a time.
        structures: classes of each structure whose agreement is measured.
        voxel_ml: volume of a voxel of the grid in millilitres.

    Raises:
        HstfError: if GPU memory or temporary disk space is too small.

    Example:
        >>> network = nn.Conv3d(1, 2, kernel_size=1)
        >>> window = SlidingWindow((8, 8, 8), (1, 1, 1), 0.5, 2, "off", torch.device("cpu"))
        >>> image = torch.zeros(1, 8, 8, 8)
        >>> organ = {"organ": (1,)}
        >>> summary = predict_with_tta({"seed_0": network}, image, window, [1.0], [0], organ, 0.001)
        >>> summary.probabilities.shape
        (2, 8, 8, 8)
    """
    axes: dict[str, int | None] = {"none": None}
    for axis in flip_axes:
        axes[str(axis)] = axis
    keys = {
        "scales": [str(float(scale)) for scale in scales],
        "members": list(networks),
        "flips": list(axes),
    }
    shape = (class_count(structures), *image.shape[1:])
    means = GroupMeans(keys, shape)
    for scale in scales:
        zoomed = zoom_image(image, scale, window.spacing)
        for flip, member in product(axes, networks):
            groups = {"scales": str(float(scale)), "members": member, "flips": flip}
            network = networks[member]
            # The view has no name of its own: it is freed before the next one is computed.
            means.add(
                flipped_probabilities(
                    window,
                    network,
                    zoomed,
                    axes[flip],
                    scale,
                ),
                groups,
            )
    return summarise(means, structures, voxel_ml)


def ensemble_label(
    networks: Sequence[nn.Module],
    image: Tensor,
    window: SlidingWindow,
) -> np.ndarray:
    """Return the most likely class ``(X, Y, Z)`` uint8 by the mean of ``networks``, without TTA."""
    total = window.probabilities(networks[0], image)
    # One network after the other: each result is as large as the scan times its classes.
    for network in networks[1:]:
        total += window.probabilities(network, image)
    return total.argmax(0).numpy().astype(np.uint8)


def zoom_image(
    image: Tensor,
    scale: float,
    spacing: Spacing = (1.0, 1.0, 1.0),
) -> Tensor:
    """Resample an image to ``scale`` times its size with trilinear interpolation.

    Thick slices keep their number, as in the views of cross-scale consistency
    (:func:`hstf.imaging.spacing.axis_zooms`). An image that becomes smaller is smoothed first to
    avoid aliasing, with sigma ``(1/scale - 1) / 2`` voxels, as in scikit-image.

    Args:
        image: ``(C, X, Y, Z)``.
        scale: size of the result relative to ``image``.
        spacing: voxel size of ``image`` in mm.
    """
    if scale == 1.0:
        return image
    batch = image[None].float()
    axis_scales = axis_zooms(scale, spacing)
    if scale < 1:
        axes = [axis for axis, axis_scale in enumerate(axis_scales) if axis_scale != 1]
        batch = _smoothed(batch, (1 / scale - 1) / 2, axes)
    size = []
    for voxels, axis_scale in zip(image.shape[1:], axis_scales, strict=True):
        size.append(max(1, round(voxels * axis_scale)))
    return F.interpolate(
        batch,
        size=size,
        mode="trilinear",
        align_corners=False,
    )[0]


def _smoothed(
    image: Tensor,
    sigma: float,
    axes: Sequence[int],
) -> Tensor:
    """Smooth ``image`` ``(B, C, D, H, W)`` with a Gaussian along ``axes`` (0, 1, 2).

    A weight of the kernel is the integral of the Gaussian over a voxel. The border is replicated.
    """
    radius = int(max(4 * sigma, 0.5) + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    factor = math.sqrt(0.5) / sigma
    kernel = 0.5 * ((factor * (offsets + 0.5)).erf() - (factor * (offsets - 0.5)).erf())
    channels = image.shape[1]
    for axis in axes:
        padding = [0] * 6
        padding[4 - 2 * axis : 6 - 2 * axis] = [radius, radius]  # `pad` counts axes from the last
        shape = [1] * 5
        shape[2 + axis] = len(kernel)
        weights = kernel.reshape(shape).expand(channels, *shape[1:])
        image = F.conv3d(F.pad(image, padding, mode="replicate"), weights, groups=channels)
    return image


class GroupMeans:
    """Mean probabilities of each group of views, for example of all views at scale 0.8.

    The mean of all views is the mean of the scales. Other kinds of groups are kept only if they
    have at least two groups, because the mean of a single group is the mean of all views.

    Args:
        keys: names of the groups of each kind.
        shape: ``(K, X, Y, Z)`` of the planned grid.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]], shape: tuple[int, ...]) -> None:
        """Set all means to 0."""
        self.keys = keys
        self.shape = shape
        self.weight: dict[str, float] = {}
        """Weight of a view in the mean of its group, by kind."""
        self.arrays: Groups = {}
        views = prod(len(names) for names in keys.values())
        for kind, names in keys.items():
            self.weight[kind] = len(names) / views
            if len(names) > 1 or kind == "scales":
                self.arrays[kind] = {name: _zeros(shape) for name in names}

    def add(self, probabilities: Tensor, groups: Mapping[str, str]) -> None:
        """Add a view.

        Args:
            probabilities: ``(K, ...)``; resampled to the planned grid, class by class.
            groups: the group of the view, by kind.
        """
        for index in range(self.shape[0]):
            on_grid = _resampled(probabilities[index], self.shape[1:]).numpy()
            for kind, arrays in self.arrays.items():
                arrays[groups[kind]][index] += on_grid * self.weight[kind]

    def slabs(self) -> Iterator[tuple[slice, Groups]]:
        """Yield all groups as float32, a few planes along X at a time."""
        for slab in slabs(self.shape[1:], SLAB_VALUES // self.shape[0]):
            groups: Groups = {}
            for kind, arrays in self.arrays.items():
                groups[kind] = {}
                for name, array in arrays.items():
                    groups[kind][name] = np.asarray(array[:, slab], np.float32)
            yield slab, groups


def _resampled(volume: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(volume.shape) == tuple(shape):
        return volume
    batch = volume[None, None]
    resampled = F.interpolate(
        batch,
        size=list(shape),
        mode="trilinear",
        align_corners=False,
    )
    return resampled[0, 0]


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Return zeros in memory or, above :data:`IN_MEMORY`, in an unnamed file in ``TMPDIR``."""
    if prod(shape) <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    size = 2 * prod(shape)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the memory map exists)
    # Reserve the space now: a disk that becomes full under a memory map kills the process.
    try:
        _reserve(file, size)
    except OSError as error:
        raise HstfError(
            f"{tempfile.gettempdir()}: there is no room for {size / 1e9:.1f} GB of probabilities"
            f" ({error.strerror}). Set TMPDIR to a folder with more space."
        ) from error
    return np.memmap(file, np.float16, "r+", shape=shape)


def _reserve(file: IO[bytes], size: int) -> None:
    """Reserve disk space for an empty file.

    Raises:
        OSError: if there is not enough space.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, BLOCK_BYTES):  # macOS
        file.write(bytes(min(BLOCK_BYTES, size - start)))
    file.flush()


def summarise(
    means: GroupMeans,
    structures: Structures,
    voxel_ml: float,
) -> TtaSummary:
    """Compute the mean of all views, the uncertainty maps and the agreement of the groups.

    Args:
        means: the means of the groups.
        structures: classes of each structure.
        voxel_ml: volume of a voxel in millilitres.
    """
    classes = means.shape[0]
    grid = means.shape[1:]
    probabilities = np.empty((classes, *grid), np.uint8)
    uncertainty = np.empty((3, *grid), np.uint8)
    counts = AgreementCounts.zeros(means, classes)
    for slab, groups in means.slabs():
        scales = groups["scales"].values()
        mean = _mean(scales)
        entropies = entropy(mean)
        maps = np.stack(
            [
                entropies,
                scale_variance(mean, scales),
                disagreement(mean, _disagreeing(groups)),
            ]
        )
        probabilities[:, slab] = _to_uint8(mean)
        uncertainty[:, slab] = _to_uint8(maps)
        label = probabilities[:, slab].argmax(axis=0)
        counts.add(label, maps[0], groups)
    agreement = counts.agreement(means.keys, structures, voxel_ml)
    return TtaSummary(probabilities, uncertainty, agreement)


def _mean(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean of probabilities, normalised: half precision does not sum to exactly 1."""
    total = np.sum(list(arrays), axis=0)
    return total / total.sum(axis=0, keepdims=True)


def _disagreeing(groups: Groups) -> list[np.ndarray]:
    """Return the groups whose disagreement is measured: members, or flips of a single member."""
    chosen = groups.get("members") or groups.get("flips") or {}
    return list(chosen.values())


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).clip(0, 255).astype(np.uint8)


def scale_variance(mean: np.ndarray, scales: Iterable[np.ndarray]) -> np.ndarray:
    """Return the mean over the scales of ``KL(mean || scale)``, at most 1.

    Args:
        mean: ``(K, ...)`` mean probabilities of all views.
        scales: ``(K, ...)`` mean probabilities of each scale.

    Returns:
        ``(...)``, 0 where all scales are equal.
    """
    log_mean = np.log(mean.clip(MINIMUM_PROBABILITY))
    divergences = []
    for scale in scales:
        log_scale = np.log(scale.clip(MINIMUM_PROBABILITY))
        divergences.append((mean * (log_mean - log_scale)).sum(axis=0))
    return np.mean(divergences, axis=0).clip(0, 1)


def disagreement(mean: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mean probability mass ``(...)``, 0 to 1, that members move to other classes.

    Args:
        mean: ``(K, ...)`` mean probabilities of all views.
        members: ``(K, ...)`` mean probabilities of each member; may be empty.
    """
    if not members:
        return np.zeros(mean.shape[1:], np.float32)
    moved = [0.5 * np.abs(member - mean).sum(axis=0) for member in members]
    return np.mean(moved, axis=0)


@dataclass(frozen=True)
class AgreementCounts:
    """Voxel counts by class, from which the agreement is computed."""

    voxels: np.ndarray
    """``(K,)`` voxels of each class in the mean prediction."""
    entropy: np.ndarray
    """``(K,)`` sum of the entropy over these voxels."""
    groups: Groups
    """``(K, K)`` voxels by their class in the mean prediction (row) and in the group (column)."""
    pairs: dict[tuple[str, str], np.ndarray]
    """The same for the classes by two ensemble members, for each pair of them."""

    @classmethod
    def zeros(cls, means: GroupMeans, classes: int) -> "AgreementCounts":
        """Return counts of 0 for each group of ``means``."""
        groups: Groups = {}
        for kind, arrays in means.arrays.items():
            groups[kind] = {name: np.zeros((classes, classes), np.int64) for name in arrays}
        pairs = {}
        for pair in combinations(groups.get("members", {}), 2):
            pairs[pair] = np.zeros((classes, classes), np.int64)
        return cls(np.zeros(classes), np.zeros(classes), groups, pairs)

    def add(
        self,
        label: np.ndarray,
        entropies: np.ndarray,
        groups: Groups,
    ) -> None:
        """Count the voxels of a slab.

        Args:
            label: ``(...)`` class of the mean prediction.
            entropies: ``(...)`` normalised entropy.
            groups: mean probabilities ``(K, ...)`` of each group.
        """
        classes = len(self.voxels)
        flat = label.ravel()
        self.voxels[:] += np.bincount(flat, minlength=classes)
        self.entropy[:] += np.bincount(
            flat,
            weights=entropies.ravel(),
            minlength=classes,
        )
        members: dict[str, np.ndarray] = {}
        for kind, arrays in groups.items():
            for name, array in arrays.items():
                found = array.argmax(axis=0)
                self.groups[kind][name] += _pair_counts(label, found, classes)
                if kind == "members":
                    members[name] = found
        for (first, second), counts in self.pairs.items():
            counts += _pair_counts(members[first], members[second], classes)

    def agreement(
        self,
        keys: Mapping[str, Sequence[str]],
        structures: Structures,
        voxel_ml: float,
    ) -> Agreement:
        """Compute the agreement of each group with the mean prediction.

        A structure without voxels has Dice 1 and entropy 0.

        Args:
            keys: names of the groups of each kind.
            structures: classes of each structure.
            voxel_ml: volume of a voxel in millilitres.
        """
        table = membership(structures)
        voxels = table @ self.voxels
        entropies = (table @ self.entropy) / voxels.clip(1)
        volumes = voxels * voxel_ml
        return Agreement(
            scales=self._dice("scales", keys["scales"], structures),
            members=self._dice(
                "members",
                keys["members"],
                structures,
            ),
            flips=self._dice("flips", keys["flips"], structures),
            foreground_entropy=dict(zip(structures, entropies.tolist(), strict=True)),
            volumes_ml=dict(zip(structures, volumes.tolist(), strict=True)),
            pairs=self._pairwise_dice(structures),
        )

    def _pairwise_dice(self, structures: Structures) -> dict[str, float] | None:
        """Return the mean Dice of all pairs of members; None without pairs."""
        if not self.pairs:
            return None
        rows = [table_dice(counts, structures) for counts in self.pairs.values()]
        return dict(zip(structures, np.mean(rows, axis=0).tolist(), strict=True))

    def _dice(
        self,
        kind: str,
        names: Sequence[str],
        structures: Structures,
    ) -> GroupDice:
        # The only group of a kind is the mean itself.
        if len(names) < 2:
            return {name: dict.fromkeys(structures, 1.0) for name in names}
        found: GroupDice = {}
        for name in names:
            dice = table_dice(self.groups[kind][name], structures)
            found[name] = dict(zip(structures, dice.tolist(), strict=True))
        return found


def _pair_counts(rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    """Count the voxels ``(K, K)`` of each pair of classes of two label maps."""
    pair = rows * classes + columns
    counts = np.bincount(pair.ravel(), minlength=classes * classes)
    return counts.reshape(classes, classes)
