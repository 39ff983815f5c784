"""Means that leave out missing scores, and the mean that weights structures equally."""

from math import inf, isnan, nan

import numpy as np
import pytest

from hstf.scoring.averages import (
    balanced_mean,
    describe,
    describe_balanced,
    finite_or_none,
    mean,
    mean_or_nan,
    structure_means,
)


def test_describe_leaves_out_missing_scores() -> None:
    found = describe([0.5, None, 0.75, nan])
    assert (found.mean, found.median, found.cases) == (0.625, 0.625, 2)
    assert found.sd == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert describe([]).model_dump() == {"mean": None, "sd": None, "median": None, "cases": 0}


def test_mean_without_scores_is_missing() -> None:
    assert mean([None, nan]) is None
    assert isnan(mean_or_nan([None]))
    assert [finite_or_none(value) for value in (None, nan, inf, 0.5)] == [None, None, None, 0.5]


def test_balanced_mean_weights_structures_equally() -> None:
    scores = np.array([[0.9, nan], [0.7, nan], [0.8, 0.1], [0.6, 0.3]])
    assert balanced_mean(scores) == pytest.approx((0.75 + 0.2) / 2)
    np.testing.assert_allclose(structure_means(scores), [0.75, 0.2])


def test_balanced_mean_leaves_out_structures_without_scores() -> None:
    scores = np.array([[0.4, nan], [0.6, nan]])
    assert balanced_mean(scores) == pytest.approx(0.5)
    assert isnan(structure_means(scores)[1])
    assert isnan(balanced_mean(np.full((2, 2), nan)))
    assert isnan(balanced_mean(np.empty((0, 2))))


def test_describe_balanced_counts_cases_with_scores_only() -> None:
    """A lesion in 4 of 20 scans: the others have no score."""
    scores = np.full((20, 1), nan)
    scores[:4, 0] = [0.97, 0.95, 0.96, 0.20]
    found = describe_balanced(scores)
    assert (found.cases, found.median) == (4, pytest.approx(0.955))
    assert found.sd == pytest.approx(np.std([0.97, 0.95, 0.96, 0.20], ddof=1))
    two = describe_balanced(np.array([[0.9, nan], [0.7, 0.1]]))
    assert two.mean == pytest.approx((0.8 + 0.1) / 2)
    assert two.median == pytest.approx((0.9 + 0.4) / 2)
