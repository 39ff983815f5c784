"""Voxel weights, compared with the formula in floating point."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.config.refine import RefineConfig
from hstf.imaging.label_values import IGNORED
from hstf.method.plr.weights import (
    below_threshold,
    cap_weight,
    mean_weight,
    scale_weight,
    voxel_weights,
)

exponents = st.integers(0, 20).map(lambda quarters: quarters / 4)


@given(st.integers(0, 1000), exponents, exponents, exponents)
@settings(max_examples=30, deadline=None)
def test_voxel_weights_follow_the_formula(seed: int, a: float, b: float, c: float) -> None:
    uncertainty = np.random.default_rng(seed).integers(0, 256, (3, 4, 5, 6)).astype(np.uint8)
    h, v, d = uncertainty / 255.0
    config = RefineConfig(entropy_weight=a, scale_variance_weight=b, disagreement_weight=c)
    expected = (1 - h) ** a * np.exp(-b * v) * (1 - d) ** c
    np.testing.assert_allclose(voxel_weights(uncertainty, config) / 255, expected, atol=0.6 / 255)


def test_voxel_weights_are_1_for_certain_and_0_for_uniform_voxels() -> None:
    uncertainty = np.zeros((3, 1, 1, 2), np.uint8)
    uncertainty[0, ..., 1] = 255
    np.testing.assert_array_equal(voxel_weights(uncertainty, RefineConfig()), [[[255, 0]]])


def test_below_threshold_uses_the_threshold_of_the_class() -> None:
    label = np.array([0, 0, 1, 1], np.uint8)
    confidence = np.array([127, 128, 203, 204], np.uint8)
    np.testing.assert_array_equal(
        below_threshold(label, confidence, [0.5, 0.8]), [True, False, True, False]
    )


def test_cap_weight_never_raises_a_weight() -> None:
    weight = np.array([10, 200, 200], np.uint8)
    cap_weight(weight, np.array([True, True, False]), 0.3)
    np.testing.assert_array_equal(weight, [10, 76, 200])
    scale_weight(weight, np.array([False, False, True]), 0.1)
    np.testing.assert_array_equal(weight, [10, 76, 20])


def test_mean_weight_is_that_of_the_known_foreground() -> None:
    label = np.array([0, 1, 2, IGNORED], np.uint8)
    weight = np.array([255, 51, 102, 0], np.uint8)
    assert mean_weight(label, weight) == pytest.approx(0.3)
    background = np.zeros(4, np.uint8)
    assert mean_weight(background, weight) == pytest.approx((1 + 0.2 + 0.4) / 4)
