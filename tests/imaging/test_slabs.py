"""Slabs of a volume."""

import numpy as np
import pytest

from hstf.imaging.probabilities import most_likely
from hstf.imaging.slabs import plane_slabs, slabs


def test_slabs_cover_all_planes_once() -> None:
    expected = [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 7)]
    assert list(slabs((7, 5, 10), maximum_voxels=100)) == expected
    assert list(plane_slabs(7, thickness=2)) == expected


def test_slabs_have_at_least_one_plane() -> None:
    assert list(slabs((2, 50, 50), maximum_voxels=100)) == [slice(0, 1), slice(1, 2)]


def test_slabs_of_an_empty_plane_are_one_slab() -> None:
    assert list(slabs((3, 0, 5), maximum_voxels=100)) == [slice(0, 3)]


def test_most_likely_is_the_same_in_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    probabilities = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 7), dtype=np.uint8)
    monkeypatch.setattr("hstf.imaging.slabs.SLAB_VOXELS", 100)
    expected = probabilities.argmax(axis=0)
    np.testing.assert_array_equal(most_likely(probabilities), expected)
