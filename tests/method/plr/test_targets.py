"""Training targets of pseudo-labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hstf.imaging.geometry import Geometry
from hstf.method.plr.targets import grid_weight, training_target


def test_training_target_swaps_classes_where_the_label_differs() -> None:
    label = np.array([[[0, 1, 1, 255]]], np.uint8)
    probabilities = np.array([[[[200, 90, 200, 255]]], [[[55, 165, 55, 0]]]], np.uint8)
    weight = np.array([[[250, 100, 30, 40]]], np.uint8)
    target = training_target(label, weight, 2, probabilities)
    assert target[:, 0, 0, 0].tolist() == [200, 55, 250]
    assert target[:, 0, 0, 1].tolist() == [90, 165, 100]
    assert target[:, 0, 0, 2].tolist() == [55, 200, 30]
    assert target[:, 0, 0, 3].tolist() == [128, 128, 0]


def test_training_target_is_one_hot_without_probabilities() -> None:
    label = np.array([[[0, 1, 255]]], np.uint8)
    weight = np.array([[[250, 100, 40]]], np.uint8)
    target = training_target(label, weight, 2, None)
    assert target[:2, 0, 0].T.tolist() == [[255, 0], [0, 255], [128, 128]]
    assert target[2, 0, 0].tolist() == [250, 100, 0]


@given(st.integers(0, 500), st.sampled_from([2, 6]))
@settings(max_examples=30, deadline=None)
def test_training_target_has_the_label_as_most_likely_class(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), (3, 4, 5)).transpose(3, 0, 1, 2)
    probabilities = np.floor(255 * p).astype(np.uint8)
    label = rng.integers(0, classes, (3, 4, 5)).astype(np.uint8)
    target = training_target(label, np.full(label.shape, 9, np.uint8), classes, probabilities)
    np.testing.assert_array_equal(
        np.take_along_axis(target, label[None], 0)[0], target[:classes].max(axis=0)
    )
    np.testing.assert_array_equal(np.sort(target[:classes], axis=0), np.sort(probabilities, axis=0))


def test_grid_weight_resamples_weights() -> None:
    geometry = Geometry.of((6, 6, 6), np.eye(4), (2.0, 2.0, 2.0))
    weight = np.zeros((6, 6, 6), np.uint8)
    weight[3:] = 200
    found = grid_weight(weight, geometry)
    assert found.dtype == np.uint8
    assert found.shape == geometry.grid_shape
    assert found.min() >= 0
    assert found.max() == pytest.approx(200, abs=1)


def test_grid_weight_keeps_weights_on_the_same_grid() -> None:
    geometry = Geometry.of((4, 5, 6), np.eye(4), (1.0, 1.0, 1.0))
    weight = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.uint8)
    np.testing.assert_array_equal(grid_weight(weight, geometry), weight)
