"""Voxel sizes."""

import pytest

from hstf.imaging.spacing import axis_zooms, coarse_axis, is_same_spacing, relative_spacing


@pytest.mark.parametrize(
    ("first", "second", "voxels", "same"),
    [
        (1.531, 1.531, 100_000, True),
        (1.53125, 1.531, 100, True),
        (1.53125, 1.531, 512, False),
        (1.531, 1.53125, 512, False),
        (1.0, 1.001, 1, True),
        (1.0, 1.1, 1, False),
    ],
)
def test_is_same_spacing_depends_on_the_length_of_the_axis(
    first: float, second: float, voxels: int, same: bool
) -> None:
    assert is_same_spacing(first, second, voxels) is same


def test_coarse_axis_is_more_than_three_times_the_shortest_edge() -> None:
    assert coarse_axis((1.0, 1.0, 3.0)) is None
    assert coarse_axis((1.0, 4.0, 1.0)) == 1


def test_relative_spacing_is_in_units_of_the_shortest_edge() -> None:
    assert relative_spacing((2.0, 1.0, 5.0)) == (2.0, 1.0, 5.0)
    assert relative_spacing((0.5, 1.0, 2.0)) == (1.0, 2.0, 4.0)


def test_axis_zooms_leaves_coarse_axes_as_they_are() -> None:
    assert axis_zooms(0.8, (1.0, 1.0, 3.0)) == (0.8, 0.8, 0.8)
    assert axis_zooms(0.8, (1.0, 1.0, 5.0)) == (0.8, 0.8, 1.0)
