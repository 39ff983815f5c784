"""Confidence intervals of mean scores, and tests whether two models differ.

Scans of one patient are not independent. Intervals are therefore drawn over patients (cluster
bootstrap, Field and Welsh, Journal of the Royal Statistical Society B 2007), and tests see one mean
difference for each patient. NaN scores (absent structures that are excluded) are left out.
"""

from collections.abc import Sequence

import numpy as np

from hstf.runtime.documents import Part

MINIMUM_SAMPLE = 6
"""With fewer differences the exact two-sided test never has p < 0.05 (2 / 2**5 = 0.0625)."""
SIGNIFICANT = 0.05
"""A difference with a p-value below it, and an interval without 0, is more than chance."""
SLAB = 2**22
"""Maximum number of draws that are held in memory at once."""

Scores = Sequence[float] | np.ndarray
"""A score of each scan; NaN is left out."""


class Interval(Part):
    """A mean with its bootstrap percentile interval."""

    mean: float | None
    """None without scores."""
    low: float | None
    """None with fewer than two patients."""
    high: float | None
    scans: int
    patients: int
    level: float = 0.95
    """Confidence level."""


class Comparison(Part):
    """Paired scores of two models on the same scans."""

    difference: Interval
    """Mean of the new minus the old scores."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test over patients; None if there is nothing to rank."""
    patients: int
    """Patients whose mean scores differ: the sample of the test."""
    note: str = ""
    """Why there is no p-value, or why it means little."""


def mean_interval(
    values: Scores,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Compute the mean over scans with its percentile interval over patients.

    The same ``seed`` always results in the same interval. With few patients (below about 20)
    percentile intervals are too narrow. They describe the spread of these test cases, not of all
    hospitals.

    Args:
        values: a score of each scan.
        groups: patient of each scan; None if each scan is a patient of its own.
        resamples: number of draws of patients.
        seed: seed of the draws.
        level: confidence level.

    Raises:
        ValueError: if there is not one patient for each score.

    Example:
        >>> interval = mean_interval([0.8, 0.9, 0.7], groups=["a", "a", "b"])
        >>> round(interval.mean, 3), interval.patients
        (0.8, 2)
    """
    sums, counts = _group_sums(values, groups)
    scans = int(counts.sum())
    patients = len(sums)
    interval = Interval(
        mean=float(sums.sum() / scans) if scans else None,
        low=None,
        high=None,
        scans=scans,
        patients=patients,
        level=level,
    )
    if patients < 2:
        return interval
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return interval.model_copy(update={"low": low, "high": high})


def _group_sums(
    values: Scores,
    groups: Sequence[str] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return sum and number of the values of each group, in the order of the group names."""
    array = np.asarray(values, dtype=float)
    names = np.arange(len(array)) if groups is None else np.asarray(groups)
    if len(names) != len(array):
        raise ValueError(f"{len(array)} values of {len(names)} scans")
    exists = ~np.isnan(array)
    _, index = np.unique(names[exists], return_inverse=True)
    return np.bincount(index, weights=array[exists]), np.bincount(index)


def _resampled_means(
    sums: np.ndarray,
    counts: np.ndarray,
    resamples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and compute the mean over their scans."""
    groups = len(sums)
    step = max(1, SLAB // groups)
    means = []
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), groups)
        drawn = generator.integers(0, groups, size)
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def compare(
    new: Scores,
    old: Scores,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare the scores of two models on the same scans.

    The test is the two-sided Wilcoxon signed-rank test on the mean difference of each patient.
    Patients without a difference are left out, as Wilcoxon does. scipy uses the exact test for few
    patients without ties and the asymptotic test otherwise.

    Args:
        new: scores of the new model.
        old: scores of the old model, in the same order.
        groups: patient of each scan; None if each scan is a patient of its own.
        resamples: number of draws of patients for the interval.
        seed: seed of the draws.

    Raises:
        ValueError: if the lengths differ.
    """
    if len(new) != len(old):
        raise ValueError(f"{len(new)} scores to compare with {len(old)}")
    differences = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    interval = mean_interval(
        differences,
        groups,
        resamples,
        seed,
    )
    sums, counts = _group_sums(differences, groups)
    means = sums / counts
    # Rounding in the mean of equal scores is no difference.
    ranked = means[np.abs(means) > 1e-12]
    patients = len(ranked)
    if not patients:
        note = "no patient's score differs"
        return Comparison(
            difference=interval,
            p_value=None,
            patients=0,
            note=note,
        )
    from scipy.stats import wilcoxon

    p_value = float(wilcoxon(ranked).pvalue)
    note = ""
    if patients < MINIMUM_SAMPLE:
        note = f"only {patients} patients differ: p < 0.05 is not possible"
    return Comparison(
        difference=interval,
        p_value=p_value,
        patients=patients,
        note=note,
    )


def direction(low: float | None, high: float | None, p_value: float | None) -> int:
    """Return 1 if a difference is above chance, -1 if it is below, 0 if it may be chance.

    A difference needs an interval without 0 and a significant test: the interval of few patients is
    too narrow.

    Args:
        low: lower end of the interval of the difference.
        high: upper end of the interval.
        p_value: p-value of the test.
    """
    if low is None or high is None or p_value is None or p_value >= SIGNIFICANT:
        return 0
    return 1 if low > 0 else -1 if high < 0 else 0


def rank_correlation(
    a: Scores,
    b: Scores,
) -> float | None:
    """Compute Spearman's rank correlation (-1 to 1).

    Returns:
        None for fewer than three pairs without NaN, or if one of the two is constant.
    """
    pairs = []
    for x, y in zip(a, b, strict=True):
        if not (np.isnan(x) or np.isnan(y)):
            pairs.append((x, y))
    table = np.array(pairs)
    if len(table) < 3 or np.ptp(table, axis=0).min() == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(table[:, 0], table[:, 1]).statistic)
