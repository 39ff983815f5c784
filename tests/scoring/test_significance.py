"""Intervals and tests against known answers and scipy."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from hstf.scoring.significance import compare, mean_interval, rank_correlation

scores = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(scores)
@settings(max_examples=50, deadline=None)
def test_interval_holds_the_mean_and_lies_within_the_scores(values: list[float]) -> None:
    interval = mean_interval(values, resamples=200)
    assert interval.mean == pytest.approx(np.mean(values))
    assert interval.low is not None and interval.high is not None
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9


def test_interval_of_a_normal_sample_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(3).normal(0.8, 0.1, 400)
    interval = mean_interval(values, resamples=4000)
    half = 1.96 * values.std() / 20
    assert interval.low == pytest.approx(values.mean() - half, abs=0.001)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.001)


def test_interval_depends_on_the_seed_alone() -> None:
    values, groups = (
        np.random.default_rng(0).normal(0.8, 0.1, 30),
        [f"p{k % 20}" for k in range(30)],
    )
    assert mean_interval(values, groups, seed=1) == mean_interval(values, groups, seed=1)
    assert mean_interval(values, groups, seed=1) != mean_interval(values, groups, seed=2)


def test_slabs_bound_memory_and_draw_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.linspace(0, 1, 50)
    whole = mean_interval(values, resamples=500)
    monkeypatch.setattr("hstf.scoring.significance.SLAB", 50 * 64)
    assert mean_interval(values, resamples=500) == whole


def test_repeated_scans_of_a_patient_are_no_new_evidence() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.1, 12)
    patients = [f"p{k}" for k in range(12)]
    once = mean_interval(values, patients)
    repeated = mean_interval(np.repeat(values, 5), np.repeat(patients, 5))
    naive = mean_interval(np.repeat(values, 5))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
    assert (repeated.scans, repeated.patients) == (60, 12)
    assert naive.high - naive.low < 0.6 * (once.high - once.low)


def test_too_few_patients_have_no_interval_and_nan_is_left_out() -> None:
    assert mean_interval([]).mean is None
    one = mean_interval([0.5, 0.7, float("nan")], ["p", "p", "q"])
    assert (one.mean, one.low, one.high, one.scans, one.patients) == (
        pytest.approx(0.6),
        None,
        None,
        2,
        1,
    )


def test_comparison_is_scipys_test_of_the_differences() -> None:
    generator = np.random.default_rng(5)
    old = generator.uniform(0.6, 0.9, 20)
    new = old + generator.normal(0.02, 0.03, 20)
    found = compare(new, old)
    assert found.p_value == pytest.approx(wilcoxon(new, old).pvalue)
    assert found.difference.mean == pytest.approx(np.mean(new - old))
    assert found.patients == 20 and not found.note
    assert compare(old, new).p_value == pytest.approx(found.p_value)


def test_exact_p_value_of_six_gains() -> None:
    gains = np.array([0.01, 0.02, 0.03, 0.04, 0.05, 0.06])
    assert compare(0.8 + gains, np.full(6, 0.8)).p_value == pytest.approx(2 / 2**6)


def test_patients_are_ranked_not_scans() -> None:
    gains = np.array([0.01, 0.02, -0.03, 0.04, 0.05, 0.06])
    patients = [f"p{k}" for k in range(6)]
    once = compare(gains, np.zeros(6), patients)
    repeated = compare(np.repeat(gains, 4), np.zeros(24), np.repeat(patients, 4))
    assert repeated.p_value == pytest.approx(once.p_value)


def test_zero_differences_are_left_out_and_small_samples_are_named() -> None:
    same = compare([0.5, 0.6], [0.5, 0.6])
    assert (
        same.p_value is None
        and same.difference.mean == 0
        and "no patient's score differs" in same.note
    )
    few = compare([0.5, 0.6, 0.7], [0.5, 0.5, 0.5])
    assert few.patients == 2 and "only 2 patients differ" in few.note
    json.dumps([same.to_json(), few.to_json()], allow_nan=False)


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 scores to compare with 2"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="scans"):
        mean_interval([1, 2, 3], ["a"])


def test_rank_correlation() -> None:
    assert rank_correlation([0.1, 0.2, 0.3, 0.4], [1, 4, 9, 16]) == pytest.approx(1)
    assert rank_correlation([0.1, 0.2, 0.3, float("nan")], [3, 2, 1, 0]) == pytest.approx(-1)
    assert rank_correlation([0.1, 0.2], [1, 2]) is None
    assert rank_correlation([0.1, 0.1, 0.1], [1, 2, 3]) is None
