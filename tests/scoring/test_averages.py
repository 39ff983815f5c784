"""Means that leave out missing scores, and the mean that weights structures equally."""

from math import inf, isnan, nan

import numpy as np
import pytest

from hstf.scoring.averages import class_balanced, describe, finite_or_none, mean, mean_or_nan


def test_describe_leaves_out_missing_scores() -> None:
    found = describe([0.5, None, 0.75, nan])
    assert (found.mean, found.median, found.cases) == (0.625, 0.625, 2)
    assert found.sd == pytest.approx(np.std([0.5, 0.75], ddof=1))
    assert describe([]).model_dump() == {"mean": None, "sd": None, "median": None, "cases": 0}


def test_mean_without_scores_is_missing() -> None:
    assert mean([None, nan]) is None
    assert isnan(mean_or_nan([None]))
    assert [finite_or_none(value) for value in (None, nan, inf, 0.5)] == [None, None, None, 0.5]


def test_class_balanced_weights_structures_equally() -> None:
    scores = np.array([[0.9, nan], [0.7, nan], [0.8, 0.1], [0.6, 0.3]])
    assert class_balanced(scores).mean() == pytest.approx((0.75 + 0.2) / 2)
    complete = scores[2:]
    np.testing.assert_allclose(class_balanced(complete), complete.mean(axis=1))


def test_class_balanced_leaves_out_structures_without_scores() -> None:
    np.testing.assert_allclose(class_balanced(np.array([[0.4, nan], [0.6, nan]])), [0.4, 0.6])
    assert np.isnan(class_balanced(np.full((2, 2), nan))).all()
    assert class_balanced(np.empty((0, 2))).size == 0


def test_class_balanced_has_the_bootstrap_spread_of_the_mean() -> None:
    """Draws of the values have the spread of the mean over the structures of the same draws."""
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.3, 0.9, (60, 2))
    scores[generator.random(60) < 0.5, 1] = nan
    drawn = generator.integers(0, 60, (4000, 60))
    direct = np.nanmean(scores[drawn], axis=1).mean(axis=1)
    values = class_balanced(scores)[drawn].mean(axis=1)
    assert values.std() == pytest.approx(direct.std(), rel=0.05)
