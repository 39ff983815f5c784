"""Means over classes and cases in which NaN and None stand for scores that do not exist."""

from collections.abc import Iterable, Mapping
from math import isfinite
from statistics import fmean, median, stdev
from typing import Any

import numpy as np


def known(value: Any) -> float | None:
    """``value`` as a number; None when it is None, empty text or not finite."""
    if value is None or value == "":
        return None
    number = float(value)
    return number if isfinite(number) else None


def mean(values: Iterable[Any]) -> float | None:
    """Mean of the values that exist."""
    numbers = [number for value in values if (number := known(value)) is not None]
    return fmean(numbers) if numbers else None


def mean_over_classes(classes: Mapping[str, Mapping[str, Any]], metric: str) -> float | None:
    """Mean of a metric over the classes of a case that have it."""
    return mean(scores[metric] for scores in classes.values())


def describe(values: Iterable[Any]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample), median and number of the values that exist."""
    numbers = [number for value in values if (number := known(value)) is not None]
    return {
        "mean": fmean(numbers) if numbers else None,
        "sd": stdev(numbers) if len(numbers) > 1 else None,
        "median": median(numbers) if numbers else None,
        "cases": len(numbers),
    }


def class_balanced(scores: np.ndarray) -> np.ndarray:
    """A value ``(N,)`` for each case whose mean is the mean over the classes of each class's mean over its cases.

    Where every case has every class that is the case's mean over the classes. Where some are missing, a mean over cases of
    such means would give a class that few cases have less than its share; nnU-Net's mean over the foreground, and every
    table with a column for each class, gives all classes the same. The values are linear in the scores (first-order
    influence), so that bootstrap intervals and differences of two models come out as those of that mean. A signed-rank test
    wants the plain means of the cases instead: here a gain in a class shows a little in the cases that lack it, too.

    Args:
        scores: ``(N, K)``, NaN where a case has no score of a class. Classes without any score are left out.
    """
    scores = scores[:, ~np.isnan(scores).all(axis=0)]
    if not scores.size:
        return np.full(len(scores), np.nan)
    means = np.nanmean(scores, axis=0)
    shares = len(scores) / (~np.isnan(scores)).sum(axis=0)
    return (means + shares * np.nan_to_num(scores - means)).mean(axis=1)
