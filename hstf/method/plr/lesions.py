"""Lesions, one by one: each component of a lesion class has a probability of being real, and is kept or dropped by it.

A case may have any number of lesions or none, so neither their number nor the largest of them says anything. What does:
the teacher's calibrated probability over the component, its size, and how far the scales agree there. How much each counts
is learned on the components of the out-of-fold predictions by logistic regression, shrunk to the component's mean
calibrated probability itself, which is what counts where there are no such components (MAP estimate with normal priors;
Gelman et al., A weakly informative default prior distribution for logistic regression, 2008).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.optimize import minimize

from hstf.imaging.probabilities import slabs
from hstf.method.plr.anatomy_rules import label_components

TRUE_SHARE = 0.1
"""A component is real where at least this share of its voxels lies in a lesion."""
PRIOR_SD = 1.0
"""Standard deviation of the normal priors of the weights."""
SURE = 0.01
"""Probabilities are held this far from 0 and 1."""
SMALLEST_SPREAD = 0.5, 0.02
"""Signs that hardly vary are not blown up: log2 of the size, agreement."""
POSSIBLE_PRECISION = 0.1
"""Where at least one voxel in ten is a lesion, a lesion is possible."""
POSSIBLE_BOUNDS = (0.05, 0.5)
UNKNOWN_POSSIBLE = 0.2
"""Bound of a possible lesion where no labelled case has one."""


@dataclass(frozen=True)
class Component:
    """A connected component of a lesion class."""

    number: int
    """From 1, in the order of its first voxel."""
    volume_ml: float
    probability: float
    """Mean calibrated probability (0..1) of its class."""
    agreement: float
    """Mean over its voxels of how far the scales agree (0..1): exp of minus their variance. What members disagree about is
    left out, for out of fold, where lesions are learned, there is but one."""
    centre: tuple[float, float, float]
    """Mean voxel index on the grid."""

    @property
    def signs(self) -> tuple[float, float, float]:
        """Log odds of the probability, log2 of the size (ml), agreement."""
        p = float(np.clip(self.probability, SURE, 1 - SURE))
        return float(np.log(p / (1 - p))), float(np.log2(self.volume_ml)), self.agreement


def find_components(
    mask: np.ndarray, probability: np.ndarray, scale_variance: np.ndarray, voxel_mm3: float
) -> tuple[np.ndarray, list[Component]]:
    """The 26-connected components of ``mask``.

    Args:
        mask: ``(X, Y, Z)`` bool.
        probability: ``(X, Y, Z)`` uint8, of 255, calibrated, of the class.
        scale_variance: ``(X, Y, Z)`` uint8, of 255, as :class:`hstf.method.tta.Views` has it.

    Returns:
        The number of the component of each voxel, 0 outside, and the components by number.
    """
    boxes = ndimage.find_objects(mask.view(np.uint8), max_label=1)
    numbers = np.zeros(mask.shape, np.uint32)
    if boxes[0] is None:
        return numbers, []
    numbers[boxes[0]], sizes = label_components(mask[boxes[0]])
    sums = np.zeros((5, len(sizes)))
    for slab in slabs(mask.shape):  # a poor teacher may find lesions in half of a large scan
        places = np.nonzero(numbers[slab])
        owner = numbers[slab][places] - 1
        agreement = np.exp(-(scale_variance[slab][places] / 255))
        values = probability[slab][places] / 255, agreement, places[0] + slab.start, *places[1:]
        sums += [np.bincount(owner, weights=value, minlength=len(sizes)) for value in values]
    columns = np.vstack([sizes * voxel_mm3 / 1000, sums / sizes]).T.tolist()
    return numbers, [
        Component(number, ml, p, agreement, (x, y, z))
        for number, (ml, p, agreement, x, y, z) in enumerate(columns, start=1)
    ]


@dataclass(frozen=True)
class LesionModel:
    """What is known about the lesions of one class."""

    intercept: float
    weights: tuple[float, float, float]
    """Of the signs: log odds, log2 of the size and agreement, the latter two standardised."""
    centre: tuple[float, float, float]
    scale: tuple[float, float, float]
    possible: float
    """Calibrated probability (0..1) from which a lesion is possible at a voxel."""
    components: int
    """Out-of-fold components that it was learned from."""
    real: int
    """Those of them that are lesions."""

    def probability(self, component: Component) -> float:
        """Probability (0..1) that ``component`` is a lesion."""
        signs = (np.array(component.signs) - self.centre) / self.scale
        return float(1 / (1 + np.exp(-(self.intercept + signs @ self.weights))))

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> "LesionModel":
        """Read what ``dataclasses.asdict`` gave."""
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in content.items()
        }
        return cls(**values)


def fit_lesions(
    components: Sequence[Component], real: Sequence[bool], possible: float
) -> LesionModel:
    """Learn one class's lesions from the components of the out-of-fold cases, of which there may be none.

    Surer, larger and more agreed-upon components are never less likely than others.

    Args:
        real: whether each component is a lesion.
        possible: see :func:`possible_bound`.
    """
    table = np.array([component.signs for component in components]).reshape(-1, 3)
    centre, scale = np.zeros(3), np.ones(3)
    if len(table):
        centre[1:] = table[:, 1:].mean(axis=0)
        scale[1:] = np.maximum(table[:, 1:].std(axis=0), SMALLEST_SPREAD)
    signs, sign = (table - centre) / scale, np.where(real, 1.0, -1.0)
    prior = np.array([0.0, 1.0, 0.0, 0.0])

    def loss(parameters: np.ndarray) -> float:
        odds = parameters[0] + signs @ parameters[1:]
        return float(
            np.logaddexp(0, -sign * odds).sum()
            + ((parameters - prior) ** 2).sum() / (2 * PRIOR_SD**2)
        )

    found = minimize(
        loss, prior, method="L-BFGS-B", bounds=[(None, None), (0.1, None), (0, None), (0, None)]
    ).x
    return LesionModel(
        float(found[0]), _triple(found[1:]), _triple(centre), _triple(scale), possible, len(table), int(np.sum(real))
    )  # fmt: skip


def _triple(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = values.tolist()
    return a, b, c


def are_real(
    numbers: np.ndarray, components: Sequence[Component], lesion: np.ndarray, known: np.ndarray
) -> list[bool | None]:
    """Whether enough of each component of the map ``numbers`` lies in the mask ``lesion``, both ``(X, Y, Z)``.

    Only voxels of the mask ``known`` count; None for a component without any.
    """
    size = len(components) + 1
    voxels = np.bincount(numbers[known], minlength=size)[1:]
    inside = np.bincount(numbers[lesion], minlength=size)[1:]
    real = inside >= TRUE_SHARE * voxels
    return [bool(r) if n else None for r, n in zip(real, voxels, strict=True)]


def possible_bound(voxels: np.ndarray, lesions: np.ndarray) -> float:
    """The lowest probability (0..1) such that, of the voxels that reach it, one in ten is a lesion.

    Args:
        voxels: ``(256,)`` voxels of the out-of-fold cases by probability (of 255) of the class.
        lesions: the same, of voxels that have the class.
    """
    if not lesions.sum():
        return UNKNOWN_POSSIBLE
    above, true = (counts[::-1].cumsum()[::-1] for counts in (voxels, lesions))
    enough = np.flatnonzero((true >= POSSIBLE_PRECISION * above) & (true > 0))
    return float(np.clip((enough[0] if len(enough) else 255) / 255, *POSSIBLE_BOUNDS))
