"""Anatomy rules: change a segmentation so that it looks like the labelled cases.

The labelled cases show the anatomy of each structure (:mod:`hstf.method.plr.anatomy`): number,
size, contact and holes of its components. Pseudo-labels and final segmentations are changed to obey
these rules. This is the post-processing of nnU-Net (Isensee et al., Nature Methods 2021) with rules
that are learned from labels; no anatomy is written in the code. A rule that clearly lowers the Dice
of the out-of-fold predictions is not applied.

Voxels that are removed from a region get the most likely class outside of the region. For example,
a false spot of enhancing tumour becomes necrosis, oedema or background.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hstf.imaging.probabilities import make_certain, most_likely
from hstf.imaging.regions import ClassIndices, Structures, class_count, structure_mask
from hstf.method.plr.anatomy import AnatomyRule, structure_boxes
from hstf.method.plr.bridges import split_at_bridges
from hstf.method.plr.holes import find_holes
from hstf.method.plr.structure_components import contact_fractions, label_components
from hstf.runtime.documents import Part

Targets = Mapping[int, Sequence[int]]
"""Classes that may replace each class."""


class AnatomyRules(Part):
    """Rules that segmentations are changed to obey."""

    classes: dict[str, ClassIndices]
    """Class indices of each structure."""
    rules: dict[str, AnatomyRule]
    """Rule of each structure. A structure without a rule is not changed."""

    def apply_to_label(
        self,
        label: np.ndarray,
        probabilities: np.ndarray,
        voxel_mm3: float,
    ) -> np.ndarray:
        """Remove surplus components and fill holes.

        Args:
            label: ``(X, Y, Z)`` uint8 class index.
            probabilities: ``(K, X, Y, Z)``, in any range.
            voxel_mm3: volume of a voxel in mm³.

        Returns:
            ``(X, Y, Z)`` uint8 class index.

        Example:
            >>> rule = AnatomyRule(
            ...     maximum_components=1, minimum_mm3=2.0, has_holes=False, may_be_absent=False
            ... )
            >>> rules = AnatomyRules(classes={"organ": (1,)}, rules={"organ": rule})
            >>> label = np.zeros((8, 8, 8), np.uint8)
            >>> label[1:4, 1:4, 1:4] = 1  # the organ
            >>> label[2, 2, 2] = 0  # a hole in it
            >>> label[6, 6, 6] = 1  # a false component
            >>> probabilities = np.stack([label == 0, label == 1]).astype(float)
            >>> cleaned = rules.apply_to_label(label, probabilities, voxel_mm3=1.0)
            >>> int(cleaned[2, 2, 2]), int(cleaned[6, 6, 6])
            (1, 0)
        """
        kept = keep_components(
            label,
            probabilities,
            self.classes,
            self.rules,
            voxel_mm3,
        )
        return fill_holes(kept, self.classes, self.rules)

    def apply_to_probabilities(self, probabilities: np.ndarray, voxel_mm3: float) -> None:
        """Make ``probabilities`` certain, in place, where their most likely class breaks a rule.

        Args:
            probabilities: ``(K, X, Y, Z)``, in the range 0 to 1.
            voxel_mm3: volume of a voxel in mm³.
        """
        label = most_likely(probabilities)
        cleaned = self.apply_to_label(
            label,
            probabilities,
            voxel_mm3,
        )
        make_certain(
            probabilities,
            cleaned,
            cleaned != label,
            1,
        )


def keep_components(
    label: np.ndarray,
    probabilities: np.ndarray,
    structures: Structures,
    rules: Mapping[str, AnatomyRule],
    voxel_mm3: float,
) -> np.ndarray:
    """Remove the components that break the rule of their structure.

    The largest components stay, up to the maximum number. At least one stays, however small, unless
    labelled cases lack the structure. A component that touches other structures less than any
    labelled one counts as smaller by that factor: a false ventricle in the chest wall may be larger
    than the true one, but it is not surrounded by a heart. Pieces that hang on a thin bridge count
    as components, if no labelled case has such a bridge (:mod:`hstf.method.plr.bridges`).

    The removed voxels get the most likely class outside of the structure. This may create fragments
    of other structures, which are removed in a second pass. Their voxels only leave the structure
    of the fragment and stay in their other structures: a fragment of tumour core becomes oedema.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        probabilities: ``(K, X, Y, Z)``, in any range.
        structures: classes of each structure.
        rules: rule of each structure that is changed. A structure that no labelled case has
            (``maximum_components`` is 0) is not changed, because nothing is known about it.
        voxel_mm3: volume of a voxel in mm³.

    Returns:
        ``(X, Y, Z)`` uint8 class index.
    """
    cleaned = label
    for targets in (classes_outside, classes_below):
        before = cleaned
        cleaned = before.copy()
        for name, box in structure_boxes(before, structures).items():
            if name not in rules:
                continue
            current = before[box]
            inside = structure_mask(current, structures[name])
            others = (current > 0) & ~inside
            unchanged = current == label[box]
            surplus = _surplus_voxels(
                inside,
                unchanged,
                others,
                rules[name],
                voxel_mm3,
            )
            likely = probabilities[(slice(None), *box)]
            reassign_voxels(
                cleaned[box],
                surplus,
                likely,
                targets(name, structures),
            )
    return cleaned


def classes_outside(name: str, structures: Structures) -> Targets:
    """Return, for each class of the structure ``name``, all classes that are not in it."""
    inside = structures[name]
    others = [index for index in range(class_count(structures)) if index not in inside]
    return dict.fromkeys(inside, others)


def classes_below(name: str, structures: Structures) -> Targets:
    """Return, for each class of ``name``, the classes that only lose this structure.

    They are in as many of the other structures of the class as possible, and in no further one.
    """
    holders: list[set[str]] = []
    for index in range(class_count(structures)):
        holders.append({other for other, classes in structures.items() if index in classes})
    targets = {}
    for index in structures[name]:
        remaining = holders[index] - {name}
        below = [other for other, held in enumerate(holders) if held <= remaining]
        maximum = max(len(holders[other]) for other in below)
        targets[index] = [other for other in below if len(holders[other]) == maximum]
    return targets


def reassign_voxels(
    label: np.ndarray,
    voxels: np.ndarray,
    probabilities: np.ndarray,
    targets: Targets,
) -> None:
    """Assign voxels to the most likely of their target classes, in place.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        voxels: ``(X, Y, Z)`` bool, the voxels to change.
        probabilities: ``(K, X, Y, Z)``, in any range.
        targets: classes that may replace each class. Voxels of other classes are not changed.
    """
    for index, classes in targets.items():
        chosen = voxels & (label == index)
        candidates = np.stack([probabilities[target][chosen] for target in classes])
        label[chosen] = np.array(classes, np.uint8)[candidates.argmax(axis=0)]


def fill_holes(
    label: np.ndarray,
    structures: Structures,
    rules: Mapping[str, AnatomyRule],
) -> np.ndarray:
    """Fill holes in structures that have no holes in any labelled case.

    A hole is background that does not reach a face of the volume. It is filled with the class that
    it touches most, if one of the regions of this class never has holes.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        structures: classes of each structure.
        rules: rule of each structure that is changed.

    Returns:
        ``(X, Y, Z)`` uint8 class index.
    """
    filled_classes: set[int] = set()
    for name, rule in rules.items():
        if not rule.has_holes and rule.maximum_components:
            filled_classes.update(structures[name])
    box, owners, holes = find_holes(label)
    to_fill = np.isin(owners, list(filled_classes))
    new_class = np.where(to_fill, owners, 0).astype(np.uint8)
    filled = label.copy()
    if new_class.any():
        target = new_class[holes]
        inner = filled[box]
        inner[target > 0] = target[target > 0]
    return filled


def _surplus_voxels(
    inside: np.ndarray,
    unchanged: np.ndarray,
    others: np.ndarray,
    rule: AnatomyRule,
    voxel_mm3: float,
) -> np.ndarray:
    """Return the voxels of the components that are too small or too many.

    Args:
        inside: ``(X, Y, Z)`` bool, the structure.
        unchanged: bool, voxels that no earlier step has changed. Components without such voxels
            are removed first, however large they are.
        others: bool, the other structures.
        rule: rule of the structure.
        voxel_mm3: volume of a voxel in mm³.
    """
    if not rule.maximum_components:
        return np.zeros_like(inside)
    components, sizes = label_components(inside)
    if rule.cut_bridges:
        components, sizes = split_at_bridges(components, sizes, rule.maximum_components)
    large = sizes * voxel_mm3 >= rule.minimum_mm3
    rank = np.where(large, sizes, 0.0)
    # Only large components are measured: there may be millions of tiny ones.
    if rule.contact > 0 and large.sum() > 1:
        numbers = np.zeros(len(sizes) + 1, np.uint32)
        numbers[1:][large] = np.arange(1, large.sum() + 1)
        contact = contact_fractions(numbers[components], others)
        rank[large] *= np.minimum(1, contact / rule.contact)
    touched = np.bincount(components[unchanged], minlength=len(sizes) + 1)[1:]
    new = touched == 0
    # Best component first: by `new`, then by rank, then by size.
    order = np.lexsort((-sizes, -rank, new))
    kept = large[order]
    kept[rule.maximum_components :] = False
    kept[:1] |= not rule.may_be_absent
    surplus = np.ones(len(sizes) + 1, bool)
    surplus[0] = False
    surplus[order[kept] + 1] = False
    return surplus[components]
