"""Lesions as objects: which of them a segmentation finds, and what it invents.

A lesion is a connected component of a class. Predicted and true lesions are matched one to one, which is what precision,
recall, F1, false positives per scan and FROC count (Metrics Reloaded, Maier-Hein et al., Nat Methods 2024, object
detection). Lesions below a minimum volume count for nothing, and what matches them is no false positive (COCO's rule).

panoptica does the matching as well, but holds numpy below 2.3 and pandas below 3, and gives no scores by component.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from hstf.config.evaluate import DetectionConfig
from hstf.imaging.slabs import slabs

FROC_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which sensitivity is told and averaged (LUNA16, Setio et al., Med Image Anal 2017)."""
SLAB_VOXELS = 1 << 24


@dataclass(frozen=True)
class Lesion:
    """A lesion of the reference or of the prediction."""

    volume_mm3: float
    matched: bool
    """With one of the other side; a match below the criterion is none."""
    counted: bool
    """Large enough to count; a matched prediction counts where its reference does."""
    overlap: float
    """With its match, by the measure of the criterion (0..1); 0 without."""
    score: float | None
    """Mean probability (0..1) of the predicted one of the pair; None where there is none or it is unknown."""


@dataclass(frozen=True)
class CaseLesions:
    """The lesions of one class in one case."""

    reference: list[Lesion]
    predicted: list[Lesion]

    @property
    def hits(self) -> list[Lesion]:
        """Lesions of the reference that are found."""
        return [lesion for lesion in self.reference if lesion.counted and lesion.matched]

    @property
    def missed(self) -> list[Lesion]:
        """Lesions of the reference that are not."""
        return [lesion for lesion in self.reference if lesion.counted and not lesion.matched]

    @property
    def false_positives(self) -> list[Lesion]:
        """Predicted lesions that are none."""
        return [lesion for lesion in self.predicted if lesion.counted and not lesion.matched]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "CaseLesions":
        """From :meth:`to_json`."""
        return cls(
            *([Lesion(**values) for values in content[side]] for side in ("reference", "predicted"))
        )


def find_lesions(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    criterion: DetectionConfig,
    probability: np.ndarray | None = None,
) -> CaseLesions:
    """Match the lesions of two masks ``(X, Y, Z)`` of one class.

    Args:
        prediction: boolean.
        reference: boolean.
        spacing: voxel size (mm) along the array's axes.
        criterion: what a lesion and a match are.
        probability: of the class, uint8 0..255, from which predicted lesions get their scores.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"masks of shapes {prediction.shape} and {reference.shape}")
    box = _box(prediction, reference)
    if box is None:
        return CaseLesions([], [])
    (parts, predicted), (truth, true) = (
        _components(mask[box], criterion) for mask in (prediction, reference)
    )
    overlaps = _overlaps(truth, parts, true, predicted, criterion.measure)
    voxel_mm3 = float(np.prod(spacing))
    counted, large = (voxels * voxel_mm3 >= criterion.minimum_mm3 for voxels in (true, predicted))
    pairs = np.array(match(overlaps, criterion.minimum, counted), dtype=int).reshape(-1, 2).T
    scores = _scores(parts, predicted, None if probability is None else probability[box])
    large[pairs[1]] = counted[pairs[0]]
    shared = overlaps[tuple(pairs)]
    return CaseLesions(
        _lesions(
            true * voxel_mm3,
            counted,
            pairs[0],
            shared,
            _of_pairs(len(true), pairs[0], scores[pairs[1]]),
        ),
        _lesions(predicted * voxel_mm3, large, pairs[1], shared, scores),
    )


def _lesions(
    volumes: np.ndarray,
    counted: np.ndarray,
    matched: np.ndarray,
    shared: np.ndarray,
    scores: np.ndarray,
) -> list[Lesion]:
    """The lesions of one side; those at the positions ``matched`` overlap their match by ``shared``."""
    overlap = np.nan_to_num(_of_pairs(len(volumes), matched, shared))
    columns = (column.tolist() for column in (volumes, overlap > 0, counted, overlap))
    known = [None if np.isnan(score) else float(score) for score in scores]
    return [Lesion(*values) for values in zip(*columns, known, strict=True)]


def _of_pairs(number: int, positions: np.ndarray, values: np.ndarray) -> np.ndarray:
    """``(number,)``: ``values`` at ``positions``, NaN elsewhere."""
    result = np.full(number, np.nan)
    result[positions] = values
    return result


def match(overlaps: np.ndarray, minimum: float, counted: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs (reference, predicted) of overlap above 0 and at least ``minimum``.

    As many counted lesions of the reference as possible are matched and, among such matchings, that of the largest total
    overlap is taken (the Hungarian method, with StarDist's weights: Weigert et al., WACV 2020).

    Args:
        overlaps: ``(R, P)``, 0..1.
        minimum: the criterion; 0: any overlap.
        counted: ``(R,)``, which lesions of the reference count.
    """
    from scipy.optimize import linear_sum_assignment

    admissible = (overlaps > 0) & (overlaps >= minimum)
    rows, columns = np.flatnonzero(admissible.any(axis=1)), np.flatnonzero(admissible.any(axis=0))
    if not len(rows):
        return []
    inner = np.ix_(rows, columns)
    most = min(len(rows), len(columns))
    weights = admissible[inner] * (counted[rows, None] + overlaps[inner] / (2 * most))
    chosen = zip(*linear_sum_assignment(weights, maximize=True), strict=True)
    return [(int(rows[r]), int(columns[c])) for r, c in chosen if admissible[rows[r], columns[c]]]


def _box(*masks: np.ndarray) -> tuple[slice, ...] | None:
    """The box around all masks; None where all are empty."""
    used = [np.zeros(n, bool) for n in masks[0].shape]
    for mask in masks:
        for axis in range(mask.ndim):
            used[axis] |= mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis))
    if not used[0].any():
        return None
    ends = [np.flatnonzero(line)[[0, -1]] for line in used]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def _components(mask: np.ndarray, criterion: DetectionConfig) -> tuple[np.ndarray, np.ndarray]:
    """Components of ``mask`` from 1 on, and the voxels ``(n,)`` of each."""
    from hstf.imaging.components import connected_components

    parts = connected_components(mask, criterion.connectivity)
    return parts, _sums(parts, int(parts.max(initial=0)))


def _sums(parts: np.ndarray, number: int, values: np.ndarray | None = None) -> np.ndarray:
    """Voxels ``(number,)`` of each part, or the sum of its ``values``; slab by slab, bincount makes wide copies."""
    total = np.zeros(number + 1)
    for slab in slabs(parts.shape, SLAB_VOXELS):
        numbers = parts[slab]
        inside = numbers > 0
        weights = None if values is None else values[slab][inside]
        total += np.bincount(numbers[inside], weights, number + 1)
    return total[1:]


def _overlaps(
    truth: np.ndarray, parts: np.ndarray, true: np.ndarray, predicted: np.ndarray, measure: str
) -> np.ndarray:
    """IoU or Dice ``(R, P)`` of each true with each predicted part."""
    shared = (truth > 0) & (parts > 0)
    cells = (truth[shared].astype(np.intp) - 1) * len(predicted) + parts[shared] - 1
    hits = np.bincount(cells, minlength=len(true) * len(predicted)).reshape(
        len(true), len(predicted)
    )
    both = true[:, None] + predicted[None]
    return hits / (both - hits) if measure == "iou" else 2 * hits / both


def _scores(parts: np.ndarray, voxels: np.ndarray, probability: np.ndarray | None) -> np.ndarray:
    """Mean probability (0..1) of each part; NaN where probabilities are unknown."""
    if probability is None:
        return np.full(len(voxels), np.nan)
    return _sums(parts, len(voxels), probability) / (255 * voxels)


def froc(
    hits: Sequence[float], false_positives: Sequence[float], lesions: int, scans: int
) -> np.ndarray:
    """Free-response curve ``(n, 3)``: false positives per scan, sensitivity, score from which a prediction counts.

    The corners of the staircase, from the highest score to the lowest. The predicted lesions are the components of the
    segmentation, so the curve ends at the false positives per scan and the recall of the segmentation itself.

    Args:
        hits: scores of the predictions that match a lesion.
        false_positives: scores of the others.
        lesions: of the reference.
        scans: all that were looked at, with and without lesions.
    """
    scores = np.array([*hits, *false_positives], dtype=float)
    hit = np.arange(len(scores)) < len(hits)
    order = np.argsort(-scores, kind="stable")
    found, wrong = np.cumsum(hit[order]), np.cumsum(~hit[order])
    last = np.flatnonzero(np.diff(scores[order], append=-np.inf))  # equal scores count together
    rises = np.diff(found[last], prepend=0) > 0
    corners = last[rises | (np.arange(len(last)) == len(last) - 1)]
    return np.column_stack(
        [wrong[corners] / scans, found[corners] / lesions, scores[order][corners]]
    )


def sensitivity_at(curve: np.ndarray, rate: float) -> float:
    """The highest sensitivity at no more than ``rate`` false positives per scan; beyond its end the curve is flat."""
    reached = curve[curve[:, 0] <= rate + 1e-9, 1]
    return float(reached.max()) if len(reached) else 0.0


def summarise(
    cases: Sequence[CaseLesions],
    groups: Sequence[str],
    criterion: DetectionConfig,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Detection of one class over all cases, as plain values.

    Counts are pooled over the cases. ``precision``, ``recall`` and ``f1`` come with their percentile interval (``low``,
    ``high``) over ``resamples`` draws of patients (``groups``); None where nothing was there to be divided by.
    ``cases_with`` lesions and those ``cases_found`` with at least one hit; ``cases_without`` and, among them, those with
    ``false_alarms``. ``overlap``: mean of the hits. ``froc``: None without scores.
    """
    counts = np.array(
        [[len(c.hits), len(c.missed), len(c.false_positives)] for c in cases]
    ).reshape(-1, 3)
    hits, missed, wrong = (int(n) for n in counts.sum(axis=0))
    ill = counts[:, :2].sum(axis=1) > 0
    found = [lesion for case in cases for lesion in case.hits]
    return {
        "criterion": criterion.model_dump(mode="json"),
        "lesions": hits + missed, "hits": hits, "missed": missed, "false_positives": wrong,
        **_rates(counts, groups, resamples, seed),
        "false_positives_per_scan": wrong / len(cases) if cases else None,
        "overlap": float(np.mean([lesion.overlap for lesion in found])) if found else None,
        "cases_with": int(ill.sum()), "cases_found": int((counts[:, 0] > 0).sum()),
        "cases_without": int((~ill).sum()), "false_alarms": int((counts[~ill, 2] > 0).sum()),
        "recall_by_size": _recall_by_size(cases, criterion.size_bins_mm3),
        "froc": _froc_summary(cases),
    }  # fmt: skip


def _rates(counts: np.ndarray, groups: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """Precision, recall and F1 with intervals, from hits, missed and false positives ``(cases, 3)``."""
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    patients = np.zeros((len(set(groups)), 3))
    np.add.at(patients, index, counts)
    generator = np.random.default_rng(seed)
    drawn = np.empty((0, 3))
    if len(patients) > 1:
        times = generator.multinomial(
            len(patients), np.full(len(patients), 1 / len(patients)), resamples
        )
        drawn = times @ patients
    # columns: hits, missed, false positives; a rate is weighted hits over hits plus weighted faults
    faults = {"precision": (0.0, 1.0), "recall": (1.0, 0.0), "f1": (0.5, 0.5)}
    return {
        name: _rate(counts.sum(axis=0)[None], drawn, weights) for name, weights in faults.items()
    }


def _rate(
    total: np.ndarray, drawn: np.ndarray, weights: tuple[float, float]
) -> dict[str, float | None]:
    def rates(counts: np.ndarray) -> np.ndarray:
        whole = counts[:, 0] + counts[:, 1:] @ weights
        return counts[whole > 0, 0] / whole[whole > 0]

    value, spread = rates(total), rates(drawn)
    low, high = (
        np.quantile(spread, [0.025, 0.975]).tolist() if len(value) and len(spread) else (None, None)
    )
    return {"mean": float(value[0]) if len(value) else None, "low": low, "high": high}


def _recall_by_size(cases: Sequence[CaseLesions], bins: Sequence[float]) -> list[dict[str, Any]]:
    rows = []
    for low, high in pairwise([0.0, *bins, float("inf")]):
        number, found = _within(cases, low, high)
        rows.append({
            "from_mm3": low, "to_mm3": high if np.isfinite(high) else None, "lesions": number, "hits": found,
            "recall": found / number if number else None,
        })  # fmt: skip
    return rows


def _within(cases: Sequence[CaseLesions], low: float, high: float) -> tuple[int, int]:
    """Lesions of the reference of a volume in ``[low, high)``, and how many are found."""
    lesions = [r for c in cases for r in c.reference if r.counted and low <= r.volume_mm3 < high]
    return len(lesions), sum(lesion.matched for lesion in lesions)


def _froc_summary(cases: Sequence[CaseLesions]) -> dict[str, Any] | None:
    hits = [lesion.score for case in cases for lesion in case.hits]
    wrong = [lesion.score for case in cases for lesion in case.false_positives]
    lesions = sum(len(case.hits) + len(case.missed) for case in cases)
    if not lesions or None in hits or None in wrong:
        return None
    curve = froc(
        [s for s in hits if s is not None], [s for s in wrong if s is not None], lesions, len(cases)
    )
    at = {str(rate): sensitivity_at(curve, rate) for rate in FROC_RATES}
    return {"points": curve.tolist(), "sensitivity": at, "score": sum(at.values()) / len(at)}
