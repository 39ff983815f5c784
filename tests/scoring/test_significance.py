"""Intervals and tests, compared with known answers and with scipy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from hstf.scoring.significance import (
    balanced_difference,
    balanced_interval,
    compare,
    direction,
    mean_interval,
    paired_differences,
    rank_correlation,
)

scores = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(scores)
@settings(max_examples=50, deadline=None)
def test_mean_interval_contains_the_mean_and_is_within_the_scores(values: list[float]) -> None:
    interval = mean_interval(values, resamples=200)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.low is not None
    assert interval.high is not None
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_mean_interval_of_a_normal_sample_agrees_with_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(0.8, 0.1, 400)
    interval = mean_interval(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.001)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.001)


def test_mean_interval_is_the_same_with_the_same_seed() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 30)
    groups = [f"p{k % 20}" for k in range(30)]
    assert mean_interval(values, groups, seed=1) == mean_interval(values, groups, seed=1)
    assert mean_interval(values, groups, seed=1) != mean_interval(values, groups, seed=2)


def test_mean_interval_is_the_same_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 50)
    whole = mean_interval(values, resamples=500)
    monkeypatch.setattr("hstf.scoring.significance.SLAB", 50 * 64)
    assert mean_interval(values, resamples=500) == whole


def test_mean_interval_draws_patients_not_scans() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 12)
    patients = [f"p{k}" for k in range(12)]
    once = mean_interval(values, patients)
    repeated = mean_interval(np.repeat(values, 5), np.repeat(patients, 5))
    naive = mean_interval(np.repeat(values, 5))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert (repeated.scans, repeated.patients) == (60, 12)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_mean_interval_needs_two_patients_with_scores() -> None:
    assert mean_interval([]).mean is None
    one = mean_interval([0.5, 0.7, float("nan")], ["p", "p", "q"])
    assert one.mean == pytest.approx(0.6)
    assert (one.low, one.high) == (None, None)
    assert (one.scans, one.patients) == (2, 1)


def test_balanced_interval_is_within_the_scores_of_a_rare_structure() -> None:
    """A lesion in 4 of 20 scans. The interval went up to 1.055 once."""
    scores = np.full((20, 1), np.nan)
    scores[:4, 0] = [0.97, 0.95, 0.96, 0.20]
    interval = balanced_interval(scores)
    scored_only = mean_interval(scores[:4, 0])
    assert (interval.low, interval.high) == (scored_only.low, scored_only.high)
    assert (interval.scans, interval.patients) == (4, 4)
    assert interval.low >= 0.2
    assert interval.high <= 0.97


def test_balanced_interval_agrees_with_the_spread_of_single_draws() -> None:
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.3, 0.9, (60, 2))
    scores[generator.random(60) < 0.5, 1] = np.nan
    drawn = generator.integers(0, 60, (4000, 60))
    direct = np.nanmean(scores[drawn], axis=1).mean(axis=1)
    interval = balanced_interval(scores, resamples=4000)
    low, high = np.quantile(direct, [0.025, 0.975])
    assert interval.mean == pytest.approx(np.nanmean(scores, axis=0).mean())
    assert interval.low == pytest.approx(low, abs=0.005)
    assert interval.high == pytest.approx(high, abs=0.005)


def test_balanced_interval_of_complete_scores_is_that_of_the_case_means() -> None:
    scores = np.random.default_rng(1).uniform(0, 1, (12, 3))
    patients = [f"p{k // 2}" for k in range(12)]
    found = balanced_interval(scores, patients)
    plain = mean_interval(scores.mean(axis=1), patients)
    assert (found.mean, found.low, found.high) == pytest.approx((plain.mean, plain.low, plain.high))


def test_balanced_interval_of_several_models_is_that_of_their_mean() -> None:
    """A model without a score of a structure in a case keeps that of its other cases."""
    models = np.random.default_rng(2).uniform(0, 1, (3, 10, 2))
    models[0, :9, 1] = np.nan
    found = balanced_interval(models)
    each = [np.nanmean(scores, axis=0).mean() for scores in models]
    assert found.mean == pytest.approx(np.mean(each))


def test_balanced_difference_of_a_rare_structure() -> None:
    """The scans without the structure change nothing, whatever patients are drawn."""
    old = np.full((20, 2), np.nan)
    old[:, 0] = 0.9
    old[:4, 1] = 0.4
    new = old.copy()
    new[:4, 1] = [0.5, 0.5, 0.7, 0.7]
    found = balanced_difference(new, old)
    assert found.mean == pytest.approx(0.2 / 2)
    assert 0 <= found.low < found.high <= 0.3 / 2 + 1e-9
    assert balanced_difference(old, old).high == 0


def test_balanced_difference_from_a_model_without_any_score_is_unknown() -> None:
    """Only the new model has false alarms of a structure that no scan has."""
    new = np.zeros((3, 1))
    found = balanced_difference(new, np.full((3, 1), np.nan))
    assert (found.mean, found.low, found.high) == (None, None, None)


def test_compare_agrees_with_scipy() -> None:
    generator = np.random.default_rng(5)
    old = generator.uniform(0.6, 0.9, 20)
    new = old + generator.normal(0.02, 0.03, 20)
    found = compare(new, old)
    assert found.p_value == pytest.approx(wilcoxon(new, old).pvalue)
    assert found.difference.mean == pytest.approx(np.mean(new - old))
    assert found.patients == 20
    assert not found.note
    assert compare(old, new).p_value == pytest.approx(found.p_value)


def test_compare_is_exact_for_few_patients() -> None:
    gains = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert compare(0.8 + gains, np.full(6, 0.8)).p_value == pytest.approx(2 / 2**6)


def test_compare_ranks_equal_differences_equally() -> None:
    """Written as 0.6 - 0.5, 0.7 - 0.6 …, most of the equal differences are not equal floats."""
    directions = np.array([1, -1, 1, 1, 1, 1])
    old = np.array([0.5, 0.6, 0.7, 0.3, 0.8, 0.2])
    new = old + 0.1 * directions
    assert len(set(np.abs(new - old))) > 1
    # With equal ranks this is the sign test: 1 of 6 or fewer, two-sided.
    assert compare(new, old).p_value == pytest.approx(2 * (1 + 6) / 2**6)


def test_compare_ranks_patients_not_scans() -> None:
    gains = np.array([0.01, 0.02, -0.03, 0.04, 0.05, 0.06])
    patients = [f"p{k}" for k in range(6)]
    once = compare(gains, np.zeros(6), patients)
    repeated = compare(np.repeat(gains, 4), np.zeros(24), np.repeat(patients, 4))
    assert repeated.p_value == pytest.approx(once.p_value)


def test_compare_counts_patients_in_which_only_one_model_has_a_false_alarm() -> None:
    """The right one has no Dice there, because neither label nor prediction has the structure."""
    with_tumour = [0.6, 0.7, 0.8, 0.9]
    right = with_tumour + [np.nan] * 8
    false_alarms = with_tumour + [0.0] * 8
    found = compare(right, false_alarms)
    assert found.patients == 8
    assert found.p_value == pytest.approx(wilcoxon(np.ones(8)).pvalue)
    assert compare(false_alarms, right).p_value == found.p_value
    assert compare(right, right).p_value is None


def test_paired_differences_compares_the_same_structures() -> None:
    """A false alarm that disappears must not let the Dice of the other structure count more."""
    old = np.array([[[0.9, 0.0], [0.9, 0.5], [np.nan, np.nan], [0.9, np.nan]]])
    new = np.array([[[0.7, np.nan], [0.7, 0.6], [np.nan, np.nan], [0.8, np.nan]]])
    expected = [(1.0 - 0.2) / 2, (0.1 - 0.2) / 2, np.nan, -0.1]
    np.testing.assert_allclose(paired_differences(new, old), expected)


def test_paired_differences_keeps_a_scan_that_one_seed_has_no_score_of() -> None:
    seeds = np.array([[[np.nan], [0.8]], [[0.0], [0.6]]])
    reference = np.array([[[0.0], [0.5]]])
    np.testing.assert_allclose(paired_differences(seeds, reference), [0.5, 0.2])


def test_compare_notes_equal_scores_and_small_samples() -> None:
    same = compare([0.5, 0.6], [0.5, 0.6])
    assert same.p_value is None
    assert same.difference.mean == 0
    assert "no patient's score differs" in same.note
    few = compare([0.5, 0.6, 0.7], [0.5, 0.5, 0.5])
    assert few.patients == 2
    assert "only 2 patients differ" in few.note


def test_compare_notes_small_samples_below_six_patients() -> None:
    gains = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert compare(gains, np.zeros(6)).note == ""
    assert "only 5 patients differ" in compare(gains[:5], np.zeros(5)).note


@pytest.mark.parametrize(
    ("low", "high", "p_value", "expected"),
    [
        (0.01, 0.05, 0.04, 1),
        (-0.05, -0.01, 0.04, -1),
        (-0.01, 0.05, 0.04, 0),
        (0.01, 0.05, 0.05, 0),
        (0.01, 0.05, None, 0),
        (None, None, 0.01, 0),
    ],
)
def test_direction_needs_an_interval_without_0_and_a_significant_test(
    low: float | None, high: float | None, p_value: float | None, expected: int
) -> None:
    assert direction(low, high, p_value) == expected


def test_compare_and_mean_interval_refuse_different_lengths() -> None:
    with pytest.raises(ValueError, match="3 scores to compare with 2"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="scans"):
        mean_interval([1, 2, 3], ["a"])


def test_rank_correlation_needs_three_pairs_that_vary() -> None:
    assert rank_correlation([0.1, 0.2, 0.3, 0.4], [1, 4, 9, 16]) == pytest.approx(1)
    assert rank_correlation([0.1, 0.2, 0.3, float("nan")], [3, 2, 1, 0]) == pytest.approx(-1)
    assert rank_correlation([0.1, 0.2], [1, 2]) is None
    assert rank_correlation([0.1, 0.1, 0.1], [1, 2, 3]) is None
