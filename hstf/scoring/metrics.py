"""Scores of a segmentation against its reference (Metrics Reloaded, Maier-Hein et al., Nat Methods 2024).

Label maps hold class indices ``(X, Y, Z)``; :data:`hstf.imaging.label_values.IGNORED` marks voxels of the reference that count for
nothing: they are left out of the overlap metrics, and lie outside of both masks for distances and volumes.
Scored are structures, each a set of classes (:mod:`hstf.imaging.regions`): the classes, or overlapping regions of them.

Structures that are absent, as the BraTS challenges do:

=====================  ==============================  ===================================
absent from            overlap metrics                 distances
=====================  ==============================  ===================================
both                   1 (``empty="one"``) or NaN      0 (``empty="one"``) or NaN
one of the two         0                               diagonal of the volume in mm
=====================  ==============================  ===================================

The column ``empty`` (``both``, ``prediction``, ``reference`` or nothing) says which of them lacks the structure,
and NaN is left out of means.

A sparse reference (:mod:`hstf.imaging.sparse_labels`) shows neither surfaces nor volumes: these are NaN. A class of which it has no
voxel is not absent but ``unknown``, and all of its scores are NaN.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from hstf.imaging.label_values import IGNORED
from hstf.imaging.regions import (
    Structures,
    box_around,
    class_boxes,
    class_count,
    overlaps,
    structure_mask,
)
from hstf.imaging.slabs import slabs
from hstf.imaging.sparse_labels import is_sparse, unknown_structures

OVERLAP_METRICS = ("accuracy", "precision", "recall", "dice", "jaccard")
DISTANCE_METRICS = ("hd95_mm", "asd_mm", "asd_directed_mm")
VOLUME_METRICS = ("volume_ml", "reference_ml", "volume_difference_ml", "volume_difference_relative")
METRICS = (*OVERLAP_METRICS, *DISTANCE_METRICS, *VOLUME_METRICS)
EmptyPolicy = Literal["one", "exclude"]
EMPTY_DICE: dict[EmptyPolicy, float] = {"one": 1.0, "exclude": float("nan")}
"""Dice of a structure that is in neither map."""


def dice(a: np.ndarray, b: np.ndarray, empty: float = 1.0) -> float:
    """Dice of two masks of one shape, in 0..1; ``empty`` when neither has a voxel.

    Raises:
        ValueError: the shapes differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"masks of shapes {a.shape} and {b.shape}")
    a, b = a.astype(bool, copy=False), b.astype(bool, copy=False)
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else empty


def structure_dice(
    a: np.ndarray, b: np.ndarray, structures: Structures, empty: float = 1.0
) -> np.ndarray:
    """Dice ``(S,)`` of each structure of two maps of class indices, without the voxels to ignore.

    NaN for those that ``b``, the reference, does not tell because it is sparse.
    """
    dices = table_dice(confusion(a, b, class_count(structures)), structures, empty)
    return np.where(unknown_structures(b, structures), np.nan, dices)


def table_dice(table: np.ndarray, structures: Structures, empty: float = 1.0) -> np.ndarray:
    """Dice ``(S,)`` of each structure from :func:`confusion`; ``empty`` for those that are nowhere."""
    hits, predicted, true = overlaps(table, structures)
    both = predicted + true
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), empty)


def confusion(prediction: np.ndarray, reference: np.ndarray, classes: int) -> np.ndarray:
    """Voxel counts ``(classes, classes)``, rows the prediction, columns the reference.

    Values of ``classes`` and above, :data:`hstf.imaging.label_values.IGNORED` among them, are left out. Works slab by slab, so that the
    extra memory is that of a slab.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"label maps of shapes {prediction.shape} and {reference.shape}")
    table = np.zeros(classes * classes, dtype=np.int64)
    for slab in slabs(prediction.shape):
        p, r = prediction[slab], reference[slab]
        valid = (p < classes) & (r < classes)
        cells = p[valid].astype(np.intp) * classes + r[valid]
        table += np.bincount(cells, minlength=classes * classes)
    return table.reshape(classes, classes)


def overlap_metrics(
    hits: int, predicted: int, true: int, voxels: int, empty: EmptyPolicy = "one"
) -> dict[str, float]:
    """Accuracy, precision, recall, Dice, Jaccard of a structure against the rest.

    Precision of a prediction without the structure and recall of a reference without it are 0, as the prediction
    is wrong. Accuracy counts the true background too, so it is high for any small structure.

    Args:
        hits: voxels that the structure has in both maps.
        predicted: those in the prediction.
        true: those in the reference.
        voxels: all that count.
    """
    false_positive, false_negative = predicted - hits, true - hits
    wrong = false_positive + false_negative
    if hits + wrong == 0:
        value = EMPTY_DICE[empty]
        return dict.fromkeys(OVERLAP_METRICS, value) | {"accuracy": 1.0 if voxels else value}
    return {
        "accuracy": 1 - wrong / voxels,
        "precision": hits / max(1, hits + false_positive),
        "recall": hits / max(1, hits + false_negative),
        "dice": 2 * hits / (2 * hits + wrong),
        "jaccard": hits / (hits + wrong),
    }


def surface_distances(
    a: np.ndarray, b: np.ndarray, spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Distances (mm) of each surface voxel of mask ``a`` to the surface of ``b``, and the other way round.

    The surface of a mask are its voxels with a face neighbour outside of it; beyond the array is outside.
    ``spacing`` is the voxel size (mm) along the array's axes. Found with a k-d tree of surface points,
    so time and memory go with the surfaces, not with the volume. Both masks must have voxels.
    """
    from scipy.spatial import KDTree

    surface_a, surface_b = surface(a), surface(b)
    points_a, points_b = np.argwhere(surface_a) * spacing, np.argwhere(surface_b) * spacing
    to_b = np.where(surface_b[surface_a], 0.0, np.inf)  # shared surface voxels need no search
    to_a = np.where(surface_a[surface_b], 0.0, np.inf)
    for distances, points, others in ((to_b, points_a, points_b), (to_a, points_b, points_a)):
        apart = distances > 0
        if apart.any():
            distances[apart] = KDTree(others).query(points[apart])[0]
    return to_b, to_a


def surface(mask: np.ndarray) -> np.ndarray:
    """The voxels of ``mask`` that have a face neighbour outside of it or lie on the edge of the array."""
    interior = mask.copy()
    for axis in range(mask.ndim):
        inner, line = np.moveaxis(interior, axis, 0), np.moveaxis(mask, axis, 0)
        inner[1:] &= line[:-1]
        inner[:-1] &= line[1:]
        inner[[0, -1]] = False
    return mask & ~interior


def distance_metrics(a: np.ndarray, b: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """HD95 and average surface distances (mm) of a predicted mask ``a`` and a reference ``b``, neither empty.

    - ``hd95_mm``: 95th percentile of the distances of both directions pooled, as medpy's ``hd95``, which the
      semi-supervised literature uses (MONAI, Metrics Reloaded: the larger of the two directed percentiles).
    - ``asd_mm``: average symmetric surface distance: the mean of the pooled distances, the ASSD of Metrics
      Reloaded.
    - ``asd_directed_mm``: mean distance from prediction to reference only, which is medpy's ``asd`` and what
      the left-atrium tables call ASD; it is blind to what the prediction misses.
    """
    forth, back = surface_distances(a, b, spacing)
    pooled = np.concatenate([forth, back])
    return {
        "hd95_mm": float(np.percentile(pooled, 95)),
        "asd_mm": float(pooled.mean()),
        "asd_directed_mm": float(forth.mean()),
    }


def score(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: Sequence[float],
    structures: Structures,
    empty: EmptyPolicy = "one",
) -> dict[str, dict[str, float | str]]:
    """All :data:`METRICS` and the column ``empty`` of each structure.

    Args:
        prediction: class indices ``(X, Y, Z)``.
        reference: class indices ``(X, Y, Z)``, :data:`hstf.imaging.label_values.IGNORED` where the truth is unknown.
        spacing: voxel size (mm) along the array's axes.
        structures: what is scored.
        empty: what a structure absent from both counts as, see the module's text.

    Volumes are in ml; differences are prediction minus reference, the relative one as a share of the
    reference (NaN where that is empty and the prediction is not).
    """
    table, sparse = confusion(prediction, reference, class_count(structures)), is_sparse(reference)
    ignored = reference == IGNORED
    if ignored.any():
        prediction = np.where(ignored, IGNORED, prediction)
    boxes = [class_boxes(label, len(table)) for label in (prediction, reference)]
    diagonal = float(np.linalg.norm(np.multiply(prediction.shape, spacing)))
    scores: dict[str, dict[str, float | str]] = {}
    counts = overlaps(table, structures).T.tolist()
    for (name, members), (hits, predicted, true) in zip(structures.items(), counts, strict=True):
        absent = _absent(predicted, true)
        if sparse:
            scores[name] = _sparse_scores(hits, predicted, true, int(table.sum()), empty)
            continue
        if absent:
            none = 0.0 if empty == "one" else float("nan")
            distances = dict.fromkeys(DISTANCE_METRICS, none if absent == "both" else diagonal)
        else:
            box = box_around(own[index] for own in boxes for index in members if index in own)
            assert box is not None, (
                "one of the two has the structure"
            )  # beyond it there is no surface
            distances = distance_metrics(
                structure_mask(prediction[box], members),
                structure_mask(reference[box], members),
                spacing,
            )
        scores[name] = {
            **overlap_metrics(hits, predicted, true, int(table.sum()), empty),
            **distances,
            **_volumes(predicted, true, float(np.prod(spacing)) / 1000),
            "empty": absent,
        }
    return scores


def _sparse_scores(
    hits: int, predicted: int, true: int, voxels: int, empty: EmptyPolicy
) -> dict[str, float | str]:
    """Overlap on the labelled voxels of a sparse reference, if it has the structure; nothing else is known."""
    unknown = dict.fromkeys(METRICS, float("nan"))
    if not true:
        return unknown | {"empty": "unknown"}
    overlap = overlap_metrics(hits, predicted, true, voxels, empty)
    return unknown | overlap | {"empty": _absent(predicted, true)}


def _absent(predicted: int, true: int) -> str:
    if predicted and true:
        return ""
    if predicted or true:
        return "reference" if predicted else "prediction"
    return "both"


def _volumes(predicted: int, true: int, voxel_ml: float) -> dict[str, float]:
    difference = predicted - true
    relative = difference / true if true else (0.0 if difference == 0 else float("nan"))
    return {
        "volume_ml": predicted * voxel_ml,
        "reference_ml": true * voxel_ml,
        "volume_difference_ml": difference * voxel_ml,
        "volume_difference_relative": relative,
    }
