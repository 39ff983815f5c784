"""Means over structures and cases. Missing scores (NaN or None) are left out."""

from collections.abc import Iterable
from math import isfinite, nan
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


def class_balanced(scores: np.ndarray) -> np.ndarray:
    """Compute one value per case whose mean weights all structures equally.

    The mean of the values is the mean over the structures of the mean over the cases of each
    structure. nnU-Net's mean over the foreground and tables with one column per structure weight in
    the same way. If every case has every structure, the value of a case is its mean over the
    structures. If some scores are missing, the mean of these means would give less weight to a
    structure that few cases have.

    The values are linear in the scores (first-order influence). Bootstrap intervals, and
    differences of two models, are therefore those of the balanced mean. A signed-rank test needs
    the plain means of the cases instead: here a gain in one structure also changes, a little, the
    values of cases that lack it.

    Args:
        scores: ``(N, S)``, NaN if a case has no score of a structure. Structures without any score
            are left out.

    Returns:
        ``(N,)``; NaN if there are no scores at all.

    Example:
        >>> float(class_balanced(np.array([[0.8, np.nan], [0.6, 0.3]])).mean())
        0.5
    """
    has_scores = ~np.isnan(scores).all(axis=0)
    scores = scores[:, has_scores]
    if not scores.size:
        return np.full(len(scores), nan)
    means = np.nanmean(scores, axis=0)
    weights = len(scores) / (~np.isnan(scores)).sum(axis=0)
    deviations = np.nan_to_num(scores - means)
    return (means + weights * deviations).mean(axis=1)
