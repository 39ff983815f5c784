"""Summaries of the lesions of all cases: precision, recall, F1 and FROC, with intervals.

Counts are pooled over the cases (object detection in Metrics Reloaded, Maier-Hein et al., Nature
Methods 2024). :mod:`hstf.scoring.lesion_detection` matches the lesions of a case.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from math import inf, isfinite

import numpy as np

from hstf.config.evaluate import DetectionConfig
from hstf.runtime.documents import Part
from hstf.scoring.lesion_detection import CaseLesions

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which the sensitivity is reported and averaged (LUNA16, Setio et al.,
Medical Image Analysis 2017)."""


class Rate(Part):
    """Precision, recall or F1 with its 95% interval over patients; None if undefined."""

    mean: float | None
    low: float | None
    high: float | None


class SizeRecall(Part):
    """Recall of the lesions of one size."""

    from_mm3: float
    to_mm3: float | None
    """None: no upper limit."""
    lesions: int
    hits: int
    recall: float | None


class FrocSummary(Part):
    """Free-response curve of the predicted lesions."""

    points: list[list[float]]
    """Rows of :func:`froc`."""
    sensitivity: dict[str, float]
    """Sensitivity at each of :data:`FROC_RATES`."""
    score: float
    """Mean of these sensitivities."""


class LesionSummary(Part):
    """Detection of one structure in all cases."""

    criterion: DetectionConfig
    lesions: int
    hits: int
    missed: int
    false_positives: int
    precision: Rate
    recall: Rate
    f1: Rate
    false_positives_per_scan: float | None
    overlap: float | None
    """Mean overlap of the hits."""
    cases_with: int
    """Cases with lesions."""
    cases_found: int
    """Cases with at least one hit."""
    cases_without: int
    false_alarms: int
    """Cases without lesions that have a false positive."""
    recall_by_size: list[SizeRecall]
    froc: FrocSummary | None
    """None without lesions or without scores."""


def froc(
    hits: Sequence[float],
    false_positives: Sequence[float],
    lesions: int,
    scans: int,
) -> np.ndarray:
    """Compute the free-response curve (FROC).

    The predicted lesions are the components of the segmentation. The curve therefore ends at the
    false positives per scan and the recall of the segmentation.

    Args:
        hits: scores of the predictions that match a lesion.
        false_positives: scores of the other predictions.
        lesions: number of lesions of the reference.
        scans: number of all scans, with and without lesions.

    Returns:
        ``(n, 3)``: false positives per scan, sensitivity, and the score from which predictions
        count. The rows are the corners of the staircase, from the highest score to the lowest.
    """
    scores = np.array([*hits, *false_positives], dtype=float)
    is_hit = np.arange(len(scores)) < len(hits)
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(is_hit[order])
    wrong = np.cumsum(~is_hit[order])
    # Predictions with equal scores count together.
    last = np.flatnonzero(np.diff(scores[order], append=-inf))
    rises = np.diff(found[last], prepend=0) > 0
    is_end = np.arange(len(last)) == len(last) - 1
    corners = last[rises | is_end]
    columns = [
        wrong[corners] / scans,
        found[corners] / lesions,
        scores[order][corners],
    ]
    return np.column_stack(columns)


def sensitivity_at(
    curve: np.ndarray,
    rate: float,
) -> float:
    """Return the maximum sensitivity at ``rate`` false positives per scan or fewer.

    Args:
        curve: rows of :func:`froc`. It is flat beyond its end.
        rate: false positives per scan.
    """
    reached = curve[curve[:, 0] <= rate + 1e-9, 1]
    return float(reached.max()) if len(reached) else 0.0


def summarise(
    cases: Sequence[CaseLesions],
    groups: Sequence[str],
    criterion: DetectionConfig,
    resamples: int,
    seed: int,
) -> LesionSummary:
    """Summarise the detection of one structure. Counts are pooled over the cases.

    Args:
        cases: lesions of each case.
        groups: patient of each case.
        criterion: what a lesion and a match are.
        resamples: number of draws of patients for the intervals.
        seed: seed of the draws.
    """
    counts = _counts(cases)
    hits, missed, wrong = counts.sum(axis=0).tolist()
    has_lesions = counts[:, :2].sum(axis=1) > 0
    drawn = _drawn_counts(
        counts,
        groups,
        resamples,
        seed,
    )
    return LesionSummary(
        criterion=criterion,
        lesions=hits + missed,
        hits=hits,
        missed=missed,
        false_positives=wrong,
        # A rate is the hits divided by the hits plus weighted misses and false positives.
        precision=_rate(
            counts,
            drawn,
            missed=0.0,
            wrong=1.0,
        ),
        recall=_rate(
            counts,
            drawn,
            missed=1.0,
            wrong=0.0,
        ),
        f1=_rate(
            counts,
            drawn,
            missed=0.5,
            wrong=0.5,
        ),
        false_positives_per_scan=wrong / len(cases) if cases else None,
        overlap=_mean_overlap(cases),
        cases_with=int(has_lesions.sum()),
        cases_found=int((counts[:, 0] > 0).sum()),
        cases_without=int((~has_lesions).sum()),
        false_alarms=int((counts[~has_lesions, 2] > 0).sum()),
        recall_by_size=_recall_by_size(cases, criterion.size_bins_mm3),
        froc=_froc_summary(cases),
    )


def _counts(cases: Sequence[CaseLesions]) -> np.ndarray:
    """Count hits, missed lesions and false positives ``(cases, 3)``."""
    counts = np.zeros((len(cases), 3), int)
    for row, case in enumerate(cases):
        counts[row] = (
            len(case.hits),
            len(case.missed),
            len(case.false_positives),
        )
    return counts


def _mean_overlap(cases: Sequence[CaseLesions]) -> float | None:
    """Compute the mean overlap of all hits; None without hits."""
    overlaps: list[float] = []
    for case in cases:
        overlaps += [lesion.overlap for lesion in case.hits]
    return float(np.mean(overlaps)) if overlaps else None


def _drawn_counts(
    counts: np.ndarray,
    groups: Sequence[str],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Draw patients with replacement and add up their counts.

    Args:
        counts: hits, missed lesions and false positives ``(cases, 3)``.
        groups: patient of each case.
        resamples: number of draws.
        seed: seed of the draws.

    Returns:
        ``(resamples, 3)``; no rows if there are fewer than two patients.
    """
    names = np.asarray(groups, dtype=str)
    _, index = np.unique(names, return_inverse=True)
    number = len(set(groups))
    if number < 2:
        return np.empty((0, 3))
    patients = np.zeros((number, 3))
    np.add.at(patients, index, counts)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(number, np.full(number, 1 / number), resamples)
    return times @ patients


def _rate(
    counts: np.ndarray,
    drawn: np.ndarray,
    missed: float,
    wrong: float,
) -> Rate:
    """Compute a rate of all cases and its interval from drawn patients.

    Args:
        counts: hits, missed lesions and false positives ``(cases, 3)``.
        drawn: the same of each draw of patients.
        missed: weight of missed lesions.
        wrong: weight of false positives.
    """
    weights = (missed, wrong)
    value = _defined_rates(counts.sum(axis=0)[None], weights)
    spread = _defined_rates(drawn, weights)
    if not len(value):
        return Rate(mean=None, low=None, high=None)
    mean = float(value[0])
    if not len(spread):
        return Rate(mean=mean, low=None, high=None)
    low, high = np.quantile(spread, [0.025, 0.975]).tolist()
    return Rate(mean=mean, low=low, high=high)


def _defined_rates(
    counts: np.ndarray,
    weights: tuple[float, float],
) -> np.ndarray:
    """Compute the rates of rows of counts; rows without any count are left out."""
    whole = counts[:, 0] + counts[:, 1:] @ weights
    return counts[whole > 0, 0] / whole[whole > 0]


def _recall_by_size(
    cases: Sequence[CaseLesions],
    bins: Iterable[float],
) -> list[SizeRecall]:
    lesions = []
    for case in cases:
        lesions += [lesion for lesion in case.reference if lesion.counted]
    rows = []
    for low, high in pairwise([0.0, *bins, inf]):
        within = [lesion for lesion in lesions if low <= lesion.volume_mm3 < high]
        hits = sum(lesion.matched for lesion in within)
        rows.append(
            SizeRecall(
                from_mm3=low,
                to_mm3=high if isfinite(high) else None,
                lesions=len(within),
                hits=hits,
                recall=hits / len(within) if within else None,
            )
        )
    return rows


def _froc_summary(cases: Sequence[CaseLesions]) -> FrocSummary | None:
    """Compute the FROC of all cases; None without lesions or without scores."""
    lesions = 0
    hits: list[float | None] = []
    wrong: list[float | None] = []
    for case in cases:
        lesions += len(case.hits) + len(case.missed)
        hits += [lesion.score for lesion in case.hits]
        wrong += [lesion.score for lesion in case.false_positives]
    if not lesions or None in hits or None in wrong:
        return None
    hit_scores = [score for score in hits if score is not None]
    wrong_scores = [score for score in wrong if score is not None]
    curve = froc(
        hit_scores,
        wrong_scores,
        lesions,
        len(cases),
    )
    sensitivity = {}
    for rate in FROC_RATES:
        sensitivity[str(rate)] = sensitivity_at(curve, rate)
    score = sum(sensitivity.values()) / len(sensitivity)
    return FrocSummary(points=curve.tolist(), sensitivity=sensitivity, score=score)
