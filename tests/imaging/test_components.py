"""Connected components, compared with scipy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from hstf.imaging.components import connected_components

SCIPY_CONNECTIVITY = {6: 1, 18: 2, 26: 3}
"""Argument of scipy's ``generate_binary_structure`` for each connectivity."""


def renumbered(components: np.ndarray) -> np.ndarray:
    """Number components in the order of their first voxels, so that equal partitions are equal."""
    numbers = {0: 0}
    result = np.empty(components.size, int)
    for index, component in enumerate(components.ravel().tolist()):
        result[index] = numbers.setdefault(component, len(numbers))
    return result.reshape(components.shape)


@pytest.mark.parametrize("connectivity", SCIPY_CONNECTIVITY)
@given(mask=arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.booleans()))
def test_connected_components_equals_scipy(connectivity: int, mask: np.ndarray) -> None:
    neighbours = ndimage.generate_binary_structure(3, SCIPY_CONNECTIVITY[connectivity])
    expected, number = ndimage.label(mask, neighbours)
    components = connected_components(mask, connectivity)
    assert components.max() == number
    np.testing.assert_array_equal(renumbered(components), renumbered(expected))


def test_connected_components_may_be_more_than_half_of_the_voxels() -> None:
    mask = np.array([[[True, False, True]]])
    assert connected_components(mask, 26).tolist() == [[[1, 0, 2]]]
