"""Lesion-wise scores against hand-made cases, brute force and hypothesis."""

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
    find_lesions,
    froc,
    match,
    sensitivity_at,
    summarise,
)

SPACING = (0.5, 1.0, 2.0)  # a voxel is 1 mm3
ANY = DetectionConfig(minimum=0.0)


def boxes(*corners: tuple[int, int]) -> np.ndarray:
    """A mask ``(40, 8, 8)`` with boxes of 4 x 4 voxels in Y and Z between the given X."""
    mask = np.zeros((40, 8, 8), bool)
    for start, stop in corners:
        mask[start:stop, 2:6, 2:6] = True
    return mask


def case(hits: int, missed: int, wrong: list[float], volume: float = 100.0) -> CaseLesions:
    """A case with so many lesions, whose hits have scores from 0.9 down."""
    found = [Lesion(volume, True, True, 0.8, 0.9 - k / 10) for k in range(hits)]
    lost = [Lesion(volume, False, True, 0.0, None) for _ in range(missed)]
    return CaseLesions(
        [*found, *lost], [*found, *(Lesion(5.0, False, True, 0.0, s) for s in wrong)]
    )


def test_a_hit_a_miss_and_a_false_positive() -> None:
    reference, prediction = boxes((2, 8), (20, 22)), boxes((3, 8), (30, 33))
    probability = (prediction * 204).astype(np.uint8)
    probability[30:33] = np.where(prediction[30:33], 102, 7)
    found = find_lesions(prediction, reference, SPACING, DetectionConfig(), probability)
    assert found.hits == [Lesion(96.0, True, True, pytest.approx(80 / 96), pytest.approx(0.8))]
    assert found.missed == [Lesion(32.0, False, True, 0.0, None)]
    assert found.false_positives == [Lesion(48.0, False, True, 0.0, pytest.approx(0.4))]
    assert CaseLesions.from_json(found.to_json()) == found


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
def test_the_criterion_decides_what_is_found(measure: str, minimum: float, hit: bool) -> None:
    criterion = DetectionConfig(measure=measure, minimum=minimum)
    found = find_lesions(
        boxes((2, 4)), boxes((2, 10)), SPACING, criterion
    )  # 2 of 8 planes: IoU 1/4, Dice 4/10
    assert (len(found.hits), len(found.missed), len(found.false_positives)) == (
        (1, 0, 0) if hit else (0, 1, 1)
    )


def test_a_lesion_found_in_two_pieces_is_a_hit_and_a_false_positive() -> None:
    found = find_lesions(boxes((2, 4), (6, 10)), boxes((2, 10)), SPACING, ANY)
    assert [lesion.overlap for lesion in found.hits] == [0.5]  # the larger piece
    assert [lesion.volume_mm3 for lesion in found.false_positives] == [32.0]


def test_two_lesions_run_together_are_a_hit_and_a_miss() -> None:
    found = find_lesions(boxes((2, 12)), boxes((2, 6), (7, 12)), SPACING, ANY)
    assert len(found.hits) == len(found.missed) == 1 and not found.false_positives


def test_connectivity_decides_whether_voxels_that_share_a_corner_are_one() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = True
    for connectivity, lesions in ((26, 1), (18, 2), (6, 2)):
        criterion = DetectionConfig(connectivity=connectivity)
        assert len(find_lesions(mask, mask, SPACING, criterion).hits) == lesions


def test_small_lesions_count_for_nothing_but_can_be_a_hit() -> None:
    criterion = DetectionConfig(minimum=0.0, minimum_mm3=40.0)
    reference = boxes((2, 4), (10, 20), (30, 32))  # 32, 160 and 32 mm3
    prediction = boxes(
        (2, 6), (10, 12), (25, 27)
    )  # on the small one, small on the large one, small on nothing
    found = find_lesions(prediction, reference, SPACING, criterion)
    assert [lesion.volume_mm3 for lesion in found.hits] == [160.0]
    assert not found.missed and not found.false_positives


@pytest.mark.parametrize("empty", ["prediction", "reference", "both"])
def test_a_case_may_have_none(empty: str) -> None:
    mask, none = boxes((2, 8)), boxes()
    prediction, reference = (
        none if empty in (side, "both") else mask for side in ("prediction", "reference")
    )
    found = find_lesions(prediction, reference, SPACING, ANY)
    assert len(found.missed) == (empty == "prediction") and len(found.false_positives) == (
        empty == "reference"
    )
    assert not found.hits


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes"):
        find_lesions(boxes(), boxes()[1:], SPACING, ANY)


masks = arrays(bool, (5, 4, 3), elements=st.sampled_from([True, False, False]))


@given(masks, masks, st.sampled_from(["iou", "dice"]), st.sampled_from([0.0, 0.1, 0.5]))
@settings(max_examples=200, deadline=None)
def test_lesions_are_those_of_brute_force(
    prediction: np.ndarray, reference: np.ndarray, measure: str, minimum: float
) -> None:
    found = find_lesions(
        prediction, reference, (1, 1, 1), DetectionConfig(measure=measure, minimum=minimum)
    )
    parts = [
        [labels == k for k in range(1, number + 1)]
        for labels, number in (
            scipy_label(mask, np.ones((3, 3, 3))) for mask in (reference, prediction)
        )
    ]
    overlaps = np.array([[brute_overlap(a, b, measure) for b in parts[1]] for a in parts[0]])
    hits, total = brute_match(overlaps.reshape(len(parts[0]), len(parts[1])), minimum)
    assert len(found.hits) == hits
    assert sum(lesion.overlap for lesion in found.hits) == pytest.approx(total)
    assert len(found.missed) == len(parts[0]) - hits
    assert len(found.false_positives) == len(parts[1]) - hits
    assert sorted(lesion.volume_mm3 for lesion in found.reference) == sorted(
        a.sum() for a in parts[0]
    )


def brute_overlap(a: np.ndarray, b: np.ndarray, measure: str) -> float:
    shared = (a & b).sum()
    return shared / (a | b).sum() if measure == "iou" else 2 * shared / (a.sum() + b.sum())


def brute_match(overlaps: np.ndarray, minimum: float) -> tuple[int, float]:
    """Most pairs, then the largest total overlap, over all assignments."""
    if overlaps.shape[0] > overlaps.shape[1]:
        overlaps = overlaps.T
    best = (0, 0.0)
    for columns in permutations(range(overlaps.shape[1]), overlaps.shape[0]):
        chosen = [o for o in overlaps[range(len(columns)), columns] if o > 0 and o >= minimum]
        best = max(best, (len(chosen), sum(chosen)))
    return best


def test_as_many_lesions_as_possible_are_matched() -> None:
    overlaps = np.array(
        [[0.9, 0.2], [0.2, 0.0]]
    )  # the best pair alone would leave the second without a match
    assert match(overlaps, 0.1, np.array([True, True])) == [(0, 1), (1, 0)]
    assert match(overlaps, 0.1, np.array([True, False])) == [(0, 0)], "the second does not count"
    assert match(overlaps, 0.95, np.array([True, True])) == []


def test_froc_by_hand() -> None:
    # by score: hit, wrong, hit and wrong together, hit; four lesions, two scans
    curve = froc([0.9, 0.7, 0.3], [0.8, 0.7], lesions=4, scans=2)
    np.testing.assert_allclose(curve, [[0, 0.25, 0.9], [1, 0.5, 0.7], [1, 0.75, 0.3]])
    assert [sensitivity_at(curve, rate) for rate in (0, 0.5, 1, 8)] == [0.25, 0.25, 0.75, 0.75]
    assert sensitivity_at(froc([0.1], [0.2], 1, 1), 0.5) == 0, "a false positive comes first"
    assert froc([], [], 3, 2).shape == (0, 3) and sensitivity_at(froc([], [], 3, 2), 1) == 0


scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), max_size=8)


@given(scores, scores, st.integers(0, 4), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_froc_is_the_count_above_each_threshold(
    hits: list[float], wrong: list[float], missed: int, scans: int
) -> None:
    lesions = max(1, len(hits) + missed)
    curve = froc(hits, wrong, lesions, scans)
    assert (np.diff(curve, axis=0)[:, :2] >= 0).all()
    for rate in (0.125, 0.5, 1, 8):
        reachable = [
            sum(s >= t for s in hits) / lesions
            for t in {*hits, *wrong}
            if sum(s >= t for s in wrong) / scans <= rate
        ]
        assert sensitivity_at(curve, rate) == pytest.approx(max(reachable, default=0))


def test_summary_pools_the_cases() -> None:
    cases = [case(2, 1, [0.95]), case(0, 1, []), case(0, 0, [0.1, 0.2]), case(0, 0, [])]
    found = summarise(cases, ["p", "q", "r", "s"], ANY, resamples=200, seed=0)
    assert (found["lesions"], found["hits"], found["missed"], found["false_positives"]) == (
        4,
        2,
        2,
        3,
    )
    assert found["precision"]["mean"] == pytest.approx(2 / 5) and found["recall"]["mean"] == 0.5
    assert found["f1"]["mean"] == pytest.approx(4 / 9)
    assert found["f1"]["low"] <= 4 / 9 <= found["f1"]["high"]
    assert found["false_positives_per_scan"] == 0.75 and found["overlap"] == pytest.approx(0.8)
    assert (found["cases_with"], found["cases_found"]) == (2, 1)
    assert (found["cases_without"], found["false_alarms"]) == (2, 1)
    assert found["froc"]["sensitivity"] == {
        "0.125": 0, "0.25": 0.5, "0.5": 0.5, "1.0": 0.5, "2.0": 0.5, "4.0": 0.5, "8.0": 0.5,
    }  # fmt: skip
    assert [row["lesions"] for row in found["recall_by_size"]] == [0, 4, 0, 0]
    assert found["recall_by_size"][1] == {
        "from_mm3": 65.0, "to_mm3": 524.0, "lesions": 4, "hits": 2, "recall": 0.5,
    }  # fmt: skip


def test_nothing_to_find_is_no_score() -> None:
    found = summarise([case(0, 0, [])] * 3, list("abc"), ANY, 100, 0)
    assert (
        found["f1"]["mean"] is found["recall"]["mean"] is found["froc"] is found["overlap"] is None
    )
    assert found["false_positives_per_scan"] == 0
    assert summarise([], [], ANY, 100, 0)["false_positives_per_scan"] is None


def test_intervals_draw_patients_not_scans() -> None:
    cases = [case(1, 0, []), case(0, 1, [])] * 20
    alone = summarise(cases, [str(k) for k in range(40)], ANY, 2000, 0)["recall"]
    together = summarise(cases, ["p"] * 20 + ["q"] * 20, ANY, 2000, 0)["recall"]
    assert alone["low"] < 0.45 and alone["high"] > 0.55
    assert together["low"] == together["high"] == 0.5, "the patients are alike"


def test_size_bins_ascend() -> None:
    with pytest.raises(ValueError, match="ascending"):
        DetectionConfig(size_bins_mm3=(100.0, 50.0))
