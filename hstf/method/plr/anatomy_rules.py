"""Structure of a label map: how many components a class or region has, how small they are, what they touch, whether they
have holes.

Components are 26-connected, holes 6-connected. What the labelled cases show becomes a rule for each class, or for each
region where there are regions; pseudo-labels and final segmentations are brought to it where that does not cost Dice on
the out-of-fold predictions. No anatomy is written down here. What leaves a region goes
to the most likely class outside of it, so that a false enhancing spot becomes necrosis, oedema or nothing. A hole is
background that is enclosed: it counts for the class that it touches most, and for each region of that class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import cc3d
import numpy as np
from scipy import ndimage

from hstf.imaging.components import connected_components
from hstf.imaging.geometry import IGNORED
from hstf.imaging.probabilities import make_certain, most_likely
from hstf.imaging.regions import (
    Box,
    Members,
    Structures,
    box_around,
    class_boxes,
    class_count,
    mask,
    with_margin,
)
from hstf.imaging.sparse_labels import is_sparse

Targets = Mapping[int, Sequence[int]]
"""Classes that may take the place of a class."""
SIZE_MARGIN = 0.5
"""Components down to this share of the smallest labelled one are kept: a few cases do not show the smallest there is."""
COUNT_MARGIN = 2
"""A class whose number of components varies may have this many times the largest number seen."""


@dataclass(frozen=True)
class ClassShape:
    """Structure of one class (or region) in one case."""

    sizes_mm3: tuple[float, ...]
    """Size of each component."""
    holes: int
    whole: bool = True
    """Whether the label shows where the class ends; of scribbles only whether the class is there is known."""
    contact: float = 0.0
    """Share of the surface of the largest component (0..1) that touches other structures."""


@dataclass(frozen=True)
class StructureRule:
    """Structure of one class (or region) in all labelled cases."""

    maximum_components: int
    minimum_mm3: float
    has_holes: bool
    may_be_absent: bool
    contact: float = 0.0
    """Share of the surface (0..1) that touches other structures at least."""
    dice_gain: float = 0.0
    """What bringing out-of-fold predictions to the rule adds to their mean Dice. One that costs is not applied: of a poor
    prediction the largest component may be the wrong one, and fragments may be the right ones."""


@dataclass(frozen=True)
class KnownStructure:
    """What the labelled cases show, for segmentations to be brought to."""

    structures: Structures
    rules: Mapping[str, StructureRule]
    """By structure; one without a rule may look as it likes."""

    def clean(self, probabilities: np.ndarray, voxel_mm3: float) -> None:
        """Make ``probabilities`` ``(K, X, Y, Z)`` certain, in place, where their most likely class breaks a rule.

        It is the post-processing of nnU-Net (Isensee et al. 2021) with rules that labels teach.
        """
        label = most_likely(probabilities)
        cleaned = self.cleaned(label, probabilities, voxel_mm3)
        make_certain(probabilities, cleaned, cleaned != label, 1)

    def cleaned(self, label: np.ndarray, probabilities: np.ndarray, voxel_mm3: float) -> np.ndarray:
        """``label`` ``(X, Y, Z)`` uint8 after :func:`keep_components` and :func:`fill_holes`."""
        kept = keep_components(label, probabilities, self.structures, self.rules, voxel_mm3)
        return fill_holes(kept, self.structures, self.rules)

    def to_json(self) -> dict[str, Any]:
        """The rules, and the classes of the structures."""
        rules = {name: asdict(rule) for name, rule in self.rules.items()}
        return {
            "classes": {name: list(members) for name, members in self.structures.items()},
            "rules": rules,
        }

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Self:
        """What :meth:`to_json` gave.

        Raises:
            KeyError, TypeError: it did not give this.
        """
        classes = {
            str(name): tuple(map(int, members)) for name, members in content["classes"].items()
        }
        return cls(
            classes, {name: StructureRule(**content["rules"][name]) for name in content["rules"]}
        )


def describe(label: np.ndarray, structures: Structures, voxel_mm3: float) -> dict[str, ClassShape]:
    """The shape of each of ``structures`` of a label map ``(X, Y, Z)`` uint8.

    What is ignored (255) counts as background, which makes no hole that is not there unless a class encloses it.
    """
    whole = not is_sparse(label)
    label = np.where(label == IGNORED, 0, label).astype(np.uint8)
    boxes = _boxes(label, structures)
    holes = np.bincount(_holes(label)[1], minlength=256)
    shapes = {}
    for name, members in structures.items():
        sizes, contact = (
            _measured(label[boxes[name]], members) if name in boxes else (np.empty(0), 0.0)
        )
        owned = int(holes[list(members)].sum())
        shapes[name] = ClassShape(tuple((sizes * voxel_mm3).tolist()), owned, whole, contact)
    return shapes


def _measured(label: np.ndarray, members: Members) -> tuple[np.ndarray, float]:
    """Voxels of each component of the structure ``members``, and the contact of the largest with others."""
    found = mask(label, members)
    components, sizes = label_components(found)
    largest = components == 1 + sizes.argmax()
    return sizes, float(contacts(largest, (label > 0) & ~found)[0])


def learn_rule(shapes: Sequence[ClassShape]) -> StructureRule:
    """The rule that all ``shapes`` of a class keep, one for each labelled case, with a margin where they vary.

    Cases whose label is sparse tell only whether the class may be absent: nothing shows that it is there where they lack it.
    """
    whole = [shape for shape in shapes if shape.whole]
    present = {len(shape.sizes_mm3) for shape in whole if shape.sizes_mm3}
    sizes = [size for shape in whole for size in shape.sizes_mm3]
    return StructureRule(
        maximum_components=max(present, default=0) * (COUNT_MARGIN if len(present) > 1 else 1),
        minimum_mm3=SIZE_MARGIN * min(sizes, default=0.0),
        has_holes=any(shape.holes for shape in whole),
        may_be_absent=any(not shape.sizes_mm3 for shape in shapes),
        contact=min((shape.contact for shape in whole if shape.sizes_mm3), default=0.0),
    )


def keep_components(
    label: np.ndarray,
    probabilities: np.ndarray,
    structures: Structures,
    rules: Mapping[str, StructureRule],
    voxel_mm3: float,
) -> np.ndarray:
    """``label`` without the components that break the rule of their class or region.

    The voxels go to the most likely class besides. Fragments that this leaves in other structures go to the background, or
    to what is left of a voxel without that region: a fragment of tumour core becomes oedema, which breaks no other rule.
    Of several components the largest stay, however small, unless labelled cases lack the structure. One that touches other
    structures less than any labelled one counts for that much smaller: a false ventricle in the chest wall may be larger
    than the true one, but no heart is around it.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        probabilities: ``(K, X, Y, Z)``, of any range.
        structures: classes, or regions.
        rules: of the structures that are to be brought to one. A structure that no labelled case has (no component
            allowed) is kept as it is: nothing is known about it.
    """
    cleaned = label
    for targets in (outside, beneath):
        before, cleaned = cleaned, cleaned.copy()
        for name, box in _boxes(before, structures).items():
            if name in rules:
                found, settled = mask(before[box], structures[name]), before[box] == label[box]
                excess = _excess(found, settled, (before[box] > 0) & ~found, rules[name], voxel_mm3)
                take_out(
                    cleaned[box],
                    excess,
                    probabilities[(slice(None), *box)],
                    targets(name, structures),
                )
    return cleaned


def _boxes(label: np.ndarray, structures: Structures) -> dict[str, Box]:
    """The box of each structure that ``label`` has, with a voxel around it."""
    of_class = class_boxes(label, class_count(structures))
    tight = {
        n: box_around(of_class[k] for k in members if k in of_class)
        for n, members in structures.items()
    }
    return {name: with_margin(box) for name, box in tight.items() if box}


def outside(name: str, structures: Structures) -> Targets:
    """For each class of the structure ``name`` all that are not in it."""
    members = structures[name]
    others = [index for index in range(class_count(structures)) if index not in members]
    return dict.fromkeys(members, others)


def beneath(name: str, structures: Structures) -> Targets:
    """For each class of the structure ``name`` those that are in most of its other structures, and in no more."""
    holders = [
        {other for other, members in structures.items() if index in members}
        for index in range(class_count(structures))
    ]
    targets = {}
    for index in structures[name]:
        below = [k for k, held in enumerate(holders) if held <= holders[index] - {name}]
        most = max(len(holders[k]) for k in below)
        targets[index] = [k for k in below if len(holders[k]) == most]
    return targets


def take_out(
    label: np.ndarray, voxels: np.ndarray, probabilities: np.ndarray, targets: Targets
) -> None:
    """Give the ``voxels`` (bool) of each class of ``targets`` to the most likely of its targets, in place."""
    for index, classes in targets.items():
        chosen = voxels & (label == index)
        likely = np.stack([probabilities[k][chosen] for k in classes]).argmax(axis=0)
        label[chosen] = np.array(classes, np.uint8)[likely]


def fill_holes(
    label: np.ndarray, structures: Structures, rules: Mapping[str, StructureRule]
) -> np.ndarray:
    """``label`` with holes filled in structures whose labelled cases have none.

    A hole is background that is enclosed: it reaches no face of the volume. It belongs to the class that it touches most,
    and is filled with it where one of its regions never has holes.
    """
    box, owners, holes = _holes(label)
    filled = label.copy()
    fills = {
        index
        for name, rule in rules.items()
        if not rule.has_holes and rule.maximum_components
        for index in structures[name]
    }
    wanted = np.where(np.isin(owners, list(fills)), owners, 0).astype(np.uint8)
    if wanted.any():
        target = wanted[holes]
        inner = filled[box]
        inner[target > 0] = target[target > 0]
    return filled


def _excess(
    found: np.ndarray,
    settled: np.ndarray,
    others: np.ndarray,
    rule: StructureRule,
    voxel_mm3: float,
) -> np.ndarray:
    """Voxels of the components of ``found`` beyond the number of ``rule`` or below its size.

    Args:
        found: ``(X, Y, Z)`` bool, the structure.
        settled: bool, voxels that nothing was done to. Components without any come last, however large.
        others: bool, the other structures.
    """
    if not rule.maximum_components:
        return np.zeros_like(found)
    components, sizes = label_components(found)
    large = sizes * voxel_mm3 >= rule.minimum_mm3
    fit = np.where(large, sizes, 0.0)
    if rule.contact > 0 and large.sum() > 1:  # of these alone: specks may be millions
        numbers = np.zeros(len(sizes) + 1, np.uint32)
        numbers[1:][large] = np.arange(1, large.sum() + 1)
        fit[large] *= np.minimum(1, contacts(numbers[components], others) / rule.contact)
    given = np.bincount(components[settled], minlength=len(sizes) + 1)[1:] == 0
    order = np.lexsort((-sizes, -fit, given))
    kept = large[order]
    kept[rule.maximum_components :] = False
    kept[:1] |= not rule.may_be_absent
    excess = np.ones(len(sizes) + 1, bool)
    excess[0] = False
    excess[order[kept] + 1] = False
    return excess[components]


def contacts(components: np.ndarray, others: np.ndarray) -> np.ndarray:
    """``(n,)`` share of the voxel faces of each of n components, numbered from 1, beyond which there is one of ``others``.

    Faces on the border of the volume do not count.
    """
    count = int(components.max())
    parts = np.full(components.shape, count + 2, np.uint32)
    parts[others] = count + 1
    np.copyto(parts, components, where=components > 0)
    faces = np.zeros((2, count + 3))
    for (a, b), area in cc3d.contacts(parts, connectivity=6, surface_area=True).items():
        faces[:, a] += area, area * (b == count + 1)
    total, touching = faces[:, 1 : count + 1]
    return touching / np.maximum(total, 1)


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """26-connected components of ``mask``, numbered from 1, and the voxels of each."""
    components = connected_components(mask, connectivity=26)
    found = cc3d.statistics(
        components, no_slice_conversion=True
    )  # no slice object for each of millions
    return components, np.asarray(found["voxel_counts"], dtype=np.int64)[1:]


def _holes(label: np.ndarray) -> tuple[Box, np.ndarray, np.ndarray]:
    """The box of the foreground, the class that owns each background component in it (0: no hole), and the components."""
    boxes = ndimage.find_objects((label > 0).view(np.uint8), max_label=1)
    if boxes[0] is None:
        return (slice(0, 0),) * 3, np.zeros(1, np.uint8), np.zeros((0, 0, 0), np.uint8)
    inner = label[boxes[0]]
    holes = connected_components(inner == 0, connectivity=6)
    owners = np.zeros(int(holes.max()) + 1, np.uint8)
    enclosed = np.ones(len(owners), bool)
    enclosed[0] = False
    for axis in range(3):
        for face in (0, -1):
            enclosed[np.unique(holes.take(face, axis=axis))] = False
    if enclosed.any():
        owners[enclosed] = _touched_most(inner, holes, enclosed)[enclosed]
    return boxes[0], owners, holes


def _touched_most(label: np.ndarray, holes: np.ndarray, enclosed: np.ndarray) -> np.ndarray:
    """For each component of ``holes`` that is ``enclosed``, the class of most of its face neighbours."""
    voxels = np.argwhere(enclosed[holes])
    owner = holes[tuple(voxels.T)].astype(np.int64)
    touched = np.zeros((len(enclosed), int(label.max()) + 1), np.int64)
    for axis in range(3):
        for step in (-1, 1):
            neighbours = voxels.copy()
            neighbours[:, axis] += step  # inside: an enclosed component reaches no face
            np.add.at(touched, (owner, label[tuple(neighbours.T)]), 1)
    touched[:, 0] = 0
    return touched.argmax(axis=1)
