"""Examine a corrected label before it is saved, in another process: it reads whole volumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hstf.config.experiment import IGNORE, Config
from hstf.experiment.cases import Case
from hstf.imaging.corrected_labels import Findings, compare_labels, read_corrected_label
from hstf.imaging.label_values import IGNORED, class_indices
from hstf.imaging.slabs import slabs
from hstf.imaging.volumes import blank_volume, read_label, write_like
from hstf.scoring.confusion import structure_dice

Dices = dict[str, float | None]
"""Dice of each structure; None if a sparse label does not show it."""


@dataclass
class Examination:
    """What was found out about a corrected label."""

    findings: Findings
    voxels_changed: dict[str, int] = field(default_factory=dict)
    """Voxels that differ from the pseudo-label, by their new class."""
    dice: Dices = field(default_factory=dict)
    """Dice of the pseudo-label with the corrected label as reference."""
    agreement: dict[str, Dices] = field(default_factory=dict)
    """Dice with the labels of other reviewers, by their names in ``others``."""


def examine(
    config: Config,
    case: Case,
    path: Path,
    pseudo_label: Path,
    others: Mapping[str, Path],
    target: Path,
) -> Examination:
    """Examine a corrected label, and write it with the geometry of the image.

    Args:
        config: the configuration.
        case: the case.
        path: the corrected label as it was received.
        pseudo_label: the pseudo-label that it replaces.
        others: the labels of other reviewers by any name.
        target: the label to write; it is not written if there are problems.
    """
    label, problems = read_corrected_label(config, case, path)
    if label is None:
        return Examination(Findings(problems))
    write_like(target, label.data, blank_volume(case.images[0]))
    corrected = class_indices(label.data, config, path)
    del label
    automatic = class_indices(read_label(pseudo_label).data, config, pseudo_label)
    return Examination(
        compare_labels(corrected, automatic, config.class_names),
        voxels_changed(automatic, corrected, config.class_names),
        dices(automatic, corrected, config),
        compare(config, corrected, others),
    )


def compare_files(config: Config, path: Path, others: Mapping[str, Path]) -> dict[str, Dices]:
    """Return the Dice of a label with other labels, by name."""
    return compare(config, class_indices(read_label(path).data, config, path), others)


def compare(config: Config, label: np.ndarray, others: Mapping[str, Path]) -> dict[str, Dices]:
    """Return the Dice of class indices ``(X, Y, Z)`` with other labels, by name."""
    found = {}
    for name, path in others.items():
        other = class_indices(read_label(path).data, config, path)
        if other.shape == label.shape:
            found[name] = dices(other, label, config)
    return found


def dices(first: np.ndarray, second: np.ndarray, config: Config) -> Dices:
    """Return the Dice of each structure in two maps of class indices."""
    values = structure_dice(first, second, config.structures).tolist()
    found: Dices = {}
    for name, value in zip(config.structures, values, strict=True):
        found[name] = None if np.isnan(value) else round(value, 6)
    return found


def mean_dice(values: Mapping[str, float | None]) -> float | None:
    """Return the mean over the structures that have a Dice; None if there is none."""
    known = [value for value in values.values() if value is not None]
    return sum(known) / len(known) if known else None


def voxels_changed(before: np.ndarray, after: np.ndarray, names: Sequence[str]) -> dict[str, int]:
    """Count the voxels that differ in two maps of class indices, by their class in the second."""
    counts = np.zeros(256, np.int64)
    for slab in slabs(after.shape):
        changed = after[slab][before[slab] != after[slab]]
        counts += np.bincount(changed, minlength=256)
    found = {name: int(counts[index]) for index, name in enumerate(names)}
    found[IGNORE] = int(counts[IGNORED])
    return {name: count for name, count in found.items() if count}
