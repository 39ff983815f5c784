"""Metrics that compare a segmentation with its reference.

Definitions follow Metrics Reloaded (Maier-Hein et al., Nature Methods 2024). Label maps hold class
indices ``(X, Y, Z)``. Voxels of the reference with :data:`hstf.imaging.label_values.IGNORED` are
left out of overlap metrics; for distances and volumes they are outside of both masks. Structures
are scored: classes, or overlapping regions of classes (:mod:`hstf.imaging.regions`).

:data:`METRICS` lists all metrics. To add one, write a function of a :class:`StructurePair` and add
one line to the list. The metric becomes a column of ``cases.csv`` and a key of ``summary.json``.

A structure may be absent. The rules are those of the BraTS challenges:

=====================  ==============================  ===================================
absent from            overlap metrics                 distances
=====================  ==============================  ===================================
both                   1 (``empty="one"``) or NaN      0 (``empty="one"``) or NaN
one of the two         0                               diagonal of the volume in mm
=====================  ==============================  ===================================

Accuracy counts the correct background, and volumes are 0 without the structure: these rules do not
change them.

The column ``empty`` names the label map that lacks the structure (``both``, ``prediction``,
``reference``; empty text if none does). Means leave out NaN.

A sparse reference (:mod:`hstf.imaging.sparse_labels`) shows neither surfaces nor volumes: distances
and volumes are NaN. A class without a voxel in a sparse reference is not absent but ``unknown``,
and all its scores are NaN.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan, nan
from typing import Literal

import numpy as np

from hstf.imaging.label_values import IGNORED
from hstf.imaging.regions import (
    Box,
    ClassIndices,
    Structures,
    box_around,
    class_boxes,
    class_count,
    overlaps,
    structure_mask,
)
from hstf.imaging.spacing import VoxelSteps, diagonal_mm, voxel_mm3
from hstf.imaging.sparse_labels import is_sparse
from hstf.scoring.confusion import confusion
from hstf.scoring.surfaces import surface_distances

EmptyPolicy = Literal["one", "exclude"]
"""How a structure counts that is absent from both label maps."""
EMPTY_DICE: dict[EmptyPolicy, float] = {"one": 1.0, "exclude": nan}
"""Dice of a structure that is absent from both label maps."""


@dataclass(frozen=True)
class StructurePair:
    """One structure in a prediction and in its reference: what a metric is computed from."""

    hits: int
    """Voxels of the structure in both label maps."""
    predicted: int
    """Voxels of the structure in the prediction."""
    true: int
    """Voxels of the structure in the reference."""
    voxels: int
    """All voxels that are not ignored."""
    spacing: VoxelSteps
    """Voxel size in mm, or the axes of the affine."""
    masks: tuple[np.ndarray, np.ndarray] | None = None
    """Masks of prediction and reference, cropped to both; None if one of them is empty."""

    @property
    def wrong(self) -> int:
        """Number of false positive and false negative voxels."""
        false_positive = self.predicted - self.hits
        false_negative = self.true - self.hits
        return false_positive + false_negative

    @property
    def absent(self) -> str:
        """The label map that lacks the structure; empty text if none does."""
        if self.predicted and self.true:
            return ""
        if self.predicted:
            return "reference"
        return "prediction" if self.true else "both"

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return voxel_mm3(self.spacing) / 1000

    @cached_property
    def distances(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances (mm) from prediction to reference and back, see :func:`surface_distances`."""
        assert self.masks is not None, "an absent structure has no surface"
        return surface_distances(*self.masks, self.spacing)


@dataclass(frozen=True)
class Metric:
    """A metric of a structure."""

    name: str
    """Column of ``cases.csv``; it ends with the unit, if there is one."""
    kind: Literal["overlap", "distance", "volume"]
    """Decides which rule holds if the structure is absent, and what a sparse reference shows."""
    compute: Callable[[StructurePair], float]


def _ratio(
    part: float,
    whole: float,
) -> float:
    """Return ``part / whole``; NaN if ``whole`` is 0."""
    return part / whole if whole else nan


def accuracy(pair: StructurePair) -> float:
    """Compute the fraction of voxels that are correct.

    Correct background counts too, so the value is high for any small structure.
    """
    return 1 - pair.wrong / pair.voxels if pair.voxels else nan


def precision(pair: StructurePair) -> float:
    """Compute the fraction of the predicted voxels that are correct; 0 without a prediction."""
    if pair.absent == "prediction":
        return 0.0
    return _ratio(pair.hits, pair.predicted)


def recall(pair: StructurePair) -> float:
    """Compute the fraction of the reference that is found; 0 if the reference is empty."""
    if pair.absent == "reference":
        return 0.0
    return _ratio(pair.hits, pair.true)


def dice_coefficient(pair: StructurePair) -> float:
    """Compute the Dice coefficient."""
    return _ratio(2 * pair.hits, 2 * pair.hits + pair.wrong)


def jaccard_index(pair: StructurePair) -> float:
    """Compute intersection over union."""
    return _ratio(pair.hits, pair.hits + pair.wrong)


def hd95(pair: StructurePair) -> float:
    """Compute the 95th percentile (mm) of the distances of both directions, pooled.

    This is ``hd95`` of medpy, which the semi-supervised literature uses. MONAI and Metrics Reloaded
    report the maximum of the two directed percentiles instead.
    """
    return float(np.percentile(np.concatenate(pair.distances), 95))


def average_surface_distance(pair: StructurePair) -> float:
    """Compute the mean (mm) of the distances of both directions: the ASSD of Metrics Reloaded."""
    return float(np.concatenate(pair.distances).mean())


def directed_surface_distance(pair: StructurePair) -> float:
    """Compute the mean distance (mm) from the prediction to the reference.

    This is ``asd`` of medpy, which tables of the left atrium call ASD. It does not see what the
    prediction misses.
    """
    to_reference, _ = pair.distances
    return float(to_reference.mean())


def predicted_volume(pair: StructurePair) -> float:
    """Compute the volume of the prediction in ml."""
    return pair.predicted * pair.voxel_ml


def reference_volume(pair: StructurePair) -> float:
    """Compute the volume of the reference in ml."""
    return pair.true * pair.voxel_ml


def volume_difference(pair: StructurePair) -> float:
    """Compute the volume of the prediction minus that of the reference, in ml."""
    return (pair.predicted - pair.true) * pair.voxel_ml


def relative_volume_difference(pair: StructurePair) -> float:
    """Compute the volume difference as a fraction of the reference.

    It is NaN if only the reference is empty, and 0 if both are empty.
    """
    if pair.absent == "both":
        return 0.0
    return _ratio(pair.predicted - pair.true, pair.true)


_ALL_METRICS = (
    Metric("accuracy", "overlap", accuracy),
    Metric("precision", "overlap", precision),
    Metric("recall", "overlap", recall),
    Metric("dice", "overlap", dice_coefficient),
    Metric("jaccard", "overlap", jaccard_index),
    Metric("hd95_mm", "distance", hd95),
    Metric("asd_mm", "distance", average_surface_distance),
    Metric("asd_directed_mm", "distance", directed_surface_distance),
    Metric("volume_ml", "volume", predicted_volume),
    Metric("reference_ml", "volume", reference_volume),
    Metric("volume_difference_ml", "volume", volume_difference),
    Metric("volume_difference_relative", "volume", relative_volume_difference),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL_METRICS}
"""All metrics by name, in the order of the columns of ``cases.csv``."""


def score(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: VoxelSteps,
    structures: Structures,
    empty: EmptyPolicy = "one",
) -> dict[str, dict[str, float | str]]:
    """Compute all :data:`METRICS` and the column ``empty`` of each structure.

    Args:
        prediction: class indices ``(X, Y, Z)``.
        reference: class indices ``(X, Y, Z)``, :data:`hstf.imaging.label_values.IGNORED` where the
            class is unknown.
        spacing: voxel size (mm) along the axes of the arrays, or the axes ``(3, 3)`` of the affine
            if they are not at right angles (:func:`hstf.imaging.affines.steps_of`).
        structures: structures to score.
        empty: how a structure counts that is absent from both, see the text of the module.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> reference = np.zeros((8, 8, 8), np.uint8)
        >>> reference[2:6, 2:6, 2:6] = 1
        >>> prediction = np.roll(reference, 1, axis=0)
        >>> score(prediction, reference, (1.0, 1.0, 1.0), {"liver": (1,)})["liver"]["dice"]
        0.75
    """
    table = confusion(prediction, reference, class_count(structures))
    sparse = is_sparse(reference)
    ignored = reference == IGNORED
    if ignored.any():
        prediction = np.where(ignored, IGNORED, prediction)
    boxes = [class_boxes(label, len(table)) for label in (prediction, reference)]
    diagonal = diagonal_mm(prediction.shape, spacing)
    voxels = int(table.sum())
    counts = overlaps(table, structures).T.tolist()
    scores: dict[str, dict[str, float | str]] = {}
    for name, (hits, predicted, true) in zip(structures, counts, strict=True):
        masks = None
        if predicted and true and not sparse:
            classes = structures[name]
            box = _box_of(boxes, classes)
            predicted_mask = structure_mask(prediction[box], classes)
            masks = (predicted_mask, structure_mask(reference[box], classes))
        pair = StructurePair(
            hits,
            predicted,
            true,
            voxels,
            spacing,
            masks,
        )
        if sparse:
            scores[name] = _sparse_scores(pair, empty)
        else:
            scores[name] = _scores(pair, empty, diagonal)
    return scores


def _box_of(
    boxes: Sequence[Mapping[int, Box]],
    classes: ClassIndices,
) -> Box:
    """Return the box around the classes of a structure in all label maps."""
    found = []
    for boxes_of_map in boxes:
        found += [boxes_of_map[index] for index in classes if index in boxes_of_map]
    box = box_around(found)
    assert box is not None, "at least one of the label maps has the structure"
    return box


def _scores(
    pair: StructurePair,
    empty: EmptyPolicy,
    diagonal: float,
) -> dict[str, float | str]:
    """Compute all metrics of a structure and apply the rules for absent structures."""
    scores: dict[str, float | str] = {}
    for name, metric in METRICS.items():
        if metric.kind == "distance" and pair.absent:
            scores[name] = _distance_of_absent(pair, empty, diagonal)
        elif metric.kind == "overlap":
            scores[name] = _overlap(metric, pair, empty)
        else:
            scores[name] = metric.compute(pair)
    scores["empty"] = pair.absent
    return scores


def _distance_of_absent(
    pair: StructurePair,
    empty: EmptyPolicy,
    diagonal: float,
) -> float:
    if pair.absent != "both":
        return diagonal
    return 0.0 if empty == "one" else nan


def _overlap(
    metric: Metric,
    pair: StructurePair,
    empty: EmptyPolicy,
) -> float:
    """Compute an overlap metric. It is undefined (NaN) if the structure is absent from both."""
    value = metric.compute(pair)
    return EMPTY_DICE[empty] if isnan(value) else value


def _sparse_scores(
    pair: StructurePair,
    empty: EmptyPolicy,
) -> dict[str, float | str]:
    """Compute the overlap on the labelled voxels of a sparse reference; nothing else is known."""
    scores: dict[str, float | str] = dict.fromkeys(METRICS, nan)
    if not pair.true:
        return scores | {"empty": "unknown"}
    for name, metric in METRICS.items():
        if metric.kind == "overlap":
            scores[name] = _overlap(metric, pair, empty)
    scores["empty"] = pair.absent
    return scores


def dice(
    a: np.ndarray,
    b: np.ndarray,
    empty: float = 1.0,
) -> float:
    """Compute the Dice coefficient (0 to 1) of two masks.

    Args:
        a: mask of any shape.
        b: mask of the same shape.
        empty: result if both masks are empty.

    Raises:
        ValueError: if the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}")
    a = a.astype(bool, copy=False)
    b = b.astype(bool, copy=False)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else empty
