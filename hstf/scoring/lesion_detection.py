"""Detection of lesions: which lesions a segmentation finds in a case, and which it invents.

A lesion is a connected component of a structure. Predicted lesions are matched one to one with
lesions of the reference (object detection in Metrics Reloaded, Maier-Hein et al., Nature Methods
2024). Lesions below a minimum volume are not counted, and a prediction that matches one of them is
no false positive (rule of COCO). :mod:`hstf.scoring.lesion_summary` counts the matches.

panoptica matches lesions too, but it requires numpy below 2.3 and pandas below 3, and it does not
report a score for each component.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import nan, prod
from typing import Literal

import numpy as np

from hstf.config.evaluate import DetectionConfig
from hstf.imaging.components import connected_components
from hstf.imaging.slabs import slabs
from hstf.imaging.spacing import VoxelSteps, voxel_mm3
from hstf.runtime.documents import Part

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
