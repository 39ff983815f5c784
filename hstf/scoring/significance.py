"""How sure a mean score is, and whether two models differ: bootstrap over patients, signed-rank test.

Scans of one patient are not independent, so it is patients that are drawn (cluster bootstrap, Field and Welsh,
2007), and the test sees one mean difference per patient. NaN scores (excluded empty classes) are left out.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

SMALLEST_SAMPLE = 6
"""With fewer differences no outcome of the exact two-sided test is below 0.05 (2 / 2**5 = 0.0625)."""
SLAB = 2**22


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap percentile interval; no bounds where fewer than two patients give no spread."""

    mean: float | None
    low: float | None
    high: float | None
    scans: int
    patients: int
    level: float = 0.95

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Paired scores of two models on the same scans."""

    difference: Interval
    """Mean of new minus old."""
    p_value: float | None
    """Two-sided Wilcoxon signed-rank test over patients; None where it cannot tell, see :attr:`note`."""
    patients: int
    """Patients whose mean scores differ, which are those that the test ranks."""
    note: str = ""
    """Why there is no p-value, or why it says little."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def mean_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of ``values`` over scans with its percentile interval, from ``resamples`` draws of ``groups``.

    The same ``seed`` gives the same interval. With few patients (below 20, say) percentile intervals are too
    narrow: they show the spread of these test cases, not of all hospitals.

    Args:
        values: a score of each scan; NaN is left out.
        groups: the patient of each scan; None: each scan its own.
    """
    sums, counts = _group_sums(values, groups)
    scans = int(counts.sum())
    if not scans:
        return Interval(None, None, None, 0, 0, level)
    mean = float(sums.sum() / scans)
    if len(sums) < 2:
        return Interval(mean, None, None, scans, len(sums), level)
    means = _resampled_means(sums, counts, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), scans, len(sums), level)


def _group_sums(
    values: Sequence[float] | np.ndarray, groups: Sequence[str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the values of each group, groups in order of their names."""
    array = np.asarray(values, dtype=float)
    names = np.arange(len(array)) if groups is None else np.asarray(groups)
    if len(names) != len(array):
        raise ValueError(f"{len(array)} values of {len(names)} scans")
    known = ~np.isnan(array)
    _, index = np.unique(names[known], return_inverse=True)
    return np.bincount(index, weights=array[known]), np.bincount(index)


def _resampled_means(
    sums: np.ndarray, counts: np.ndarray, resamples: int, generator: np.random.Generator
) -> np.ndarray:
    """Means over the scans of as many groups, drawn with replacement, in slabs that bound the memory."""
    step = max(1, SLAB // len(sums))
    means = []
    for start in range(0, resamples, step):
        drawn = generator.integers(0, len(sums), (min(step, resamples - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(means)


def compare(
    new: Sequence[float] | np.ndarray,
    old: Sequence[float] | np.ndarray,
    groups: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Whether ``new`` differs from ``old``, scores of two models on the same scans in the same order.

    The test is Wilcoxon's on the mean difference of each patient, two-sided; patients without a difference are
    left out (Wilcoxon's own treatment of zeros). Scipy chooses: exact for few patients without ties, else
    asymptotic.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(new) != len(old):
        raise ValueError(f"{len(new)} scores to compare with {len(old)}")
    differences = np.asarray(new, dtype=float) - np.asarray(old, dtype=float)
    interval = mean_interval(differences, groups, resamples, seed)
    sums, counts = _group_sums(differences, groups)
    means = sums / counts
    ranked = means[np.abs(means) > 1e-12]  # rounding in a mean of equal scores is no difference
    if not len(ranked):
        return Comparison(interval, None, 0, "no patient's score differs")
    from scipy.stats import wilcoxon

    p_value = float(wilcoxon(ranked).pvalue)
    note = (
        f"only {len(ranked)} patients differ: p < 0.05 is out of reach"
        if len(ranked) < SMALLEST_SAMPLE
        else ""
    )
    return Comparison(interval, p_value, len(ranked), note)


def rank_correlation(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> float | None:
    """Spearman's correlation, -1..1; None with fewer than three pairs or where one of the two is constant."""
    pairs = np.array(
        [(x, y) for x, y in zip(a, b, strict=True) if not (np.isnan(x) or np.isnan(y))]
    )
    if len(pairs) < 3 or np.ptp(pairs, axis=0).min() == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)
