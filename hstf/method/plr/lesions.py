"""Judge lesions one by one: each component of a lesion class is kept or dropped by its probability.

A case may have any number of lesions or none. Hence neither the number of components nor the rank
of a component by its size shows which are real. Three features of a component do: the log odds of
its mean calibrated probability ``x_1``, the log2 of its volume ``x_2``, and the agreement of the
scales ``x_3``. The probability that it is a lesion is a logistic regression

    P(lesion) = 1 / (1 + exp(-(w_0 + w_1 x_1 + w_2 x_2 + w_3 x_3)))

which is fitted to the components of the out-of-fold predictions, with ``x_2`` and ``x_3``
standardised. The weights have normal priors around (0, 1, 0, 0): with few or no components the
result is the mean calibrated probability itself (maximum a posteriori estimate; Gelman et al., A
weakly informative default prior distribution for logistic regression, 2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from hstf.imaging.slabs import slabs
from hstf.method.plr.structure_components import label_components
from hstf.runtime.documents import Part

TRUE_FRACTION = 0.1
"""A component is real if at least this fraction of its voxels is in a lesion."""
PRIOR_SD = 1.0
"""Standard deviation of the normal priors of the weights."""
PROBABILITY_MARGIN = 0.01
"""Mean probabilities are kept at least this far from 0 and 1."""
MINIMUM_SPREAD = (0.5, 0.02)
"""Lower bound for the standard deviation of log2 of the volume, and of the agreement.

Features that hardly vary are not magnified."""
POSSIBLE_PRECISION = 0.1
"""A lesion is possible where at least one voxel in ten is a lesion."""
POSSIBLE_BOUNDS = (0.05, 0.5)
"""Bounds of the probability from which a lesion is possible."""
UNKNOWN_POSSIBLE = 0.2
"""Probability from which a lesion is possible if no labelled case has one."""

FeatureValues = tuple[float, float, float]
"""Values of the three features."""


@dataclass(frozen=True)
class Component:
    """A connected component of a lesion class."""

    number: int
    """From 1, in the order of the first voxel."""
    volume_ml: float
    probability: float
    """Mean calibrated probability (0 to 1) of its class."""
    agreement: float
    """Mean over its voxels of ``exp(-variance across scales)``, in the range 0 to 1.

    The disagreement of members is not used: out-of-fold predictions have a single member."""
    centre: tuple[float, float, float]
    """Mean voxel index on the grid."""

    @property
    def features(self) -> FeatureValues:
        """Log odds of the probability, log2 of the volume (ml), and agreement."""
        lower = PROBABILITY_MARGIN
        upper = 1 - PROBABILITY_MARGIN
        p = float(np.clip(self.probability, lower, upper))
        log_odds = float(np.log(p / (1 - p)))
        log_volume = float(np.log2(self.volume_ml))
        return log_odds, log_volume, self.agreement


def find_components(
    mask: np.ndarray,
    probability: np.ndarray,
    scale_variance: np.ndarray,
    voxel_mm3: float,
) -> tuple[np.ndarray, list[Component]]:
    """Find the 26-connected components of ``mask``.

    Args:
        mask: ``(X, Y, Z)`` bool.
        probability: ``(X, Y, Z)`` uint8, 255 times the calibrated probability of the class.
        scale_variance: ``(X, Y, Z)`` uint8, 255 times the variance across scales.
        voxel_mm3: volume of a voxel in mm³.

    Returns:
        ``(X, Y, Z)`` the number of the component of each voxel (0 outside), and the components.
    """
    boxes = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    numbers = np.zeros(mask.shape, np.uint32)
    if boxes[0] is None:
        return numbers, []
    numbers[boxes[0]], sizes = label_components(mask[boxes[0]])
    sums = np.zeros((5, len(sizes)))
    # In slabs: a poor teacher may find lesions in half of a large scan.
    for slab in slabs(mask.shape):
        places = np.nonzero(numbers[slab])
        owner = numbers[slab][places] - 1
        values = [
            probability[slab][places] / 255,
            np.exp(-(scale_variance[slab][places] / 255)),
            places[0] + slab.start,
            places[1],
            places[2],
        ]
        for row, value in zip(sums, values, strict=True):
            row += np.bincount(
                owner,
                weights=value,
                minlength=len(sizes),
            )
    volumes = sizes * voxel_mm3 / 1000
    columns = np.vstack([volumes, sums / sizes]).T.tolist()
    components = []
    for number, (volume, mean_probability, agreement, *centre) in enumerate(columns, start=1):
        components.append(
            Component(
                number,
                volume,
                mean_probability,
                agreement,
                _triple(centre),
            )
        )
    return numbers, components


class LesionModel(Part):
    """Model of the lesions of one structure."""

    intercept: float
    weights: FeatureValues
    """Weight of each feature."""
    centre: FeatureValues
    """Mean of each feature; subtracted before the weighting."""
    scale: FeatureValues
    """Standard deviation of each feature; divided by before the weighting."""
    possible: float
    """Calibrated probability (0 to 1) from which a lesion is possible at a voxel."""
    components: int
    """Number of out-of-fold components that the model was fitted to."""
    real: int
    """Number of these components that are lesions."""
    lesions_per_case: float
    """Mean number of lesions in a dense label of a labelled case; 0 without any dense label."""

    def probability(self, component: Component) -> float:
        """Return the probability (0 to 1) that ``component`` is a lesion.

        Example:
            >>> model = fit_lesions([], [], possible=0.2)  # no labelled case has a component
            >>> component = Component(1, 2.0, 0.8, 0.9, (4.0, 4.0, 4.0))
            >>> round(model.probability(component), 3)
            0.8
        """
        standardised = (np.array(component.features) - self.centre) / self.scale
        return float(1 / (1 + np.exp(-(self.intercept + standardised @ self.weights))))


def fit_lesions(
    components: Sequence[Component],
    real: Sequence[bool],
    possible: float,
    lesions_per_case: float = 0.0,
) -> LesionModel:
    """Fit the lesions of one structure to the components of the out-of-fold cases.

    The weights are not negative: a component with a higher probability, a larger volume or a better
    agreement is never less likely.

    Args:
        components: the components; there may be none.
        real: whether each component is a lesion.
        possible: result of :func:`possible_bound`.
        lesions_per_case: mean number of lesions in a dense label; 0 without any.
    """
    table = np.array([component.features for component in components]).reshape(-1, 3)
    centre = np.zeros(3)
    scale = np.ones(3)
    if len(table):
        centre[1:] = table[:, 1:].mean(axis=0)
        scale[1:] = np.maximum(table[:, 1:].std(axis=0), MINIMUM_SPREAD)
    standardised = (table - centre) / scale
    sign = np.where(real, 1.0, -1.0)
    prior = np.array([0.0, 1.0, 0.0, 0.0])

    def loss(parameters: np.ndarray) -> float:
        log_odds = parameters[0] + standardised @ parameters[1:]
        misfit = np.logaddexp(0, -sign * log_odds).sum()
        distance = ((parameters - prior) ** 2).sum()
        return float(misfit + distance / (2 * PRIOR_SD**2))

    bounds = [
        (None, None),
        (0.1, None),
        (0, None),
        (0, None),
    ]
    from scipy.optimize import minimize  # slow to import, and only the calibration fits

    fitted = minimize(
        loss,
        prior,
        method="L-BFGS-B",
        bounds=bounds,
    ).x
    return LesionModel(
        intercept=float(fitted[0]),
        weights=_triple(fitted[1:].tolist()),
        centre=_triple(centre.tolist()),
        scale=_triple(scale.tolist()),
        possible=possible,
        components=len(table),
        real=int(np.sum(real)),
        lesions_per_case=lesions_per_case,
    )


def _triple(values: Sequence[float]) -> FeatureValues:
    first, second, third = values
    return first, second, third


def real_components(
    numbers: np.ndarray,
    components: Sequence[Component],
    lesion: np.ndarray,
    known: np.ndarray,
) -> list[bool | None]:
    """Return whether each component is a lesion of the label; None if its voxels are all unknown.

    Args:
        numbers: ``(X, Y, Z)`` number of the component of each voxel; 0 outside.
        components: the components.
        lesion: ``(X, Y, Z)`` bool, the lesions of the label.
        known: ``(X, Y, Z)`` bool, the voxels whose class is known. Only these count.
    """
    size = len(components) + 1
    voxels = np.bincount(numbers[known], minlength=size)[1:]
    inside = np.bincount(numbers[lesion], minlength=size)[1:]
    real: list[bool | None] = []
    for count, count_inside in zip(voxels, inside, strict=True):
        real.append(bool(count_inside >= TRUE_FRACTION * count) if count else None)
    return real


def count_lesions(lesion: np.ndarray) -> int:
    """Return the number of 26-connected components of ``lesion`` ``(X, Y, Z)`` bool."""
    _, sizes = label_components(lesion)
    return len(sizes)


def possible_bound(voxels: np.ndarray, lesions: np.ndarray) -> float:
    """Return the probability (0 to 1) from which a lesion is possible at a voxel.

    It is the lowest bound such that one in ten voxels above it is a lesion.

    Args:
        voxels: ``(256,)`` voxels of the out-of-fold cases by 255 times their probability.
        lesions: the same for the voxels that are in a lesion.
    """
    if not lesions.sum():
        return UNKNOWN_POSSIBLE
    voxels_above = voxels[::-1].cumsum()[::-1]
    lesions_above = lesions[::-1].cumsum()[::-1]
    precise = lesions_above >= POSSIBLE_PRECISION * voxels_above
    levels = np.flatnonzero(precise & (lesions_above > 0))
    level = levels[0] if len(levels) else 255
    return float(np.clip(level / 255, *POSSIBLE_BOUNDS))
