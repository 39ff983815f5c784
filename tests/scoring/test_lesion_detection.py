"""Detection of lesions, compared with cases made by hand and with brute force."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label as scipy_label
from support.lesions import lesion

from hstf.config.evaluate import DetectionConfig
from hstf.scoring.lesion_detection import find_lesions, match

SPACING = (0.5, 1.0, 2.0)
"""A voxel has 1 mm3."""
ANY = DetectionConfig(minimum=0.0)


def boxes(*corners: tuple[int, int]) -> np.ndarray:
    """Return a mask ``(40, 8, 8)`` with boxes of 4 x 4 voxels in Y and Z between the given X."""
    mask = np.zeros((40, 8, 8), bool)
    for start, stop in corners:
        mask[start:stop, 2:6, 2:6] = True
    return mask


def test_find_lesions_reports_hits_misses_and_false_positives() -> None:
    reference = boxes((2, 8), (20, 22))
    prediction = boxes((3, 8), (30, 33))
    probability = (prediction * 204).astype(np.uint8)
    probability[30:33] = np.where(prediction[30:33], 102, 7)
    found = find_lesions(prediction, reference, SPACING, DetectionConfig(), probability)
    (hit,) = found.hits
    assert hit.volume_mm3 == 96
    assert hit.overlap == pytest.approx(80 / 96)
    assert hit.score == pytest.approx(0.8)
    assert found.missed == [lesion(32.0, 0.0, None)]
    (invented,) = found.false_positives
    assert invented.volume_mm3 == 48
    assert invented.score == pytest.approx(0.4)


def test_find_lesions_does_not_split_a_lesion_at_ignored_voxels() -> None:
    """One prediction extends beyond an ignored border, one is ignored, one is wrong."""
    ignored = boxes((8, 10), (20, 24))
    prediction = boxes((4, 12), (21, 23), (30, 32))
    probability = np.where(ignored, 255, 51).astype(np.uint8)
    found = find_lesions(
        prediction, boxes((4, 8)), SPACING, DetectionConfig(), probability, ignored
    )
    (hit,) = found.hits
    assert hit.overlap == pytest.approx(4 / 6)
    assert hit.score == pytest.approx(0.2)
    assert [lesion.volume_mm3 for lesion in found.predicted] == [96, 32]
    (invented,) = found.false_positives
    assert invented.volume_mm3 == 32


@pytest.mark.parametrize(
    ("measure", "minimum", "hit"),
    [
        ("iou", 0.25, True),
        ("iou", 0.26, False),
        ("dice", 0.4, True),
        ("dice", 0.41, False),
        ("iou", 0.0, True),
    ],
)
def test_find_lesions_matches_by_the_criterion(measure: str, minimum: float, hit: bool) -> None:
    criterion = DetectionConfig(measure=measure, minimum=minimum)
    # 2 of 8 planes: IoU 1/4, Dice 4/10.
    found = find_lesions(boxes((2, 4)), boxes((2, 10)), SPACING, criterion)
    assert len(found.hits) == hit
    assert len(found.missed) == len(found.false_positives) == (not hit)


def test_find_lesions_counts_two_pieces_as_a_hit_and_a_false_positive() -> None:
    found = find_lesions(boxes((2, 4), (6, 10)), boxes((2, 10)), SPACING, ANY)
    # The larger piece is the hit.
    assert [lesion.overlap for lesion in found.hits] == [0.5]
    assert [lesion.volume_mm3 for lesion in found.false_positives] == [32.0]


def test_find_lesions_counts_two_merged_lesions_as_a_hit_and_a_miss() -> None:
    found = find_lesions(boxes((2, 12)), boxes((2, 6), (7, 12)), SPACING, ANY)
    assert len(found.hits) == len(found.missed) == 1
    assert not found.false_positives


@pytest.mark.parametrize(("connectivity", "lesions"), [(26, 1), (18, 2), (6, 2)])
def test_find_lesions_joins_voxels_by_connectivity(connectivity: int, lesions: int) -> None:
    mask = np.zeros((4, 4, 4), bool)
    # Two voxels with a common corner.
    mask[1, 1, 1] = mask[2, 2, 2] = True
    criterion = DetectionConfig(connectivity=connectivity)
    assert len(find_lesions(mask, mask, SPACING, criterion).hits) == lesions


def test_find_lesions_does_not_count_small_lesions() -> None:
    criterion = DetectionConfig(minimum=0.0, minimum_mm3=40.0)
    # 32, 160 and 32 mm3.
    reference = boxes((2, 4), (10, 20), (30, 32))
    # On the first small lesion; a small part of the large lesion; a small false positive.
    prediction = boxes((2, 6), (10, 12), (25, 27))
    found = find_lesions(prediction, reference, SPACING, criterion)
    assert [lesion.volume_mm3 for lesion in found.hits] == [160.0]
    assert not found.missed
    assert not found.false_positives


@pytest.mark.parametrize("empty", ["prediction", "reference", "both"])
def test_find_lesions_accepts_empty_masks(empty: str) -> None:
    mask = boxes((2, 8))
    prediction = boxes() if empty in ("prediction", "both") else mask
    reference = boxes() if empty in ("reference", "both") else mask
    found = find_lesions(prediction, reference, SPACING, ANY)
    assert len(found.missed) == (empty == "prediction")
    assert len(found.false_positives) == (empty == "reference")
    assert not found.hits


def test_find_lesions_refuses_different_shapes() -> None:
    with pytest.raises(ValueError, match="shapes"):
        find_lesions(boxes(), boxes()[1:], SPACING, ANY)


masks = arrays(bool, (5, 4, 3), elements=st.sampled_from([True, False, False]))


@given(masks, masks, st.sampled_from(["iou", "dice"]), st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=200, deadline=None)
def test_find_lesions_agrees_with_brute_force(
    prediction: np.ndarray, reference: np.ndarray, measure: str, minimum: float
) -> None:
    criterion = DetectionConfig(measure=measure, minimum=minimum)
    found = find_lesions(prediction, reference, (1, 1, 1), criterion)
    true_parts = parts_of(reference)
    predicted_parts = parts_of(prediction)
    overlaps = np.zeros((len(true_parts), len(predicted_parts)))
    for row, true in enumerate(true_parts):
        overlaps[row] = [brute_overlap(true, part, measure) for part in predicted_parts]
    hits, total = brute_match(overlaps, minimum)
    assert len(found.hits) == hits
    assert sum(lesion.overlap for lesion in found.hits) == pytest.approx(total)
    assert len(found.missed) == len(true_parts) - hits
    assert len(found.false_positives) == len(predicted_parts) - hits
    volumes = sorted(lesion.volume_mm3 for lesion in found.reference)
    assert volumes == sorted(part.sum() for part in true_parts)


def parts_of(mask: np.ndarray) -> list[np.ndarray]:
    """Return the components of a mask."""
    labels, number = scipy_label(mask, np.ones((3, 3, 3)))
    return [labels == k for k in range(1, number + 1)]


def brute_overlap(a: np.ndarray, b: np.ndarray, measure: str) -> float:
    common = (a & b).sum()
    return common / (a | b).sum() if measure == "iou" else 2 * common / (a.sum() + b.sum())


def brute_match(overlaps: np.ndarray, minimum: float) -> tuple[int, float]:
    """Return the maximum number of pairs, and then of total overlap, over all assignments."""
    if overlaps.shape[0] > overlaps.shape[1]:
        overlaps = overlaps.T
    rows = range(overlaps.shape[0])
    best = (0, 0.0)
    for columns in permutations(range(overlaps.shape[1]), overlaps.shape[0]):
        chosen = [o for o in overlaps[rows, columns] if o > 0 and o >= minimum]
        best = max(best, (len(chosen), sum(chosen)))
    return best


def test_match_has_the_maximum_number_of_counted_lesions() -> None:
    # The best pair would leave the second lesion without a match.
    overlaps = np.array([[0.9, 0.2], [0.2, 0.0]])
    assert match(overlaps, 0.1, np.array([True, True])) == [(0, 1), (1, 0)]
    assert match(overlaps, 0.1, np.array([True, False])) == [(0, 0)], "the second is not counted"
    assert match(overlaps, 0.95, np.array([True, True])) == []


def test_detection_config_refuses_descending_sizes() -> None:
    with pytest.raises(ValueError, match="ascending"):
        DetectionConfig(size_bins_mm3=(100.0, 50.0))
