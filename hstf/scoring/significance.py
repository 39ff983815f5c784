"""Confidence intervals of mean scores, and tests whether two models differ.

Scans of one patient are not independent. Intervals are therefore drawn over patients (cluster
bootstrap, Field and Welsh, Journal of the Royal Statistical Society B 2007), and tests see one mean
difference for each patient. NaN scores (absent structures that are excluded) are left out of means.
"""

from collections.abc import Sequence

import numpy as np

from hstf.runtime.documents import Part
from hstf.scoring.averages import finite_or_none, ratio

MINIMUM_SAMPLE = 6
"""With fewer differences the exact two-sided test never has p < 0.05 (2 / 2**5 = 0.0625)."""
LEVEL = 0.95
"""Confidence level of all intervals."""
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
    level: float = LEVEL
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

    Raises:
        ValueError: if there is not one patient for each score.

    Example:
        >>> interval = mean_interval([0.8, 0.9, 0.7], groups=["a", "a", "b"])
        >>> round(interval.mean, 3), interval.patients
        (0.8, 2)
    """
    table = np.asarray(values, dtype=float)[:, None]
    return balanced_interval(table, groups, resamples, seed)


def balanced_interval(
    scores: np.ndarray,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Compute :func:`hstf.scoring.averages.balanced_mean` with its interval over patients.

    Each draw of patients has the balanced mean of its scans. A structure that no drawn scan has is
    left out of this draw.

    Args:
        scores: ``(N, S)`` by scan and structure, NaN if there is no score. ``(M, N, S)``: the mean
            of several models.
        groups: patient of each scan; None if each scan is a patient of its own.
        resamples: number of draws of patients.
        seed: seed of the draws.

    Raises:
        ValueError: if there is not one patient for each scan.

    Example:
        >>> table = np.array([[0.8, np.nan], [0.6, 0.3], [np.nan, np.nan]])
        >>> interval = balanced_interval(table)
        >>> interval.mean, interval.patients, interval.low >= 0.3
        (0.5, 2, True)
    """
    return _interval([(1, scores)], groups, resamples, seed)


def balanced_difference(
    new: np.ndarray,
    old: np.ndarray,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Compute the difference of two balanced means with its interval over patients.

    Args:
        new: scores of the new model, see :func:`balanced_interval`.
        old: scores of the old model on the same scans.
        groups: patient of each scan; None if each scan is a patient of its own.
        resamples: number of draws of patients.
        seed: seed of the draws.

    Raises:
        ValueError: if there is not one patient for each scan.
    """
    return _interval([(1, new), (-1, old)], groups, resamples, seed)


def _interval(
    terms: Sequence[tuple[int, np.ndarray]],
    groups: Sequence[str] | None,
    resamples: int,
    seed: int,
) -> Interval:
    """Return the sum of balanced means, each with its sign, and its interval over patients."""
    tables = []
    for sign, scores in terms:
        tables.append((sign, scores[None] if scores.ndim == 2 else scores))
    exists = np.logical_or.reduce([(~np.isnan(table)).any(axis=(0, 2)) for _, table in tables])
    patients, index = np.unique(_names(groups, len(exists))[exists], return_inverse=True)
    sums = []
    for sign, table in tables:
        sums.append((sign, *_group_sums(table[:, exists], index, len(patients))))
    everybody = np.arange(len(patients))[None]
    # One of two models may have no score at all.
    mean = finite_or_none(_statistic(sums, everybody)[0]) if len(patients) else None
    interval = Interval(
        mean=mean,
        low=None,
        high=None,
        scans=int(exists.sum()),
        patients=len(patients),
    )
    if mean is None or len(patients) < 2:
        return interval
    means = _resampled_means(sums, resamples, np.random.default_rng(seed))
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return interval.model_copy(update={"low": low, "high": high})


def _names(groups: Sequence[str] | None, scans: int) -> np.ndarray:
    """Return the name of the patient of each scan."""
    names = np.arange(scans) if groups is None else np.asarray(groups)
    if len(names) != scans:
        raise ValueError(f"{scans} values of {len(names)} scans")
    return names


def _group_sums(table: np.ndarray, index: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Return sum and number ``(M, G, S)`` of the scores ``(M, N, S)`` of each group."""
    models, _, structures = table.shape
    sums = np.zeros((models, groups, structures))
    counts = np.zeros((models, groups, structures))
    for scan, group in enumerate(index):
        sums[:, group] += np.nan_to_num(table[:, scan])
        counts[:, group] += ~np.isnan(table[:, scan])
    return sums, counts


Sums = Sequence[tuple[int, np.ndarray, np.ndarray]]
"""Sign, sums and numbers ``(M, G, S)`` of each term of a statistic."""


def _statistic(terms: Sums, drawn: np.ndarray) -> np.ndarray:
    """Return the statistic of each draw ``(R,)`` of groups ``(R, G)``."""
    total = np.zeros(len(drawn))
    for sign, sums, counts in terms:
        of_structures = ratio(sums[:, drawn].sum(axis=2), counts[:, drawn].sum(axis=2))
        exists = ~np.isnan(of_structures)
        of_models = ratio(np.nansum(of_structures, axis=2), exists.sum(axis=2))
        total += sign * of_models.mean(axis=0)
    return total


def _resampled_means(
    terms: Sums,
    resamples: int,
    generator: np.random.Generator,
) -> np.ndarray:
    """Draw as many groups as there are, with replacement, and compute the statistic."""
    _, sums, _ = terms[0]
    _, groups, _ = sums.shape
    step = max(1, SLAB // sums.size)
    means = []
    for start in range(0, resamples, step):
        drawn = generator.integers(0, groups, (min(step, resamples - start), groups))
        means.append(_statistic(terms, drawn))
    return np.concatenate(means)


def compare(
    new: Scores,
    old: Scores,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Compare the Dice of two models on the same scans.

    The test is the two-sided Wilcoxon signed-rank test on the mean difference of each patient, see
    :func:`paired_differences`. Patients without a difference are left out, as Wilcoxon does. scipy
    uses the exact test for few patients without ties and the asymptotic test otherwise.

    Args:
        new: Dice of the new model ``(N,)``, by scan and structure ``(N, S)``, or of several models
            ``(M, N, S)``.
        old: Dice of the old model, in the same order.
        groups: patient of each scan; None if each scan is a patient of its own.
        resamples: number of draws of patients for the interval.
        seed: seed of the draws.

    Raises:
        ValueError: if the lengths differ.
    """
    new_table = _models(new)
    old_table = _models(old)
    scans = new_table.shape[1]
    if scans != old_table.shape[1]:
        raise ValueError(f"{scans} scores to compare with {old_table.shape[1]}")
    interval = balanced_difference(new_table, old_table, groups, resamples, seed)
    differences = paired_differences(new_table, old_table)
    exists = ~np.isnan(differences)
    names = _names(groups, scans)[exists]
    _, index = np.unique(names, return_inverse=True)
    means = np.bincount(index, weights=differences[exists]) / np.bincount(index)
    # Rounding makes no difference of equal scores, and no rank of equal differences.
    means = means.round(12)
    ranked = means[means != 0]
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


def _models(scores: Scores) -> np.ndarray:
    """Return scores ``(N,)``, ``(N, S)`` or ``(M, N, S)`` as ``(M, N, S)``."""
    table = np.asarray(scores, dtype=float)
    if table.ndim == 1:
        table = table[:, None]
    return table[None] if table.ndim == 2 else table


def paired_differences(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    """Compute the mean difference of the Dice of each scan over its structures.

    An absent structure has no Dice if the prediction has none of it, either, and Dice 0 after a
    false alarm. If only some of the models have a false alarm in a scan, the others count as 1:
    they are right there, and the pair would be lost otherwise. A structure without any score in
    both tables is left out.

    Args:
        new: ``(M, N, S)`` Dice of one or more models by scan and structure; NaN if there is none.
        old: ``(L, N, S)`` Dice of the models that they are compared with.

    Returns:
        ``(N,)``; NaN for a scan without any score.

    Example:
        >>> with_false_alarm = np.array([[[0.8, 0.0]]])
        >>> without = np.array([[[0.8, np.nan]]])
        >>> paired_differences(without, with_false_alarm)
        array([0.5])
    """
    exists = ~(np.isnan(new).all(axis=0) & np.isnan(old).all(axis=0))
    change = np.nan_to_num(new, nan=1.0).mean(axis=0) - np.nan_to_num(old, nan=1.0).mean(axis=0)
    return ratio(np.where(exists, change, 0).sum(axis=1), exists.sum(axis=1))


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
