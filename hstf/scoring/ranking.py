"""How well predicted Dice ranks cases, measured against their true Dice.

The figures are those of selective prediction (El-Yaniv and Wiener, Journal of Machine Learning
Research 2010; Geifman and El-Yaniv, NeurIPS 2017): the risk of a set of cases is ``1 - Dice``, and
the coverage is the fraction of all cases that the set keeps.
"""

from collections.abc import Sequence

import numpy as np

WORST = 0.2
"""Fraction of the cases that a reviewer would like to see first: those with the lowest Dice."""
MINIMUM_CASES = 5
"""With fewer cases there is no worst fifth."""


def risk_coverage_area(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Compute the area under the risk-coverage curve (0 to 1, lower is better).

    The cases are kept in the order of their predicted Dice. The area is the mean risk of the best
    case, the best two cases, and so on. A random order has the mean of ``1 - Dice`` as expected
    value. Cases with the same predicted Dice count with their mean.

    Returns:
        None without cases.

    Example:
        >>> round(risk_coverage_area([0.9, 0.8, 0.7], [1.0, 0.8, 0.3]), 4)
        0.1333
        >>> round(risk_coverage_area([0.7, 0.8, 0.9], [1.0, 0.8, 0.3]), 4)
        0.4833
    """
    if not predicted:
        return None
    scores = np.asarray(predicted, float)
    risks = 1 - np.asarray(true, float)
    for value in np.unique(scores):
        risks[scores == value] = risks[scores == value].mean()
    ordered = risks[np.argsort(-scores, kind="stable")]
    return float(np.mean(ordered.cumsum() / np.arange(1, len(ordered) + 1)))


def worst_found(predicted: Sequence[float], true: Sequence[float]) -> float | None:
    """Return which fraction of the worst fifth is among the fifth with the lowest predicted Dice.

    A random order finds a fifth of them, and so does a predicted Dice that is the same for all
    cases: of cases with the same value, each counts with the probability that it is chosen.

    Returns:
        None for fewer than :data:`MINIMUM_CASES` cases.

    Example:
        >>> true = [0.1, 0.2, 0.8, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9]
        >>> worst_found([0.5, 0.9, 0.4, 0.8, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9], true)
        0.5
    """
    if len(predicted) < MINIMUM_CASES:
        return None
    count = round(WORST * len(predicted))
    worst = _chosen_lowest(true, count)
    suspected = _chosen_lowest(predicted, count)
    return float(worst @ suspected) / count


def _chosen_lowest(values: Sequence[float], count: int) -> np.ndarray:
    """Return the probability that each value is among the lowest ``count``, with ties at random."""
    numbers = np.asarray(values, float)
    limit = np.sort(numbers)[count - 1]
    below = numbers < limit
    tied = numbers == limit
    return below + tied * (count - below.sum()) / tied.sum()
