"""Means over structures and cases. Missing scores (NaN or None) are left out."""

from collections.abc import Iterable
from math import isfinite, nan, sqrt
from statistics import fmean, median, stdev

import numpy as np

from hstf.runtime.documents import Part

Score = float | None
"""A score; None or NaN if it is missing."""


class Statistics(Part):
    """Mean, standard deviation and median of the scores that exist."""

    mean: float | None
    sd: float | None
    """Standard deviation of the sample; None for fewer than two scores."""
    median: float | None
    cases: int
    """Number of scores that exist."""


def finite_or_none(value: Score) -> float | None:
    """Return ``value``; None if it is missing or not finite."""
    if value is None or not isfinite(value):
        return None
    return float(value)


def existing(values: Iterable[Score]) -> list[float]:
    """Return the values that exist."""
    numbers = []
    for value in values:
        number = finite_or_none(value)
        if number is not None:
            numbers.append(number)
    return numbers


def mean(values: Iterable[Score]) -> float | None:
    """Compute the mean of the values that exist; None if there are none."""
    numbers = existing(values)
    return fmean(numbers) if numbers else None


def mean_or_nan(values: Iterable[Score]) -> float:
    """Compute the mean of the values that exist; NaN if there are none."""
    value = mean(values)
    return nan if value is None else value


def sample_deviation(numbers: list[float]) -> float | None:
    """Compute the standard deviation of a sample; None for fewer than two numbers."""
    return stdev(numbers) if len(numbers) > 1 else None


def standard_error(numbers: list[float]) -> float | None:
    """Compute the standard error of the mean of a sample; None for fewer than two numbers.

    Example:
        >>> standard_error([0.1, 0.2, 0.3, 0.4]) == sample_deviation([0.1, 0.2, 0.3, 0.4]) / 2
        True
    """
    deviation = sample_deviation(numbers)
    return None if deviation is None else deviation / sqrt(len(numbers))


def describe(values: Iterable[Score]) -> Statistics:
    """Compute mean, standard deviation, median and number of the values that exist.

    Example:
        >>> describe([0.5, 0.75, None]).mean
        0.625
    """
    numbers = existing(values)
    return Statistics(
        mean=fmean(numbers) if numbers else None,
        sd=sample_deviation(numbers),
        median=median(numbers) if numbers else None,
        cases=len(numbers),
    )


def structure_means(scores: np.ndarray) -> np.ndarray:
    """Compute the mean over the cases of each structure.

    Args:
        scores: ``(N, S)``, NaN if a case has no score of a structure.

    Returns:
        ``(S,)``; NaN for a structure without any score.
    """
    return ratio(np.nansum(scores, axis=0), (~np.isnan(scores)).sum(axis=0))


def balanced_mean(scores: np.ndarray) -> float:
    """Compute the mean over the structures of the mean over the cases of each structure.

    nnU-Net's mean over the foreground and tables with one column per structure weight in the same
    way. The mean over the cases of the mean over the structures of a case is another number if some
    scores are missing: a structure that few cases have has less weight there.

    Args:
        scores: ``(N, S)``, NaN if a case has no score of a structure. Structures without any score
            are left out.

    Returns:
        NaN if there are no scores at all.

    Example:
        >>> balanced_mean(np.array([[0.8, np.nan], [0.6, 0.3]]))
        0.5
    """
    return mean_or_nan(structure_means(scores))


def describe_balanced(scores: np.ndarray) -> Statistics:
    """Describe the scores of several structures.

    The mean is the balanced one. Standard deviation, median and number are those of the means of
    the cases over their structures; cases without any score do not count.

    Args:
        scores: ``(N, S)``, NaN if a case has no score of a structure.
    """
    of_cases = describe(mean(row) for row in scores)
    return of_cases.model_copy(update={"mean": finite_or_none(balanced_mean(scores))})


def ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Divide sums by counts; NaN where the count is 0."""
    return np.divide(sums, counts, out=np.full(np.shape(sums), nan), where=counts > 0)
