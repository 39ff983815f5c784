"""Refine out-of-fold predictions and compare the results with the labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hstf.config.experiment import Config
from hstf.imaging.regions import (
    class_count,
    overlaps,
    structure_mask,
)
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.cleaning import LabelCleaner
from hstf.method.plr.out_of_fold import LabelledCase
from hstf.method.plr.predicted_dice import (
    QualityFeatures,
)
from hstf.scoring.confusion import confusion, structure_dice
from hstf.stages.calibrate.lesions import LearnedLesions

MINIMUM_RECALL = 0.2
"""A structure of which the predictions find a smaller fraction of the voxels gets a warning."""


@dataclass(frozen=True)
class CaseScore:
    """The pseudo-label that refinement would write of a labelled case, compared with its label."""

    features: dict[str, QualityFeatures | None]
    """Quality features by structure, as refinement has them; None if the structure is absent."""
    dice: np.ndarray
    """``(S,)`` true Dice; NaN for a structure of which a sparse label has no voxel."""
    found: np.ndarray
    """``(S,)`` number of labelled voxels of each structure that the pseudo-label has."""
    voxels: np.ndarray
    """``(S,)`` number of labelled voxels of each structure."""


def score_case(
    case: LabelledCase,
    temperature: float,
    known: AnatomyRules,
    lesions: Mapping[str, LearnedLesions],
    config: Config,
) -> CaseScore:
    """Refine an out-of-fold prediction and compare the result with the label.

    Args:
        case: the case.
        temperature: temperature of the probabilities.
        known: the anatomy rules that are applied.
        lesions: what is known of each structure that consists of lesions.
        config: the sections ``refine``, ``labels`` and ``regions``.
    """
    structures = config.structures
    models = {name: learned.model for name, learned in lesions.items()}
    bounds = {name: learned.bound.probability for name, learned in lesions.items()}
    cleaner = LabelCleaner(config.refine, known, temperature, models, case.voxel_mm3, bounds)
    clean = cleaner.clean(case.output)
    features: dict[str, QualityFeatures | None] = {}
    for name, values in clean.features.items():
        is_present = structure_mask(clean.label, structures[name]).any()
        features[name] = values if is_present else None
    counts = confusion(clean.label, case.label, class_count(structures))
    found, _, voxels = overlaps(counts, structures)
    dice = structure_dice(clean.label, case.label, structures)
    return CaseScore(features, dice, found, voxels)


def pooled_recall(scores: Sequence[CaseScore]) -> list[float | None]:
    """Return the fraction of the labelled voxels that are found, by structure, over all cases.

    It is None for a structure without labelled voxels.
    """
    found = np.sum([score.found for score in scores], axis=0)
    voxels = np.sum([score.voxels for score in scores], axis=0)
    recalls: list[float | None] = []
    for found_of_structure, count in zip(found, voxels, strict=True):
        recalls.append(float(found_of_structure / count) if count else None)
    return recalls


def recall_warnings(recalls: Mapping[str, float | None]) -> list[str]:
    """Return a warning for each structure with a recall below :data:`MINIMUM_RECALL`."""
    warnings = []
    for name, recall in recalls.items():
        if recall is not None and recall < MINIMUM_RECALL:
            warnings.append(
                f"calibrate: warning: the warm-up finds {recall:.0%} of the voxels of {name} in"
                " labelled cases that it has not seen. From pseudo-labels, students will learn that"
                f" there is no {name}. Raise warmup.steps, or label more cases with {name}, before"
                " you start the first round."
            )
    return warnings
