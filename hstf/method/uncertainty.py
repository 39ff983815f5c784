"""Uncertainty of a voxel: how much the views of the ensemble differ.

Let ``p`` be the mean over all TTA views and ``K`` the number of classes. Three maps, all in the
range 0 to 1:

- entropy ``H = -sum_k p_k log p_k / log K``;
- scale variance ``V``: the mean over the scales of ``KL(p || p_scale)``, at most 1;
- disagreement ``D``: the mean over the members of ``sum_k |p_member,k - p_k| / 2``. A single member
  is replaced by its mirrored views.

Refinement turns the maps into voxel weights (:mod:`hstf.method.plr.weights`).
"""

from collections.abc import Iterable, Sequence

import numpy as np

from hstf.imaging.probabilities import MINIMUM_PROBABILITY, entropy
from hstf.imaging.regions import Structures
from hstf.method.group_means import GroupMeans, Groups
from hstf.method.tta_summary import TtaSummary
from hstf.method.view_agreement import AgreementCounts


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

    Example:
        >>> members = [np.array([1.0, 0.0]), np.array([0.5, 0.5])]
        >>> float(disagreement(np.array([0.75, 0.25]), members))
        0.25
    """
    if not members:
        return np.zeros(mean.shape[1:], np.float32)
    moved = [0.5 * np.abs(member - mean).sum(axis=0) for member in members]
    return np.mean(moved, axis=0)
