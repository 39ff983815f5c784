"""Separable interpolation, compared with scipy."""

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
def test_resample_equals_scipy(order: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    coordinates = []
    for size in ARRAY.shape:
        number = generator.integers(1, 30)
        coordinates.append(generator.uniform(0, size - 1, number))
    grid = np.meshgrid(*coordinates, indexing="ij")
    expected = map_coordinates(ARRAY.astype(float), grid, order=order, mode="mirror")
    found = resample(ARRAY, coordinates, (order,) * 3)
    assert np.allclose(found, expected, atol=2e-5)


def test_resample_accepts_another_order_for_each_axis() -> None:
    x, y, z = [np.linspace(0, size - 1, 11) for size in ARRAY.shape]
    nearest = resample(ARRAY, (None, None, z), (3, 3, 0))
    assert np.array_equal(nearest, ARRAY[:, :, np.rint(z).astype(int)])
    expected = resample(nearest, (x, y, None), (3, 3, 0))
    assert np.allclose(resample(ARRAY, (x, y, z), (3, 3, 0)), expected, atol=1e-5)


def test_resample_keeps_axes_without_coordinates() -> None:
    assert resample(ARRAY, (None, None, None), (3, 3, 3)) is ARRAY
    same = resample(ARRAY, (None, np.arange(20.0), None), (1, 1, 1))
    assert np.array_equal(same, ARRAY)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resample_extends_the_outermost_voxels(order: int) -> None:
    coordinates = np.array([-3.0, -0.4, 8.3, 20.0])
    result = resample(ARRAY, (coordinates, None, None), (order,) * 3)
    assert np.allclose(result, ARRAY[[0, 0, 8, 8]], atol=1e-5)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_resample_repeats_a_single_plane(order: int) -> None:
    coordinates = np.array([0.0, 0.3, 0.9])
    result = resample(ARRAY[:1], (coordinates, None, None), (order,) * 3)
    assert np.array_equal(result, np.repeat(ARRAY[:1], 3, axis=0))
