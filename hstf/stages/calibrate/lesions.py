"""Learn which predicted components are lesions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hstf.config.refine import RefineConfig
from hstf.imaging.label_values import IGNORED
from hstf.imaging.probabilities import apply_temperature, most_likely
from hstf.imaging.regions import (
    ClassIndices,
    structure_mask,
    structure_probability,
)
from hstf.imaging.sparse_labels import is_sparse
from hstf.method.plr.lesion_bounds import LesionBound, lesion_bound
from hstf.method.plr.lesions import (
    Component,
    LesionModel,
    count_lesions,
    find_components,
    fit_lesions,
    possible_bound,
    real_components,
)
from hstf.method.plr.out_of_fold import LabelledCase


@dataclass(frozen=True)
class LearnedLesions:
    """What the out-of-fold predictions show about the lesions of one structure."""

    model: LesionModel
    bound: LesionBound
    """From which probability the components of these predictions are kept."""


def learn_lesions(
    cases: Iterable[LabelledCase],
    members: ClassIndices,
    temperature: float,
    config: RefineConfig,
) -> LearnedLesions:
    """Learn which predicted components are lesions, and where a lesion is possible.

    Lesions are counted in dense labels only: a sparse label may have several strokes in a lesion.
    Without any dense label no lesions are expected, so that only ``refine.lesion_probability``
    decides which components are kept.

    Args:
        cases: out-of-fold predictions with their labels.
        members: class indices of the lesions.
        temperature: temperature of the probabilities.
        config: section ``refine`` of the configuration.
    """
    components: list[Component] = []
    are_real: list[bool] = []
    # Counts of voxels by their calibrated probability of being a lesion.
    voxels = np.zeros(256, np.int64)
    lesion_voxels = np.zeros(256, np.int64)
    lesions: list[int] = []
    # The components of the cases whose lesions are counted.
    in_counted_cases: list[Component] = []
    for case in cases:
        calibrated = apply_temperature(case.output.probabilities, temperature)
        probability = structure_probability(calibrated, members)
        numbers, found = find_components(
            structure_mask(most_likely(calibrated), members),
            probability,
            case.output.scale_variance,
            case.voxel_mm3,
        )
        lesion = structure_mask(case.label, members)
        if not is_sparse(case.label):
            lesions.append(count_lesions(lesion))
            in_counted_cases += found
        known = case.label != IGNORED
        verdicts = real_components(numbers, found, lesion, known)
        for component, is_real in zip(found, verdicts, strict=True):
            # A component without labelled voxels has no verdict.
            if is_real is not None:
                components.append(component)
                are_real.append(is_real)
        voxels += np.bincount(probability[known], minlength=256)
        lesion_voxels += np.bincount(probability[lesion], minlength=256)
    possible = possible_bound(voxels, lesion_voxels)
    lesions_per_case = float(np.mean(lesions)) if lesions else 0.0
    model = fit_lesions(components, are_real, possible, lesions_per_case)
    likely = [model.probability(component) for component in in_counted_cases]
    return LearnedLesions(model, lesion_bound(likely, sum(lesions), config))
