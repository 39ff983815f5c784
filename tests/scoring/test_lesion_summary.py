"""Summaries of lesions: FROC and rates by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lesions import lesion

from hstf.config.evaluate import DetectionConfig
from hstf.scoring.lesion_detection import CaseLesions
from hstf.scoring.lesion_summary import SizeRecall, froc, sensitivity_at, summarise

ANY = DetectionConfig(minimum=0.0)
scores = st.lists(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), max_size=8)


def case(hits: int, missed: int, wrong: list[float]) -> CaseLesions:
    """Return a case with hits, missed lesions, and false positives of the given scores.

    The hits have scores from 0.9 downwards.
    """
    found = [lesion(100.0, 0.8, 0.9 - k / 10) for k in range(hits)]
    lost = [lesion(100.0, 0.0, None)] * missed
    invented = [lesion(5.0, 0.0, score) for score in wrong]
    return CaseLesions(reference=[*found, *lost], predicted=[*found, *invented])


def test_froc_by_hand() -> None:
    # By score: hit, false positive, hit and false positive together, hit; four lesions, two scans.
    curve = froc([0.9, 0.7, 0.3], [0.8, 0.7], lesions=4, scans=2)
    np.testing.assert_allclose(curve, [[0, 0.25, 0.9], [1, 0.5, 0.7], [1, 0.75, 0.3]])
    assert [sensitivity_at(curve, rate) for rate in (0, 0.5, 1, 8)] == [0.25, 0.25, 0.75, 0.75]
    assert sensitivity_at(froc([0.1], [0.2], 1, 1), 0.5) == 0, "a false positive comes first"
    no_predictions = froc([], [], 3, 2)
    assert no_predictions.shape == (0, 3)
    assert sensitivity_at(no_predictions, 1) == 0


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
