"""Agreement of groups of TTA views with the mean of all views, counted slab by slab."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hstf.imaging.regions import Structures, membership
from hstf.method.group_means import GroupMeans, Groups
from hstf.method.tta_summary import Agreement, GroupDice
from hstf.scoring.confusion import table_dice


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
    """Count the voxels ``(K, K)`` of each pair of classes of two label maps.

    Example:
        >>> _pair_counts(np.array([0, 1, 1]), np.array([0, 0, 1]), classes=2).tolist()
        [[1, 0], [1, 1]]
    """
    pair = rows * classes + columns
    counts = np.bincount(pair.ravel(), minlength=classes * classes)
    return counts.reshape(classes, classes)
