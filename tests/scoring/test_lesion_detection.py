"""Detection of lesions, compared with cases made by hand and with brute force."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label as scipy_label

from hstf.config.evaluate import DetectionConfig
from hstf.scoring.lesion_detection import (
    CaseLesions,
    Lesion,
    SizeRecall,
    find_lesions,
    froc,
    match,
    sensitivity_at,
    summarise,
)

SPACING = (0.5, 1.0, 2.0)
"""A voxel has 1 mm3."""
ANY = DetectionConfig(minimum=0.0)


def boxes(*corners: tuple[int, int]) -> np.ndarray:
    """Return a mask ``(40, 8, 8)`` with boxes of 4 x 4 voxels in Y and Z between the given X."""
    mask = np.zeros((40, 8, 8), bool)
    for start, stop in corners:
        mask[start:stop, 2:6, 2:6] = True
    return mask


def lesion(volume: float, overlap: float, score: float | None) -> Lesion:
    """Return a counted lesion; it is matched if it has an overlap."""
    return Lesion(
        volume_mm3=volume,
        matched=overlap > 0,
        counted=True,
        overlap=overlap,
        score=score,
    )


def case(hits: int, missed: int, wrong: list[float]) -> CaseLesions:
    """Return a case with hits, missed lesions, and false positives of the given scores.

    The hits have scores from 0.9 downwards.
    """
    found = [lesion(100.0, 0.8, 0.9 - k / 10) for k in range(hits)]
    lost = [lesion(100.0, 0.0, None)] * missed
    invented = [lesion(5.0, 0.0, score) for score in wrong]
    return CaseLesions(reference=[*found, *lost], predicted=[*found, *invented])


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


def test_froc_by_hand() -> None:
    # By score: hit, false positive, hit and false positive together, hit; four lesions, two scans.
    curve = froc([0.9, 0.7, 0.3], [0.8, 0.7], lesions=4, scans=2)
    np.testing.assert_allclose(curve, [[0, 0.25, 0.9], [1, 0.5, 0.7], [1, 0.75, 0.3]])
    assert [sensitivity_at(curve, rate) for rate in (0, 0.5, 1, 8)] == [0.25, 0.25, 0.75, 0.75]
    assert sensitivity_at(froc([0.1], [0.2], 1, 1), 0.5) == 0, "a false positive comes first"
    no_predictions = froc([], [], 3, 2)
    assert no_predictions.shape == (0, 3)
    assert sensitivity_at(no_predictions, 1) == 0


scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), max_size=8)


@given(scores, scores, st.integers(0, 4), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_froc_counts_above_each_threshold(
    hits: list[float], wrong: list[float], missed: int, scans: int
) -> None:
    lesions = max(1, len(hits) + missed)
    curve = froc(hits, wrong, lesions, scans)
    assert (np.diff(curve, axis=0)[:, :2] >= 0).all()
    for rate in (0.125, 0.5, 1, 8):
        reachable = [0.0]
        for threshold in {*hits, *wrong}:
            if np.sum(np.array(wrong) >= threshold) / scans <= rate:
                reachable.append(np.sum(np.array(hits) >= threshold) / lesions)
        assert sensitivity_at(curve, rate) == pytest.approx(max(reachable))


def test_summarise_pools_the_cases() -> None:
    cases = [case(2, 1, [0.95]), case(0, 1, []), case(0, 0, [0.1, 0.2]), case(0, 0, [])]
    found = summarise(cases, ["p", "q", "r", "s"], ANY, resamples=200, seed=0)
    assert (found.lesions, found.hits, found.missed, found.false_positives) == (4, 2, 2, 3)
    assert found.precision.mean == pytest.approx(2 / 5)
    assert found.recall.mean == 0.5
    assert found.f1.mean == pytest.approx(4 / 9)
    assert found.f1.low <= 4 / 9 <= found.f1.high
    assert found.false_positives_per_scan == 0.75
    assert found.overlap == pytest.approx(0.8)
    assert (found.cases_with, found.cases_found) == (2, 1)
    assert (found.cases_without, found.false_alarms) == (2, 1)


def test_summarise_reports_froc_and_recall_by_size() -> None:
    cases = [case(2, 1, [0.95]), case(0, 1, []), case(0, 0, [0.1, 0.2]), case(0, 0, [])]
    found = summarise(cases, ["p", "q", "r", "s"], ANY, resamples=200, seed=0)
    assert found.froc is not None
    assert list(found.froc.sensitivity) == ["0.125", "0.25", "0.5", "1.0", "2.0", "4.0", "8.0"]
    assert list(found.froc.sensitivity.values()) == [0] + [0.5] * 6
    assert [size.lesions for size in found.recall_by_size] == [0, 4, 0, 0]
    size = SizeRecall(from_mm3=65.0, to_mm3=524.0, lesions=4, hits=2, recall=0.5)
    assert found.recall_by_size[1] == size


def test_summarise_without_lesions_has_no_rates() -> None:
    found = summarise([case(0, 0, [])] * 3, list("abc"), ANY, 100, 0)
    assert found.f1.mean is None
    assert found.recall.mean is None
    assert found.froc is None
    assert found.overlap is None
    assert found.false_positives_per_scan == 0
    assert summarise([], [], ANY, 100, 0).false_positives_per_scan is None


def test_summarise_draws_patients_not_scans() -> None:
    cases = [case(1, 0, []), case(0, 1, [])] * 20
    patients = [str(k) for k in range(40)]
    many = summarise(cases, patients, ANY, 2000, 0).recall
    assert many.low < 0.45
    assert many.high > 0.55
    two = summarise(cases, ["p"] * 20 + ["q"] * 20, ANY, 2000, 0).recall
    assert two.low == two.high == 0.5, "both patients have the same recall"


def test_detection_config_refuses_descending_sizes() -> None:
    with pytest.raises(ValueError, match="ascending"):
        DetectionConfig(size_bins_mm3=(100.0, 50.0))
