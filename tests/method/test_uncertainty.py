"""Uncertainty maps: values by hand, their range, and no uncertainty of equal views."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.imaging.probabilities import entropy
from hstf.method.uncertainty import disagreement, scale_variance


def test_uncertainties_equal_values_by_hand() -> None:
    even, sure = np.full((4, 1), 0.25), np.array([[1.0], [0], [0], [0]])
    assert entropy(even) == pytest.approx(1)
    assert entropy(sure) == pytest.approx(0, abs=1e-6)
    mean, scale = np.array([[0.5], [0.5]]), np.array([[0.25], [0.75]])
    hand = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    assert scale_variance(mean, [scale, mean]) == pytest.approx(hand / 2)
    assert scale_variance(mean, [np.array([[1.0], [0.0]])]) == 1  # infinite KL is capped
    members = [np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])]
    assert disagreement(mean, members) == pytest.approx(0.5)
    assert disagreement(mean, []) == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(1, 4), st.integers(0, 2**16))
def test_uncertainties_are_in_range_and_zero_for_equal_views(
    count: int, groups: int, seed: int
) -> None:
    random = (
        np.random.default_rng(seed)
        .dirichlet(np.full(count, 0.3), size=(groups, 7))
        .transpose(0, 2, 1)
    )
    mean = random.mean(axis=0)
    for values in (entropy(mean), scale_variance(mean, random), disagreement(mean, list(random))):
        assert values.shape == (7,)
        assert (values >= -1e-9).all() and (values <= 1 + 1e-9).all()
    assert scale_variance(mean, [mean] * groups) == pytest.approx(0)
    assert disagreement(mean, [mean] * groups) == pytest.approx(0)
