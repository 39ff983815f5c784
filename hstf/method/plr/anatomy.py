"""Anatomy: what the labelled cases show about the components of a structure.

They show how many components a structure (a region or, without regions, a class) has, how small
they are, how much of their surface touches other structures, whether there are holes and whether a
case may lack it. This becomes an :class:`AnatomyRule`, which segmentations are changed to obey
(:mod:`hstf.method.plr.anatomy_rules`).

Components are 26-connected and holes are 6-connected. A hole is background that is enclosed by the
foreground. It counts for the class that it touches most, and for each region of that class.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from hstf.imaging.label_values import IGNORED
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
from hstf.method.plr.bridges import split_at_bridges
from hstf.method.plr.holes import find_holes
from hstf.method.plr.structure_components import contact_fractions, label_components
from hstf.runtime.documents import Part

SIZE_MARGIN = 0.5
"""Components down to this fraction of the smallest labelled component are kept.

A few labelled cases do not show the smallest component that exists."""
COUNT_MARGIN = 2
"""If the number of components varies, this many times the maximum number is allowed."""
MAXIMUM_MEASURED = 8
"""Number of components, in the order of their sizes, in which bridges are searched for."""
HARM_ERRORS = 2.0
"""A rule is harmful if its gain is more than this many standard errors below 0."""


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
    has_bridge: bool = False
    """Whether a component consists of pieces with thin bridges, see
    :mod:`hstf.method.plr.bridges`."""


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
    cut_bridges: bool = False
    """Whether components are cut at thin bridges, which no labelled case has."""
    dice_gain: float = 0.0
    """Change of the mean Dice of the out-of-fold predictions when the rule is applied to them."""
    gain_error: float | None = Field(None, ge=0)
    """Standard error of ``dice_gain`` over the patients; ``None`` with a single patient."""

    @property
    def is_harmful(self) -> bool:
        """Whether the rule clearly lowers the Dice of the out-of-fold predictions.

        Of a poor prediction the largest component may be wrong and its fragments may be correct.
        A negative gain by itself is no evidence: the out-of-fold networks have seen fewer labels
        than the networks of the rounds, and one failed prediction of few decides about its sign.
        All labels obey the rule.

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
    boxes = structure_boxes(label, structures)
    _, owners, _ = find_holes(label)
    holes = np.bincount(owners, minlength=256)
    anatomy = {}
    for name, classes in structures.items():
        sizes_mm3: tuple[float, ...] = ()
        contact = 0.0
        has_bridge = False
        if name in boxes:
            sizes, contact, has_bridge = _measure_components(label[boxes[name]], classes)
            sizes_mm3 = tuple((sizes * voxel_mm3).tolist())
        anatomy[name] = CaseAnatomy(
            sizes_mm3=sizes_mm3,
            holes=int(holes[list(classes)].sum()),
            dense=dense,
            contact=contact,
            has_bridge=has_bridge,
        )
    return anatomy


def _measure_components(label: np.ndarray, classes: ClassIndices) -> tuple[np.ndarray, float, bool]:
    """Return the sizes of components, the contact of the main one, and whether one has a bridge."""
    inside = structure_mask(label, classes)
    components, sizes = label_components(inside)
    main_component = components == 1 + sizes.argmax()
    others = (label > 0) & ~inside
    _, piece_sizes = split_at_bridges(components, sizes, MAXIMUM_MEASURED)
    has_bridge = len(piece_sizes) > len(sizes)
    return sizes, float(contact_fractions(main_component, others)[0]), has_bridge


def structure_boxes(label: np.ndarray, structures: Structures) -> dict[str, Box]:
    """Return the box of each structure that is in ``label``, with a margin of one voxel.

    Args:
        label: ``(X, Y, Z)`` uint8 class index.
        structures: classes of each structure.
    """
    of_class = class_boxes(label, class_count(structures))
    boxes = {}
    for name, classes in structures.items():
        box = box_around(of_class[index] for index in classes if index in of_class)
        if box:
            boxes[name] = with_margin(box)
    return boxes


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
        # Where the number varies, neighbours may touch each other.
        cut_bridges=len(counts) == 1 and not any(case.has_bridge for case in present),
    )
