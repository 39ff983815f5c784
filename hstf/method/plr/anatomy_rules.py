"""Anatomy rules: number, size, contact and holes of the components that a structure may have.

The labelled cases show how a structure looks: how many components it has, how small they are, how
much of their surface touches other structures, whether it has holes and whether it may be absent.
Each structure (a region or, without regions, a class) becomes an :class:`AnatomyRule`.
Pseudo-labels and final segmentations are changed to obey the rules. This is the post-processing of
nnU-Net (Isensee et al., Nature Methods 2021) with rules that are learned from labels; no anatomy is
written in the code. A rule that clearly lowers the Dice of the out-of-fold predictions is not
applied.

Components are 26-connected and holes are 6-connected. A hole is background that is enclosed by the
foreground. It counts for the class that it touches most, and for each region of that class.

Voxels that are removed from a region get the most likely class outside of the region. For example,
a false spot of enhancing tumour becomes necrosis, oedema or background.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from pydantic import Field
from scipy import ndimage

from hstf.imaging.components import connected_components
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import make_certain, most_likely
from hstf.imaging.regions import (
    Box,
    ClassIndices,
    Structures,
    box_around,
    class_boxes,
    class_count,
    structure_mask,
    with_margin,
)
from hstf.imaging.sparse_labels import is_sparse
from hstf.runtime.documents import Part

Targets = Mapping[int, Sequence[int]]
"""Classes that may replace each class."""

SIZE_MARGIN = 0.5
"""Components down to this fraction of the smallest labelled component are kept.

A few labelled cases do not show the smallest component that exists."""
HARM_ERRORS = 2.0
"""Standard errors below 0 from which the effect of a rule on Dice is no chance."""
COUNT_MARGIN = 2
"""If the number of components varies, this many times the maximum number is allowed."""


@dataclass(frozen=True)
class CaseAnatomy:
    """Anatomy of one structure in one labelled case."""

    sizes_mm3: tuple[float, ...]
    """Size of each component in mm³."""
    holes: int
    """Number of holes."""
    dense: bool = True
    """Whether the label shows where the structure ends. Scribbles only show that it exists."""
    contact: float = 0.0
    """Fraction of the surface of the largest component that touches other structures."""


class AnatomyRule(Part):
    """Anatomy of one structure in all labelled cases."""

    maximum_components: int = Field(ge=0)
    """Maximum number of components; 0 if no labelled case has the structure."""
    minimum_mm3: float = Field(ge=0, allow_inf_nan=False)
    """Minimum size of a component in mm³."""
    has_holes: bool
    """Whether the structure may have holes."""
    may_be_absent: bool
    """Whether a case may lack the structure."""
    contact: float = Field(0.0, ge=0, le=1)
    """Minimum fraction of the surface of a component that touches other structures."""
    dice_gain: float = 0.0
    """Change of the mean Dice of the out-of-fold predictions when the rule is applied to them."""
    gain_error: float | None = Field(None, ge=0)
    """Standard error of ``dice_gain`` over the patients; ``None`` with a single patient."""

    @property
    def is_harmful(self) -> bool:
        """Whether the rule clearly lowers the Dice of the out-of-fold predictions.

        Of a poor prediction the largest component may be wrong and its fragments may be correct.
        A negative gain alone is no evidence: the out-of-fold networks have seen fewer labels than
        the networks of the rounds, and one failed prediction of few decides about its sign. All
        labels obey the rule.

        Example:
            >>> rule = AnatomyRule(
            ...     maximum_components=1, minimum_mm3=2.0, has_holes=False, may_be_absent=False,
            ...     dice_gain=-0.011, gain_error=0.016,
            ... )
            >>> rule.is_harmful
            False
        """
        if self.gain_error is None:
            return False
        return self.dice_gain + HARM_ERRORS * self.gain_error < 0


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


def describe_anatomy(
    label: np.ndarray,
    structures: Structures,
    voxel_mm3: float,
) -> dict[str, CaseAnatomy]:
    """Measure the anatomy of each structure in a labelled case.

    Ignored voxels (255) count as background. They make no hole unless a class encloses them.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        structures: classes of each structure.
        voxel_mm3: volume of a voxel in mm³.
    """
    dense = not is_sparse(label)
    label = np.where(label == IGNORED, 0, label).astype(np.uint8)
    boxes = _structure_boxes(label, structures)
    _, owners, _ = _find_holes(label)
    holes = np.bincount(owners, minlength=256)
    anatomy = {}
    for name, classes in structures.items():
        sizes_mm3: tuple[float, ...] = ()
        contact = 0.0
        if name in boxes:
            sizes, contact = _measure_components(label[boxes[name]], classes)
            sizes_mm3 = tuple((sizes * voxel_mm3).tolist())
        anatomy[name] = CaseAnatomy(
            sizes_mm3=sizes_mm3,
            holes=int(holes[list(classes)].sum()),
            dense=dense,
            contact=contact,
        )
    return anatomy


def _measure_components(label: np.ndarray, classes: ClassIndices) -> tuple[np.ndarray, float]:
    """Return the voxels of each component, and the contact of the largest component."""
    inside = structure_mask(label, classes)
    components, sizes = label_components(inside)
    main_component = components == 1 + sizes.argmax()
    others = (label > 0) & ~inside
    return sizes, float(contact_fractions(main_component, others)[0])


def learn_rule(anatomy: Sequence[CaseAnatomy]) -> AnatomyRule:
    """Return the rule that all labelled cases obey, with a margin where they vary.

    Sparse labels only show whether a structure may be absent: a label without the structure does
    not show that the case lacks it, but a label with the structure shows that the case has it.

    Args:
        anatomy: anatomy of one structure in each labelled case.
    """
    dense = [case for case in anatomy if case.dense]
    present = [case for case in dense if case.sizes_mm3]
    counts = {len(case.sizes_mm3) for case in present}
    sizes = [size for case in present for size in case.sizes_mm3]
    margin = COUNT_MARGIN if len(counts) > 1 else 1
    return AnatomyRule(
        maximum_components=max(counts, default=0) * margin,
        minimum_mm3=SIZE_MARGIN * min(sizes, default=0.0),
        has_holes=any(case.holes for case in dense),
        may_be_absent=any(not case.sizes_mm3 for case in anatomy),
        contact=min((case.contact for case in present), default=0.0),
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
    than the true one, but it is not surrounded by a heart.

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
        for name, box in _structure_boxes(before, structures).items():
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


def _structure_boxes(label: np.ndarray, structures: Structures) -> dict[str, Box]:
    """Return the box of each structure in ``label``, with a margin of one voxel."""
    of_class = class_boxes(label, class_count(structures))
    boxes = {}
    for name, classes in structures.items():
        box = box_around(of_class[index] for index in classes if index in of_class)
        if box:
            boxes[name] = with_margin(box)
    return boxes


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
    box, owners, holes = _find_holes(label)
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


def contact_fractions(components: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the fraction of the surface of each component that touches ``others``.

    The surface consists of voxel faces. Faces on the border of the volume do not count.

    Args:
        components: ``(X, Y, Z)`` number of the component, from 1 to n; 0 outside.
        others: ``(X, Y, Z)`` bool.

    Returns:
        ``(n,)`` in the range 0 to 1.
    """
    count = int(components.max())
    other = count + 1
    outside = count + 2
    parts = np.full(components.shape, outside, np.uint32)
    parts[others] = other
    np.copyto(
        parts,
        components,
        where=components > 0,
    )
    total = np.zeros(count + 3)
    touching = np.zeros(count + 3)
    areas = cc3d.contacts(
        parts,
        connectivity=6,
        surface_area=True,
    )
    for (first, second), area in areas.items():
        # The pair is sorted: a component comes before `other`.
        total[first] += area
        touching[first] += area * (second == other)
    return touching[1:other] / np.maximum(total[1:other], 1)


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the 26-connected components of a boolean ``mask`` ``(X, Y, Z)``.

    Returns:
        The number of the component of each voxel, from 1 to n (0 outside), and ``(n,)`` the number
        of voxels of each component.
    """
    components = connected_components(mask, connectivity=26)
    # Without slice objects, because there may be millions of components.
    statistics = cc3d.statistics(components, no_slice_conversion=True)
    return components, np.asarray(statistics["voxel_counts"], dtype=np.int64)[1:]


def _find_holes(label: np.ndarray) -> tuple[Box, np.ndarray, np.ndarray]:
    """Find the holes of the foreground.

    Returns:
        The box of the foreground, the class that owns each background component in the box (0 if
        the component is no hole), and the number of the component of each voxel of the box.
    """
    boxes = ndimage.find_objects((label > 0).view(np.uint8), max_label=1)
    if boxes[0] is None:
        empty = (slice(0, 0),) * 3
        return empty, np.zeros(1, np.uint8), np.zeros((0, 0, 0), np.uint8)
    inner = label[boxes[0]]
    background = connected_components(inner == 0, connectivity=6)
    owners = np.zeros(int(background.max()) + 1, np.uint8)
    enclosed = np.ones(len(owners), bool)
    enclosed[0] = False
    for axis in range(3):
        for face in (0, -1):
            reached = np.unique(background.take(face, axis=axis))
            enclosed[reached] = False
    if enclosed.any():
        owners[enclosed] = _most_touched_class(inner, background, enclosed)[enclosed]
    return boxes[0], owners, background


def _most_touched_class(
    label: np.ndarray,
    background: np.ndarray,
    enclosed: np.ndarray,
) -> np.ndarray:
    """Return the class of most face neighbours of each background component.

    Args:
        label: ``(X, Y, Z)`` class index.
        background: ``(X, Y, Z)`` number of the background component.
        enclosed: bool, for each component, whether it is enclosed. The others are not computed.
    """
    voxels = np.argwhere(enclosed[background])
    component = background[tuple(voxels.T)].astype(np.int64)
    counts = np.zeros((len(enclosed), int(label.max()) + 1), np.int64)
    for axis in range(3):
        for step in (-1, 1):
            # The neighbours are in the volume: an enclosed component reaches no face.
            neighbours = voxels.copy()
            neighbours[:, axis] += step
            np.add.at(
                counts,
                (component, label[tuple(neighbours.T)]),
                1,
            )
    counts[:, 0] = 0
    return counts.argmax(axis=1)
