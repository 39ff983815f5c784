"""The probability from which lesions are kept in a round, at least the most probable ones.

The probability of a component (:mod:`hstf.method.plr.lesions`) is learned from the members of the
folds. Each has seen a part of the labelled cases only, so with few of them it finds few lesions.
The teacher has seen all labelled cases. Judged by the mistakes of weaker networks, all of its
lesions may seem unlikely. The order of the components by their probability is more reliable than
the probability itself.

The dense labels of the labelled cases also show how many lesions a case has. The expected number of
lesions is their mean number times the number of unlabelled cases. As in class-balanced
self-training (Zou et al., Unsupervised Domain Adaptation for Semantic Segmentation via
Class-Balanced Self-Training, ECCV 2018), a fraction of this number is kept in any case, the most
probable components first.
"""

from collections.abc import Iterable, Mapping, Sequence

from hstf.config.refine import RefineConfig
from hstf.imaging.regions import Structures
from hstf.method.plr.lesions import LesionModel
from hstf.runtime.documents import Document, Part


class LesionBound(Part):
    """From which probability the components of one structure are kept."""

    probability: float
    """Components are kept from this probability (0 to 1)."""
    expected: float
    """Expected number of lesions in all cases of the round: the mean number in the dense labels of
    the labelled cases times the number of cases; 0 without any dense label."""
    components: int
    """Number of components that the teacher predicts in these cases."""
    kept: int
    """Number of components that are kept."""
    is_lowered: bool
    """Whether the bound is below ``refine.lesion_probability``."""


class LesionBounds(Document):
    """``round_<r>/lesion_bounds.json``: the bound of each structure that consists of lesions."""

    stage = "lesions"

    round: int
    cases: int
    """Number of unlabelled cases of the round."""
    structures: dict[str, LesionBound]

    @property
    def probabilities(self) -> dict[str, float]:
        """The bound of each structure."""
        return {name: bound.probability for name, bound in self.structures.items()}


def lesion_bound(
    probabilities: Sequence[float],
    expected: float,
    config: RefineConfig,
) -> LesionBound:
    """Return the bound of a structure.

    Args:
        probabilities: probability (0 to 1) of each component in all cases.
        expected: expected number of lesions in these cases.
        config: section ``refine`` of the configuration.

    Example:
        With four expected lesions, at least two components are kept:

        >>> config = RefineConfig(lesion_probability=0.5, minimum_lesion_fraction=0.5)
        >>> lesion_bound([0.1, 0.4, 0.3, 0.2, 0.1], expected=4.0, config=config).probability
        0.3
        >>> lesion_bound([0.9, 0.8, 0.7, 0.2, 0.1], expected=4.0, config=config).probability
        0.5
    """
    minimum = int(config.minimum_lesion_fraction * expected)
    ranked = sorted(probabilities, reverse=True)
    bound = config.lesion_probability
    if minimum and ranked:
        last = min(minimum, len(ranked))
        bound = min(bound, ranked[last - 1])
    return LesionBound(
        probability=bound,
        expected=expected,
        components=len(ranked),
        kept=sum(probability >= bound for probability in ranked),
        is_lowered=bound < config.lesion_probability,
    )


def lesion_bounds(
    probabilities: Mapping[str, Sequence[float]],
    models: Mapping[str, LesionModel],
    cases: int,
    config: RefineConfig,
) -> dict[str, LesionBound]:
    """Return the bound of each structure.

    Args:
        probabilities: by structure, the probability (0 to 1) of each component in all cases.
        models: model of each structure that consists of lesions.
        cases: number of cases.
        config: section ``refine`` of the configuration.

    Example:
        >>> lesion_bounds({}, {}, cases=10, config=RefineConfig())
        {}
    """
    bounds = {}
    for name, model in models.items():
        expected = model.lesions_per_case * cases
        bounds[name] = lesion_bound(probabilities.get(name, ()), expected, config)
    return bounds


def from_outside(names: Iterable[str], structures: Structures) -> list[list[str]]:
    """Return the structures in groups, those that are inside of others after these.

    Args:
        names: structures that consist of lesions.
        structures: classes of each structure.

    Example:
        >>> from_outside(["core", "tumour"], {"tumour": (1, 2), "core": (2,)})
        [['tumour'], ['core']]
    """
    lesions = {name: set(structures[name]) for name in names}
    groups: dict[int, list[str]] = {}
    for name, classes in lesions.items():
        outer = [other for other in lesions.values() if other > classes]
        groups.setdefault(len(outer), []).append(name)
    return [groups[depth] for depth in sorted(groups)]
