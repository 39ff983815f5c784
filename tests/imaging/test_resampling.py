"""Separable interpolation against scipy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from hstf.imaging.resampling import resample

ARRAY = np.random.default_rng(0).normal(size=(9, 20, 13)).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1, 3])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_values_are_those_of_scipy(order: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    coordinates = [
        generator.uniform(0, size - 1, generator.integers(1, 30)) for size in ARRAY.shape
    ]
    expected = map_coordinates(
        ARRAY.astype(float), np.meshgrid(*coordinates, indexing="ij"), order=order, mode="mirror"
    )
    assert np.allclose(resample(ARRAY, coordinates, (order,) * 3), expected, atol=2e-5)


def test_orders_may_differ_by_axis() -> None:
    coordinates = [np.linspace(0, size - 1, 11) for size in ARRAY.shape]
    nearest = resample(ARRAY, (None, None, coordinates[2]), (3, 3, 0))
    assert np.array_equal(nearest, ARRAY[:, :, np.rint(coordinates[2]).astype(int)])
    expected = resample(nearest, (coordinates[0], coordinates[1], None), (3, 3, 0))
    assert np.allclose(resample(ARRAY, coordinates, (3, 3, 0)), expected, atol=1e-5)


def test_axes_without_coordinates_stay_bit_for_bit() -> None:
    assert resample(ARRAY, (None, None, None), (3, 3, 3)) is ARRAY
    assert np.array_equal(resample(ARRAY, (None, np.arange(20.0), None), (1, 1, 1)), ARRAY)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_beyond_the_outermost_voxels_their_value_goes_on(order: int) -> None:
    result = resample(ARRAY, (np.array([-3.0, -0.4, 8.3, 20.0]), None, None), (order,) * 3)
    assert np.allclose(result, ARRAY[[0, 0, 8, 8]], atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_a_single_plane_is_repeated(order: int) -> None:
    result = resample(ARRAY[:1], (np.array([0.0, 0.3, 0.9]), None, None), (order,) * 3)
    assert np.array_equal(result, np.repeat(ARRAY[:1], 3, axis=0))
