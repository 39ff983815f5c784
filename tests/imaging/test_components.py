"""Connected components against scipy's, down to volumes of a few voxels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from hstf.imaging.components import connected_components

FACES_SHARED = {6: 1, 18: 2, 26: 3}  # how many steps scipy's structuring element may take


def relabelled(components: np.ndarray) -> np.ndarray:
    """Numbers in the order of the first voxel: the same partition has the same numbers."""
    values, first, inverse = np.unique(components, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(np.where(values == 0, -1, first)))
    return (rank + (values[0] != 0))[inverse].reshape(components.shape)


@pytest.mark.parametrize("connectivity", FACES_SHARED)
@given(mask=arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.booleans()))
def test_components_are_those_of_scipy(connectivity: int, mask: np.ndarray) -> None:
    expected, number = ndimage.label(
        mask, ndimage.generate_binary_structure(3, FACES_SHARED[connectivity])
    )
    components = connected_components(mask, connectivity)
    assert components.max() == number
    np.testing.assert_array_equal(relabelled(components), relabelled(expected))


def test_more_components_than_half_of_the_voxels() -> None:
    assert connected_components(np.array([[[True, False, True]]]), 26).tolist() == [[[1, 0, 2]]]
