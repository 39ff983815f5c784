"""External teachers: mix the prediction of another model into that of the ensemble.

An external teacher knows some groups of our classes: single classes, or regions of several classes.
All else is background for it. Let ``p`` be the probabilities of the ensemble, ``U`` the probability
of the classes that the external teacher does not know, and ``e`` its probability of each group. In
our classes its prediction is

- ``q_k = p_k`` for a class that it does not know;
- ``q_k = (1 - U) e_g p_k / sum_{j in g} p_j`` for a class of the group ``g``: the ensemble divides
  the probability of a group among its classes.

Each group has a weight ``w_g``, from 0 to :data:`WEIGHTS`' maximum. The mixture is
``p_k + w_g (q_k - p_k)`` for the classes of the groups, and the background changes by the opposite
amount. Where it would become negative it is 0, and the mixture is normalised. With equal weights of
all groups, this is the weighted mean of both predictions; with weights of 0 it is ``p``.

The external teacher has learned from none of the labelled cases. Its weights are those that raise
the Dice of the mixture with out-of-fold predictions most, group by group
(:func:`choose_weight`). A group that does not raise the Dice by more than its standard error has
weight 0. Several external teachers are mixed one after the other, in the order of the
configuration: the second one into the mixture with the first one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hstf.imaging.label_values import IGNORED
from hstf.imaging.regions import ClassIndices, Structures, structure_mask
from hstf.imaging.slabs import slabs
from hstf.imaging.sparse_labels import unknown_structures
from hstf.scoring.averages import standard_error
from hstf.scoring.confusion import confusion, table_dice

WEIGHTS = (0.0, 0.25, 0.5, 0.75)
"""Weights among which the weight of a group is chosen. The ensemble always keeps a part."""
MINIMUM_GAIN = 0.002
"""A smaller gain of Dice is not worth a foreign model."""
SLAB_VALUES = 2**21
"""Values that are mixed at a time."""


@dataclass(frozen=True)
class Groups:
    """The classes that an external teacher knows."""

    members: tuple[ClassIndices, ...]
    """Class indices of each group; no class is in two groups."""
    classes: int
    """Number of all classes, with the background."""

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.members)

    @property
    def unknown(self) -> list[int]:
        """Indices of the foreground classes in no group."""
        known = {index for members in self.members for index in members}
        return [index for index in range(1, self.classes) if index not in known]


def _from_numbers(numbers: np.ndarray, groups: Groups) -> np.ndarray:
    """Return probabilities ``(G + 1, ...)`` of 0 and 1 for the numbers ``(...)`` of the groups."""
    every = np.arange(len(groups) + 1, dtype=np.uint8)
    return (numbers[None] == every.reshape(-1, *[1] * numbers.ndim)).astype(np.float32)


def _normalised(values: np.ndarray) -> np.ndarray:
    """Return probabilities ``(G + 1, ...)`` float32 that sum to 1."""
    summed = np.maximum(values.sum(axis=0, dtype=np.float32), 1)
    return values.astype(np.float32) / summed


def in_our_classes(mean: np.ndarray, external: np.ndarray, groups: Groups) -> np.ndarray:
    """Return the prediction ``(K, ...)`` of the external teacher in our classes.

    Args:
        mean: ``(K, ...)`` probabilities of the ensemble.
        external: ``(G + 1, ...)`` probabilities of the groups, the rest first.
        groups: the groups.

    Example:
        >>> mean = np.array([[0.2], [0.5], [0.3]])  # background, liver, tumour
        >>> liver = np.array([[0.0], [1.0]])  # the external teacher knows livers only
        >>> in_our_classes(mean, liver, Groups(members=((1,),), classes=3)).ravel().tolist()
        [0.0, 0.7, 0.3]
    """
    translated = np.zeros_like(mean)
    translated[groups.unknown] = mean[groups.unknown]
    rest = mean.sum(axis=0) - mean[groups.unknown].sum(axis=0)
    translated[0] = rest * external[0]
    for probability, members in zip(external[1:], groups.members, strict=True):
        indices = list(members)
        total = mean[indices].sum(axis=0)
        equal = np.full_like(mean[indices], 1 / len(indices))
        parts = np.divide(mean[indices], total, out=equal, where=total > 0)
        translated[indices] = rest * probability * parts
    return translated


def mix(
    probabilities: np.ndarray, external: np.ndarray, groups: Groups, weights: Sequence[float]
) -> np.ndarray:
    """Mix the prediction of an external teacher into that of the ensemble.

    Args:
        probabilities: ``(K, ...)`` uint8, 255 times the probability of the ensemble.
        external: ``(...)`` uint8 number of the group, from 1, and 0 for the rest; or
            ``(G + 1, ...)`` uint8, 255 times the probability of each group, the rest first.
        groups: the groups.
        weights: weight of each group.

    Returns:
        ``(K, ...)`` uint8. Voxels on which both agree do not change.

    Example:
        >>> ensemble = np.array([[153, 153], [102, 102]], np.uint8)  # 40% liver
        >>> liver = np.array([1, 0], np.uint8)  # the external teacher finds liver in one voxel
        >>> mix(ensemble, liver, Groups(((1,),), classes=2), [0.5]).tolist()
        [[76, 204], [178, 51]]
    """
    weight_of_class = np.zeros(groups.classes, np.float32)
    for weight, members in zip(weights, groups.members, strict=True):
        weight_of_class[list(members)] = weight
    mixed = np.empty_like(probabilities)
    is_soft = external.ndim == probabilities.ndim
    for slab in slabs(probabilities.shape[1:], SLAB_VALUES // groups.classes):
        mean = probabilities[:, slab].astype(np.float32)
        if is_soft:
            predicted = _normalised(external[:, slab])
        else:
            predicted = _from_numbers(external[slab], groups)
        translated = in_our_classes(mean, predicted, groups)
        change = weight_of_class.reshape(-1, *[1] * (mean.ndim - 1)) * (translated - mean)
        total = mean.sum(axis=0)
        mean += change
        mean[0] = np.maximum(mean[0] - change.sum(axis=0), 0)
        mean *= total / np.maximum(mean.sum(axis=0), 1)
        mixed[:, slab] = np.rint(mean)
    return mixed


@dataclass(frozen=True)
class CaseDice:
    """Dice of a labelled case with the ensemble and with each weight of each group."""

    ensemble: np.ndarray
    """``(S,)`` Dice of the out-of-fold prediction; NaN where it is unknown."""
    ensemble_groups: np.ndarray
    """``(G,)`` the same for each group."""
    external: np.ndarray
    """``(G,)`` Dice of the external teacher for each group; NaN where it is unknown."""
    gains: np.ndarray
    """``(G, W)`` gain of Dice if only this group has this weight, see :func:`gain`."""


def case_dice(
    probabilities: np.ndarray,
    external: np.ndarray,
    label: np.ndarray,
    groups: Groups,
    structures: Structures,
) -> CaseDice:
    """Compute the Dice of a labelled case for each weight of each group.

    Args:
        probabilities: ``(K, X, Y, Z)`` uint8, 255 times the out-of-fold probability.
        external: as in :func:`mix`.
        label: ``(X, Y, Z)`` class index, 255 where unknown.
        groups: the groups.
        structures: classes of each structure.
    """
    flat = probabilities.reshape(groups.classes, -1)
    is_soft = external.ndim > label.ndim
    flat_external = external.reshape(len(external), -1) if is_soft else external.reshape(-1)
    truth = label.reshape(-1)
    predicted = flat.argmax(axis=0).astype(np.uint8)
    counts = confusion(predicted, truth, groups.classes)
    unknown = unknown_structures(label, structures)
    before = np.where(unknown, np.nan, table_dice(counts, structures))
    gains = np.empty((len(groups), len(WEIGHTS)))
    of_external = np.empty(len(groups))
    numbers = flat_external.argmax(axis=0) if is_soft else flat_external
    for row, members in enumerate(groups.members):
        of_external[row] = _group_dice(numbers == row + 1, truth, members, label)
        # Nothing changes where both give the group no probability.
        here = flat_external[row + 1] > 0 if is_soft else flat_external == row + 1
        voxels = np.flatnonzero(here | flat[list(members)].any(axis=0))
        old = confusion(predicted[voxels], truth[voxels], groups.classes)
        part = flat_external[:, voxels] if is_soft else flat_external[voxels]
        gains[row, 0] = 0
        for column, weight in enumerate(WEIGHTS[1:], start=1):
            weights = [weight if index == row else 0.0 for index in range(len(groups))]
            new = mix(flat[:, voxels], part, groups, weights).argmax(axis=0).astype(np.uint8)
            changed = counts - old + confusion(new, truth[voxels], groups.classes)
            change = np.where(unknown, 0, table_dice(changed, structures) - before)
            own = _counted_dice(changed, members) - _counted_dice(counts, members)
            is_other = [tuple(classes) != members for classes in structures.values()]
            gains[row, column] = gain(own, change[is_other])
        if np.isnan(of_external[row]):
            gains[row] = np.nan
    return CaseDice(before, group_dice(predicted, label, groups), of_external, gains)


def gain(own: float, others: np.ndarray) -> float:
    """Return the gain of Dice of a group, less what other structures lose by it.

    What other structures win does not count: a wrong group may win voxels of the background for its
    neighbours.

    Args:
        own: change of the Dice of the group.
        others: change of the Dice of each other structure.
    """
    return own + min(0.0, float(others.sum()))


def _counted_dice(counts: np.ndarray, members: ClassIndices) -> float:
    """Return the Dice of some classes from voxel counts ``(K, K)``; 1 if both maps lack them."""
    indices = list(members)
    both = int(counts[indices].sum() + counts[:, indices].sum())
    return 2 * int(counts[np.ix_(indices, indices)].sum()) / both if both else 1.0


def group_dice(predicted: np.ndarray, label: np.ndarray, groups: Groups) -> np.ndarray:
    """Return the Dice ``(G,)`` of each group of a segmentation; NaN where it is unknown.

    Args:
        predicted: class indices of all voxels.
        label: ``(X, Y, Z)`` class index, 255 where unknown.
        groups: the groups.
    """
    dices = []
    flat = predicted.reshape(-1)
    for members in groups.members:
        found = structure_mask(flat, members)
        dices.append(_group_dice(found, label.reshape(-1), members, label))
    return np.array(dices)


def _group_dice(
    found: np.ndarray, truth: np.ndarray, members: ClassIndices, label: np.ndarray
) -> float:
    """Return the Dice of a group; NaN if a sparse label does not show it."""
    if unknown_structures(label, {"group": members})[0]:
        return float("nan")
    known = truth != IGNORED
    true = structure_mask(truth, members)
    both = int(np.count_nonzero(found & known)) + int(np.count_nonzero(true))
    return 2 * int(np.count_nonzero(found & true)) / both if both else 1.0


@dataclass(frozen=True)
class Choice:
    """The weight of a group, and why."""

    weight: float
    gain: float
    """Mean gain of Dice with the best weight above 0."""
    standard_error: float
    """Standard error of this gain over the patients."""
    best: float
    """The best weight above 0, whether it is used or not."""


def choose_weight(gains: np.ndarray, patients: Sequence[str]) -> Choice | None:
    """Choose the weight of a group by its gain on the labelled cases.

    The best weight is used if its mean gain is above its standard error and above
    :data:`MINIMUM_GAIN`. Of two weights with the same gain the lower one is taken.

    Args:
        gains: ``(cases, W)`` gain of Dice with each of :data:`WEIGHTS`; NaN for a case whose sparse
            label does not show the group.
        patients: the patient of each case.

    Returns:
        None if no case shows the group.

    Example:
        >>> helpful = np.array([[0.0, 0.10, 0.15, 0.12], [0.0, 0.08, 0.13, 0.14]])
        >>> choose_weight(helpful, ["a", "b"]).weight
        0.5
        >>> choose_weight(-helpful, ["a", "b"]).weight
        0.0
    """
    known = [index for index in range(len(gains)) if not np.isnan(gains[index]).any()]
    by_patient = []
    for patient in dict.fromkeys(patients[index] for index in known):
        rows = [index for index in known if patients[index] == patient]
        by_patient.append(gains[rows].mean(axis=0))
    if not by_patient:
        return None
    means = np.mean(by_patient, axis=0)
    best = 1 + int(means[1:].argmax())
    mean_gain = float(means[best])
    error = standard_error([float(row[best]) for row in by_patient])
    if error is None:
        # With a single patient nothing is known about the error of the gain.
        return Choice(0.0, mean_gain, float("inf"), WEIGHTS[best])
    is_useful = mean_gain > max(error, MINIMUM_GAIN)
    return Choice(WEIGHTS[best] if is_useful else 0.0, mean_gain, error, WEIGHTS[best])
