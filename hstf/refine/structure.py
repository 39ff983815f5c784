"""Structure of a label map: how many components a class or region has, how small they are, whether they have holes.

Components are 26-connected, holes 6-connected. What the labelled cases show becomes a rule for each class, or for each
region where there are regions; pseudo-labels are brought to it. No anatomy is written down here. What leaves a region goes
to the most likely class outside of it, so that a false enhancing spot becomes necrosis, oedema or nothing. A hole is
background that is enclosed: it counts for the class that it touches most, and for each region of that class.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy import ndimage

from hstf.components import connected_components
from hstf.geometry import IGNORED
from hstf.regions import Box, Structures, box_around, class_boxes, class_count, mask
from hstf.sparse import is_sparse

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


@dataclass(frozen=True)
class StructureRule:
    """Structure of one class (or region) in all labelled cases."""

    maximum_components: int
    minimum_mm3: float
    has_holes: bool
    may_be_absent: bool


def describe(label: np.ndarray, structures: Structures, voxel_mm3: float) -> dict[str, ClassShape]:
    """The shape of each of ``structures`` of a label map ``(X, Y, Z)`` uint8.

    What is ignored (255) counts as background, which makes no hole that is not there unless a class encloses it.
    """
    whole = not is_sparse(label)
    label = np.where(label == IGNORED, 0, label).astype(np.uint8)
    boxes = class_boxes(label, class_count(structures))
    holes = np.bincount(_holes(label)[1], minlength=256)
    shapes = {}
    for name, members in structures.items():
        box = box_around(boxes[index] for index in members if index in boxes)
        sizes = label_components(mask(label[box], members))[1] if box else np.empty(0)
        owned = int(holes[list(members)].sum())
        shapes[name] = ClassShape(tuple((sizes * voxel_mm3).tolist()), owned, whole)
    return shapes


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
    The largest component of a structure stays, however small, unless labelled cases lack it.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        probabilities: ``(K, X, Y, Z)`` uint8.
        structures: classes, or regions.
        rules: of the structures that are to be brought to one. A structure that no labelled case has (no component
            allowed) is kept as it is: nothing is known about it.
    """
    cleaned = label.copy()
    for targets in (outside, beneath):
        boxes = class_boxes(cleaned, class_count(structures))
        for name, rule in rules.items():
            members = structures[name]
            box = box_around(boxes[index] for index in members if index in boxes)
            if box is None:
                continue
            excess = _excess(mask(cleaned[box], members), rule, voxel_mm3)
            if excess.any():
                take_out(cleaned[box], excess, probabilities[(slice(None), *box)], targets(name, structures))
    return cleaned


Targets = Mapping[int, Sequence[int]]
"""Classes that may take the place of a class."""


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


def take_out(label: np.ndarray, voxels: np.ndarray, probabilities: np.ndarray, targets: Targets) -> None:
    """Give the ``voxels`` (bool) of each class of ``targets`` to the most likely of its targets, in place."""
    for index, classes in targets.items():
        chosen = voxels & (label == index)
        likely = np.stack([probabilities[k][chosen] for k in classes]).argmax(axis=0)
        label[chosen] = np.array(classes, np.uint8)[likely]


def fill_holes(label: np.ndarray, structures: Structures, rules: Mapping[str, StructureRule]) -> np.ndarray:
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


def _excess(mask: np.ndarray, rule: StructureRule, voxel_mm3: float) -> np.ndarray:
    """Voxels of the components of ``mask`` beyond the number of ``rule`` or below its size."""
    if not rule.maximum_components:
        return np.zeros_like(mask)
    components, sizes = label_components(mask)
    order = np.argsort(-sizes, kind="stable")
    kept = sizes[order] * voxel_mm3 >= rule.minimum_mm3
    kept[rule.maximum_components :] = False
    kept[:1] |= not rule.may_be_absent
    excess = np.ones(len(sizes) + 1, bool)
    excess[0] = False
    excess[order[kept] + 1] = False
    return excess[components]


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """26-connected components of ``mask``, numbered from 1, and the voxels of each."""
    components = connected_components(mask, connectivity=26)
    return components, np.asarray(cc3d.statistics(components)["voxel_counts"], dtype=np.int64)[1:]


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
    touched = np.zeros((len(enclosed), 256), np.int64)
    for axis in range(3):
        for step in (-1, 1):
            neighbours = voxels.copy()
            neighbours[:, axis] += step  # inside: an enclosed component reaches no face
            np.add.at(touched, (owner, label[tuple(neighbours.T)]), 1)
    touched[:, 0] = 0
    return touched.argmax(axis=1)
