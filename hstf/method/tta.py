"""Many views of one scan (members, scales, flips): their mean, and how far they differ.

Only sums of groups of views are held, never all views; those of very large volumes lie on disk.
"""

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.layers import gaussian_1d, separable_filtering
from torch import Tensor, nn

from hstf.imaging.arrays import write_array
from hstf.imaging.geometry import Spacing, zooms
from hstf.imaging.probabilities import most_likely
from hstf.imaging.regions import Structures, class_count, membership
from hstf.method.inference import SlidingWindow, flipped_probabilities
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_json
from hstf.scoring.metrics import confusion, table_dice

IN_MEMORY = (
    2**28
)  # values of a group's mean held in memory as float32 (1 GB); larger ones go to disk as float16
SLAB_VALUES = (
    2**21
)  # values of a group summarised at a time; about twenty such arrays exist at once
SMALLEST = 1e-6  # floor of probabilities under a logarithm
COLUMNS = ("entropy", "scale_dice", "member_dice", "flip_dice", "volumes_ml")

Groups = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Views:
    """What the views of a scan say together, on the planned grid."""

    probabilities: np.ndarray
    """``(K, X, Y, Z)`` uint8, 255 times the mean probability."""
    uncertainty: np.ndarray
    """``(3, X, Y, Z)`` uint8, 255 times: normalised entropy of the mean, scale variance, disagreement."""
    agreement: dict[str, Any]
    """Dice of each scale, member, flip and snapshot with the mean, entropy and volume (ml), by structure: class or
    region."""

    def with_snapshots(self, labels: Iterable[np.ndarray], structures: Structures) -> "Views":
        """These views, with the Dice of ``labels`` ``(X, Y, Z)``, what networks said earlier in their training, if any."""
        label, classes = most_likely(self.probabilities), len(self.probabilities)
        dice = {
            str(k): table_dice(confusion(earlier, label, classes), structures).tolist()
            for k, earlier in enumerate(labels, start=1)
        }
        told = {k: dict(zip(structures, values, strict=True)) for k, values in dice.items()}
        return replace(self, agreement=self.agreement | {"snapshots": told}) if told else self

    def row(self) -> dict[str, Any]:
        """The columns :data:`COLUMNS` of a table of cases."""
        entropies = self.agreement["foreground_entropy"].values()
        volumes = self.agreement["volumes_ml"].items()
        return {
            "entropy": float(np.mean(list(entropies))),
            "scale_dice": _mean_dice(self.agreement["scales"]),
            "member_dice": _mean_dice(self.agreement["members"]),
            "flip_dice": _mean_dice(self.agreement["flips"]),
            "volumes_ml": ";".join(f"{name}={ml:.6g}" for name, ml in volumes),
        }


def _mean_dice(group: Mapping[str, Mapping[str, float]]) -> float:
    return float(np.mean([value for dices in group.values() for value in dices.values()]))


def predict_views(
    networks: Mapping[str, nn.Module],
    image: Tensor,
    window: SlidingWindow,
    scales: Sequence[float],
    flip_axes: Sequence[int],
    structures: Structures,
    voxel_ml: float,
) -> Views:
    """Predict ``image`` by every member at every scale, plain and mirrored along each axis alone.

    Args:
        networks: by member.
        image: ``(C, X, Y, Z)``, normalised, on the planned grid.
        structures: whose agreement is told.
        voxel_ml: volume of a voxel of the grid.
    """
    axes = {"none": None, **{str(axis): axis for axis in flip_axes}}
    shape = (class_count(structures), *image.shape[1:])
    means = GroupMeans(
        {"scales": [str(float(s)) for s in scales], "members": list(networks), "flips": list(axes)},
        shape,
    )
    for scale in scales:
        zoomed = zoom_image(image, scale, window.spacing)
        for flip, axis in axes.items():
            for member, network in networks.items():
                view = {"scales": str(float(scale)), "members": member, "flips": flip}
                # unnamed: what is as large as the scan times its classes is not kept while the next is made
                means.add(flipped_probabilities(window, network, zoomed, axis, scale), view)
    return summarise(means, structures, voxel_ml)


def team_label(networks: Sequence[nn.Module], image: Tensor, window: SlidingWindow) -> np.ndarray:
    """The most likely class ``(X, Y, Z)`` uint8 by the mean of ``networks`` on ``image`` as it is."""
    total = window.probabilities(networks[0], image)
    for network in networks[
        1:
    ]:  # one after the other: each is as large as the scan times its classes
        total += window.probabilities(network, image)
    return total.argmax(0).numpy().astype(np.uint8)


def zoom_image(image: Tensor, scale: float, spacing: Spacing = (1.0, 1.0, 1.0)) -> Tensor:
    """``image`` ``(C, X, Y, Z)`` of voxels of ``spacing`` (mm) resampled to ``scale`` times its size, trilinear.

    Thick slices stay as they are, as in the views that cross-scale consistency trains (:func:`hstf.imaging.geometry.zooms`).

    Smaller images are first smoothed against aliasing with sigma (1/scale - 1)/2 voxels, as in scikit-image.
    """
    if scale == 1.0:
        return image
    batch, each = image[None].float(), zooms(scale, spacing)
    if scale < 1:
        kernel, as_it_is = gaussian_1d(torch.tensor((1 / scale - 1) / 2)), torch.ones(1)
        batch = separable_filtering(
            batch, [as_it_is if z == 1 else kernel for z in each], mode="replicate"
        )
    size = [max(1, round(n * z)) for n, z in zip(image.shape[1:], each, strict=True)]
    return F.interpolate(batch, size=size, mode="trilinear", align_corners=False)[0]


class GroupMeans:
    """Mean probabilities of each group of views, such as all views at scale 0.8.

    The mean of all views is the mean of the scales. Other kinds are kept only where they have two or more groups.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]], shape: tuple[int, ...]) -> None:
        self.keys, self.shape = keys, shape
        views = prod(len(names) for names in keys.values())
        self.weight = {kind: len(names) / views for kind, names in keys.items()}
        self.arrays: Groups = {
            kind: {name: _zeros(shape) for name in names}
            for kind, names in keys.items()
            if len(names) > 1 or kind == "scales"
        }

    def add(self, probabilities: Tensor, view: Mapping[str, str]) -> None:
        """Add one view ``(K, ...)``, resampled to the grid class by class."""
        for k in range(self.shape[0]):
            on_grid = _resampled(probabilities[k], self.shape[1:]).numpy()
            for kind, arrays in self.arrays.items():
                arrays[view[kind]][k] += on_grid * self.weight[kind]

    def slabs(self) -> Iterator[tuple[slice, Groups]]:
        """All groups, some planes along X at a time, as float32."""
        step = max(1, SLAB_VALUES // (self.shape[0] * prod(self.shape[2:])))
        for start in range(0, self.shape[1], step):
            slab = slice(start, start + step)
            yield (
                slab,
                {
                    kind: {
                        name: np.asarray(array[:, slab], np.float32)
                        for name, array in arrays.items()
                    }
                    for kind, arrays in self.arrays.items()
                },
            )


def _resampled(volume: Tensor, shape: Sequence[int]) -> Tensor:
    if tuple(volume.shape) == tuple(shape):
        return volume
    return F.interpolate(
        volume[None, None], size=list(shape), mode="trilinear", align_corners=False
    )[0, 0]


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros in memory, or in an unnamed temporary file (in ``TMPDIR``) above :data:`IN_MEMORY`."""
    if prod(shape) <= IN_MEMORY:
        return np.zeros(shape, np.float32)
    file = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the memory map)
    try:  # reserved at once: a disk that fills up under a memory map kills the process
        os.posix_fallocate(file.fileno(), 0, 2 * prod(shape))
    except OSError as error:
        raise HstfError(
            f"{tempfile.gettempdir()}: no room for {2 * prod(shape) / 1e9:.1f} GB of probabilities"
            f" ({error.strerror}). Set TMPDIR to a folder with more space."
        ) from error
    return np.memmap(file, np.float16, "r+", shape=shape)


def summarise(means: GroupMeans, structures: Structures, voxel_ml: float) -> Views:
    """The mean of all views, three maps of uncertainty, and the agreement of the groups with the mean."""
    count, grid = means.shape[0], means.shape[1:]
    probabilities, uncertainty = np.empty((count, *grid), np.uint8), np.empty((3, *grid), np.uint8)
    sums = Sums.zeros(means, count)
    for slab, groups in means.slabs():
        mean = _mean(groups["scales"].values())
        maps = np.stack(
            [
                entropy(mean),
                scale_variance(mean, groups["scales"].values()),
                disagreement(mean, _spread(groups)),
            ]
        )
        probabilities[:, slab], uncertainty[:, slab] = _bytes(mean), _bytes(maps)
        sums.add(probabilities[:, slab].argmax(axis=0), maps[0], groups)
    return Views(probabilities, uncertainty, sums.agreement(means.keys, structures, voxel_ml))


def _mean(arrays: Iterable[np.ndarray]) -> np.ndarray:
    total = np.sum(list(arrays), axis=0)
    return total / total.sum(
        axis=0, keepdims=True
    )  # half precision on disk does not quite add up to one


def _spread(groups: Groups) -> list[np.ndarray]:
    return list((groups.get("members") or groups.get("flips") or {}).values())


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.rint(values * 255).clip(0, 255).astype(np.uint8)


def entropy(mean: np.ndarray) -> np.ndarray:
    """Entropy of ``mean`` ``(K, ...)`` over its largest possible value log K: ``(...)`` in 0..1."""
    return -(mean * np.log(mean.clip(SMALLEST))).sum(axis=0) / np.log(len(mean))


def scale_variance(mean: np.ndarray, scales: Iterable[np.ndarray]) -> np.ndarray:
    """Mean over scales of KL(mean || scale), at most 1: ``(...)``, 0 where all scales say the same."""
    log_mean = np.log(mean.clip(SMALLEST))
    terms = [(mean * (log_mean - np.log(scale.clip(SMALLEST)))).sum(axis=0) for scale in scales]
    return np.mean(terms, axis=0).clip(0, 1)


def disagreement(mean: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """Mean share of probability that members place elsewhere than the mean: ``(...)`` in 0..1."""
    if not members:
        return np.zeros(mean.shape[1:], np.float32)
    return np.mean([0.5 * np.abs(member - mean).sum(axis=0) for member in members], axis=0)


@dataclass(frozen=True)
class Sums:
    """Voxel counts by class, from which the agreement follows."""

    voxels: np.ndarray
    """``(K,)`` voxels that the mean gives to each class."""
    entropy: np.ndarray
    """``(K,)`` sum of the entropy over them."""
    groups: dict[str, dict[str, np.ndarray]]
    """``(K, K)`` voxels for each group, by the class of the mean (row) and of the group."""

    @classmethod
    def zeros(cls, means: GroupMeans, count: int) -> "Sums":
        groups = {
            kind: {name: np.zeros((count, count), np.int64) for name in arrays}
            for kind, arrays in means.arrays.items()
        }
        return cls(np.zeros(count), np.zeros(count), groups)

    def add(self, label: np.ndarray, entropies: np.ndarray, groups: Groups) -> None:
        """Count a slab; ``label`` is the class of the mean."""
        count = len(self.voxels)
        self.voxels[:] += np.bincount(label.ravel(), minlength=count)
        self.entropy[:] += np.bincount(label.ravel(), weights=entropies.ravel(), minlength=count)
        for kind, arrays in groups.items():
            for name, array in arrays.items():
                pairs = np.bincount(
                    (label * count + array.argmax(axis=0)).ravel(), minlength=count * count
                )
                self.groups[kind][name] += pairs.reshape(count, count)

    def agreement(
        self, keys: Mapping[str, Sequence[str]], structures: Structures, voxel_ml: float
    ) -> dict[str, Any]:
        """The content of ``agreement.json``; a structure that is nowhere has Dice 1 and entropy 0."""
        voxels, entropy = (
            membership(structures) @ values for values in (self.voxels, self.entropy)
        )
        mean_entropy = entropy / voxels.clip(1)
        return {
            **{
                kind: {name: self._dice(kind, name, structures) for name in names}
                for kind, names in keys.items()
            },
            "foreground_entropy": {
                name: float(mean_entropy[k]) for k, name in enumerate(structures)
            },
            "volumes_ml": {name: float(voxels[k] * voxel_ml) for k, name in enumerate(structures)},
        }

    def _dice(self, kind: str, name: str, structures: Structures) -> dict[str, float]:
        if len(self.groups.get(kind, {})) < 2:  # the only group is the mean
            return dict.fromkeys(structures, 1.0)
        dice = table_dice(self.groups[kind][name], structures)
        return {name: float(value) for name, value in zip(structures, dice, strict=True)}


FILES = ("probabilities.b2nd", "uncertainty.b2nd", "agreement.json")


def view_files(folder: Path) -> list[Path]:
    """The files of :func:`write_views`."""
    return [folder / name for name in FILES]


def write_views(folder: Path, views: Views, chunk: int) -> None:
    """Write ``views`` into ``folder``; ``chunk`` is the edge (voxels) of the compressed chunks."""
    write_array(folder / FILES[0], views.probabilities, chunk)
    write_array(folder / FILES[1], views.uncertainty, chunk)
    write_json(folder / FILES[2], views.agreement)
