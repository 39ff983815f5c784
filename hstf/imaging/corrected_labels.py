"""Compare a corrected label with its image and with the pseudo-label that it replaces."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes

from hstf.config.experiment import Config
from hstf.experiment.cases import Case
from hstf.imaging.guards import header_issues
from hstf.imaging.label_values import IGNORED, class_indices, values_in
from hstf.imaging.scan import scan_header
from hstf.imaging.slabs import slabs
from hstf.imaging.volumes import Volume, blank_volume, grid_mismatch, read_label
from hstf.runtime.errors import HstfError

UNLIKE = 0.5
"""A Dice with the pseudo-label below it makes other orders of the axes worth a try."""
ALIKE = 0.7
"""The Dice in another order of the axes that makes a mistake likely."""
CLEARLY = 0.3
"""The gain in Dice that makes a mistake likely."""

Order = tuple[tuple[int, ...], tuple[int, ...]]
"""The axes in their order, and those of them that are flipped."""


@dataclass
class Findings:
    """What is remarkable about a corrected label."""

    problems: list[str] = field(default_factory=list)
    """What is wrong."""
    questions: list[str] = field(default_factory=list)
    """What is most likely a mistake, unless a reviewer confirms it."""
    remarks: list[str] = field(default_factory=list)
    """What may be a mistake."""


def examine_corrected_label(
    config: Config, case: Case, path: Path, pseudo_label: Path | None
) -> Findings:
    """Examine a corrected label.

    Args:
        config: the configuration, with the classes.
        case: the case.
        path: the corrected label.
        pseudo_label: the pseudo-label of the case, which has the geometry of its image; None if a
            reviewer has confirmed the corrected label, so that it is not compared.
    """
    label, problems = read_corrected_label(config, case, path)
    if label is None or pseudo_label is None:
        return Findings(problems)
    corrected = class_indices(label.data, config, path)
    automatic = class_indices(read_label(pseudo_label).data, config, pseudo_label)
    return compare_labels(corrected, automatic, config.class_names)


def read_corrected_label(config: Config, case: Case, path: Path) -> tuple[Volume | None, list[str]]:
    """Read a corrected label, and compare it with the image and with the classes.

    Args:
        config: the configuration, with the classes.
        case: the case.
        path: the corrected label.

    Returns:
        The label, or None and what is wrong with it.
    """
    try:
        image = blank_volume(case.images[0])
        label = read_label(path)
    except HstfError as error:
        return None, [str(error)]
    problems = []
    tolerance = config.check.affine_tolerance_mm
    mismatch = grid_mismatch(label, image, tolerance)
    if mismatch:
        axes = _axes_advice(label, image.data.shape, image.affine)
        advice = axes or _header_advice(path)
        problems.append(
            f"{path}: {mismatch}, {case.images[0]}.{advice}"
            " Save the correction with the geometry of the image"
        )
    known = set(config.labels.values())
    unknown = sorted(set(values_in(label.data)) - known)
    if unknown:
        problems.append(
            f"{path}: has the values {_listed(unknown)}, expected only {_listed(sorted(known))}"
        )
    return (None if problems else label), problems


def _header_advice(path: Path) -> str:
    """Return a sentence if something is wrong or doubtful in the header of a label."""
    scan = scan_header(path)
    if scan.problem:
        return ""
    found = [issue.found for issue in header_issues(scan, label=True)]
    return f" Its header has {'; '.join(found)}." if found else ""


def _axes_advice(label: Volume, shape: tuple[int, ...], affine: np.ndarray) -> str:
    """Return a sentence if the axes have another order or other directions."""
    same_lengths = sorted(label.data.shape) == sorted(shape)
    if label.data.shape != shape and same_lengths:
        return " The axes look transposed."
    found = "".join(aff2axcodes(label.affine))
    expected = "".join(aff2axcodes(affine))
    if same_lengths and found != expected:
        return f" Its axes are {found}, expected {expected}: they look transposed or flipped."
    return ""


def compare_labels(corrected: np.ndarray, automatic: np.ndarray, names: list[str]) -> Findings:
    """Compare class indices ``(X, Y, Z)`` of a corrected label and of the pseudo-label."""
    present = _structures(corrected, names)
    expected = _structures(automatic, names)
    if not present:
        return Findings(questions=["all its voxels are background or ignored"])
    order = _better_order(corrected, automatic)
    if order is not None:
        return Findings(questions=[order])
    if len(present) == 1 and len(expected) > 1:
        others = [name for name in expected if name not in present]
        text = f"contains only {present[0]}, the pseudo-label also {_listed(others)}"
        return Findings(remarks=[text])
    return Findings()


def _structures(label: np.ndarray, names: list[str]) -> list[str]:
    return [names[index] for index in values_in(label) if 0 < index < len(names)]


def _better_order(corrected: np.ndarray, automatic: np.ndarray) -> str | None:
    """Describe an order of the axes in which both labels agree much better."""
    direct = _agreement(corrected, automatic)
    if direct >= UNLIKE:
        return None
    best, order = max(
        (_agreement(view, automatic), order) for order, view in _views(corrected, automatic.shape)
    )
    if best < max(ALIKE, direct + CLEARLY):
        return None
    axes, flipped = order
    changes = []
    if axes != (0, 1, 2):
        changes.append(f"transposed to {axes}")
    if flipped:
        changes.append(f"flipped along {_listed(flipped)}")
    return (
        f"its axes look transposed or flipped: {' and '.join(changes)}, its Dice with the"
        f" pseudo-label is {best:.2f} instead of {direct:.2f}"
    )


def _views(label: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[Order, np.ndarray]]:
    """Yield ``label`` with its axes in all orders and directions that have ``shape``."""
    for axes in permutations(range(3)):
        turned = label.transpose(axes)
        if turned.shape != shape:
            continue
        for flags in product((False, True), repeat=3):
            flipped = tuple(axis for axis, flag in enumerate(flags) if flag)
            yield (axes, flipped), np.flip(turned, flipped)


def _agreement(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Dice of all structures together: a voxel agrees if its class does."""
    voxels = 0
    hits = 0
    for slab in slabs(first.shape):
        in_first = _is_class(first[slab])
        in_second = _is_class(second[slab])
        voxels += int(np.count_nonzero(in_first)) + int(np.count_nonzero(in_second))
        hits += int(np.count_nonzero((first[slab] == second[slab]) & in_first))
    return 2 * hits / voxels if voxels else 1.0


def _is_class(label: np.ndarray) -> np.ndarray:
    """Return which voxels are neither background nor ignored."""
    return (label > 0) & (label != IGNORED)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
