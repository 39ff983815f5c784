"""Detection of lesions: which lesions a segmentation finds, and which it invents.

A lesion is a connected component of a structure. Predicted lesions are matched one to one with
lesions of the reference. Precision, recall, F1, false positives per scan and FROC count the matches
(object detection in Metrics Reloaded, Maier-Hein et al., Nature Methods 2024). Lesions below a
minimum volume are not counted, and a prediction that matches one of them is no false positive (rule
of COCO).

panoptica matches lesions too, but it requires numpy below 2.3 and pandas below 3, and it does not
report a score for each component.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, isfinite, nan, prod
from typing import Literal

import numpy as np

from hstf.config.evaluate import DetectionConfig
from hstf.imaging.components import connected_components
from hstf.imaging.slabs import slabs
from hstf.imaging.spacing import VoxelSteps, voxel_mm3
from hstf.runtime.documents import Part

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which the sensitivity is reported and averaged (LUNA16, Setio et al.,
Medical Image Analysis 2017)."""
SLAB_VOXELS = 1 << 24
"""Approximate number of voxels that are counted at once."""


class Lesion(Part):
    """A lesion of the reference or of the prediction."""

    volume_mm3: float
    matched: bool
    """Whether the lesion matches one of the other side. The overlap must reach the criterion."""
    counted: bool
    """Whether the lesion is large enough to be counted. A matched prediction is counted if its
    reference is."""
    overlap: float
    """Overlap with its match by the measure of the criterion (0 to 1); 0 without a match."""
    score: float | None
    """Mean probability (0 to 1) of the predicted lesion of the pair; None if there is no predicted
    lesion or no probability."""


class CaseLesions(Part):
    """The lesions of one structure in one case."""

    reference: list[Lesion]
    predicted: list[Lesion]

    @property
    def hits(self) -> list[Lesion]:
        """Lesions of the reference that are found."""
        return [lesion for lesion in self.reference if lesion.counted and lesion.matched]

    @property
    def missed(self) -> list[Lesion]:
        """Lesions of the reference that are not found."""
        return [lesion for lesion in self.reference if lesion.counted and not lesion.matched]

    @property
    def false_positives(self) -> list[Lesion]:
        """Predicted lesions without a match."""
        return [lesion for lesion in self.predicted if lesion.counted and not lesion.matched]


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


def find_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: VoxelSteps,
    criterion: DetectionConfig,
    probability: np.ndarray | None = None,
    ignored: np.ndarray | None = None,
) -> CaseLesions:
    """Match the lesions of two masks of one structure.

    Ignored voxels belong to no lesion, but they connect the parts of a predicted lesion: a lesion
    that extends beyond an ignored border is one lesion.

    Args:
        prediction: boolean ``(X, Y, Z)``.
        reference: boolean ``(X, Y, Z)``.
        spacing: voxel size (mm) along the axes of the arrays, or the axes ``(3, 3)`` of the affine.
        criterion: what a lesion and a match are.
        probability: uint8 ``(X, Y, Z)``, 255 times the probability of the structure. The scores of
            predicted lesions come from it.
        ignored: boolean ``(X, Y, Z)``, where the class of the reference is unknown; None: nowhere.

    Raises:
        ValueError: if the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks of shapes {prediction.shape} and {reference.shape}")
    box = _box(prediction, reference)
    if box is None:
        return CaseLesions(reference=[], predicted=[])
    true = _Side.of(reference[box], spacing, criterion)
    ignored_box = None if ignored is None else ignored[box]
    predicted = _Side.of(prediction[box], spacing, criterion, ignored_box)
    overlaps = _overlaps(true, predicted, criterion.measure)
    pairs = match(overlaps, criterion.minimum, true.counted)
    matches = np.array(pairs, dtype=int).reshape(-1, 2)
    true_matches, predicted_matches = matches.T
    predicted.counted[predicted_matches] = true.counted[true_matches]
    pair_overlaps = overlaps[true_matches, predicted_matches]
    scores = np.full(len(predicted), nan)
    if probability is not None:
        scores = predicted.mean_probability(probability[box])
    true_scores = _at(len(true), true_matches, scores[predicted_matches])
    true_overlaps = _at(len(true), true_matches, pair_overlaps)
    predicted_overlaps = _at(len(predicted), predicted_matches, pair_overlaps)
    return CaseLesions(
        reference=list(true.lesions(true_overlaps, true_scores)),
        predicted=list(predicted.lesions(predicted_overlaps, scores)),
    )


@dataclass(frozen=True)
class _Side:
    """The lesions of one mask."""

    parts: np.ndarray
    """Components of the mask, numbered from 1."""
    voxels: np.ndarray
    """Voxels ``(n,)`` of each lesion."""
    mm3: np.ndarray
    """Volume ``(n,)`` of each lesion."""
    counted: np.ndarray
    """Whether each lesion ``(n,)`` is counted."""

    @classmethod
    def of(
        cls,
        mask: np.ndarray,
        spacing: VoxelSteps,
        criterion: DetectionConfig,
        ignored: np.ndarray | None = None,
    ) -> "_Side":
        parts = connected_components(mask, criterion.connectivity)
        if ignored is not None:
            parts = _without(parts, ignored)
        voxels = _sums(parts, int(parts.max(initial=0)))
        mm3 = voxels * voxel_mm3(spacing)
        return cls(parts, voxels, mm3, mm3 >= criterion.minimum_mm3)

    def __len__(self) -> int:
        return len(self.voxels)

    def mean_probability(self, probability: np.ndarray) -> np.ndarray:
        """Compute the mean probability (0 to 1) of each lesion ``(n,)``."""
        total = _sums(self.parts, len(self), probability)
        return total / (255 * self.voxels)

    def lesions(self, overlaps: np.ndarray, scores: np.ndarray) -> Iterator[Lesion]:
        """Yield the lesions. Overlaps and scores ``(n,)`` are NaN where there are none."""
        for index, volume in enumerate(self.mm3):
            overlap = float(np.nan_to_num(overlaps[index]))
            score = float(scores[index])
            yield Lesion(
                volume_mm3=float(volume),
                matched=overlap > 0,
                counted=bool(self.counted[index]),
                overlap=overlap,
                score=None if np.isnan(score) else score,
            )


def _at(
    number: int,
    positions: np.ndarray,
    values: np.ndarray,
) -> np.ndarray:
    """Return ``(number,)`` with ``values`` at ``positions`` and NaN elsewhere."""
    result = np.full(number, nan)
    result[positions] = values
    return result


def match(
    overlaps: np.ndarray,
    minimum: float,
    counted: np.ndarray,
) -> list[tuple[int, int]]:
    """Match lesions one to one by their overlap.

    The matching has the maximum number of counted lesions of the reference. Among such matchings it
    has the maximum total overlap. The Hungarian method finds it with the weights of StarDist
    (Weigert et al., WACV 2020).

    Args:
        overlaps: ``(R, P)``, 0 to 1, of lesions of the reference and predicted lesions.
        minimum: minimum overlap of a match; 0 for any overlap.
        counted: ``(R,)``, which lesions of the reference are counted.

    Returns:
        Positions of the matches: reference, prediction.

    Example:
        >>> overlaps = np.array([[0.9, 0.2], [0.2, 0.0]])
        >>> match(overlaps, minimum=0.1, counted=np.array([True, True]))
        [(0, 1), (1, 0)]
    """
    from scipy.optimize import linear_sum_assignment

    admissible = (overlaps > 0) & (overlaps >= minimum)
    rows = np.flatnonzero(admissible.any(axis=1))
    columns = np.flatnonzero(admissible.any(axis=0))
    if not len(rows):
        return []
    inner = np.ix_(rows, columns)
    maximum_pairs = min(len(rows), len(columns))
    # All overlaps together weigh less than one counted lesion.
    small_overlaps = overlaps[inner] / (2 * maximum_pairs)
    weights = admissible[inner] * (counted[rows, None] + small_overlaps)
    chosen_rows, chosen_columns = linear_sum_assignment(weights, maximize=True)
    pairs = []
    chosen = zip(
        rows[chosen_rows].tolist(),
        columns[chosen_columns].tolist(),
        strict=True,
    )
    for row, column in chosen:
        if admissible[row, column]:
            pairs.append((row, column))
    return pairs


def _box(*masks: np.ndarray) -> tuple[slice, ...] | None:
    """Return the bounding box of all masks; None if all are empty."""
    used = [np.zeros(size, bool) for size in masks[0].shape]
    for mask in masks:
        for axis in range(mask.ndim):
            other_axes = [other for other in range(mask.ndim) if other != axis]
            used[axis] |= mask.any(axis=tuple(other_axes))
    if not used[0].any():
        return None
    box = []
    for line in used:
        first, last = np.flatnonzero(line)[[0, -1]]
        box.append(slice(int(first), int(last) + 1))
    return tuple(box)


def _without(parts: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Remove ignored voxels from numbered parts, and number those that are left from 1."""
    left = np.where(ignored, 0, parts)
    exists = _sums(left, int(parts.max(initial=0))) > 0
    numbers = np.concatenate([[0], np.where(exists, exists.cumsum(), 0)])
    return numbers.astype(parts.dtype)[left]


def _sums(
    parts: np.ndarray,
    number: int,
    values: np.ndarray | None = None,
) -> np.ndarray:
    """Count the voxels ``(number,)`` of each part, or add up their ``values``."""
    total = np.zeros(number + 1)
    # In slabs, because bincount copies its input to 64 bits.
    for slab in slabs(parts.shape, SLAB_VOXELS):
        numbers = parts[slab]
        inside = numbers > 0
        weights = None if values is None else values[slab][inside]
        total += np.bincount(numbers[inside], weights, number + 1)
    return total[1:]


def _overlaps(
    true: _Side,
    predicted: _Side,
    measure: Literal["iou", "dice"],
) -> np.ndarray:
    """Compute IoU or Dice ``(R, P)`` of each true with each predicted lesion."""
    common = (true.parts > 0) & (predicted.parts > 0)
    shape = (len(true), len(predicted))
    rows = true.parts[common].astype(np.intp) - 1
    cells = rows * shape[1] + predicted.parts[common] - 1
    hits = np.bincount(cells, minlength=prod(shape)).reshape(shape)
    both = true.voxels[:, None] + predicted.voxels[None]
    return hits / (both - hits) if measure == "iou" else 2 * hits / both


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
