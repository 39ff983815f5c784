"""Means over classes and cases in which NaN and None stand for scores that do not exist."""

from collections.abc import Iterable, Mapping
from math import isfinite
from statistics import fmean, median, stdev
from typing import Any


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
