"""Voxel sizes."""

from hstf.imaging.spacing import axis_zooms, coarse_axis, relative_spacing


def test_coarse_axis_is_more_than_three_times_the_shortest_edge() -> None:
    assert coarse_axis((1.0, 1.0, 3.0)) is None
    assert coarse_axis((1.0, 4.0, 1.0)) == 1


def test_relative_spacing_is_in_units_of_the_shortest_edge() -> None:
    assert relative_spacing((2.0, 1.0, 5.0)) == (2.0, 1.0, 5.0)
    assert relative_spacing((0.5, 1.0, 2.0)) == (1.0, 2.0, 4.0)


def test_axis_zooms_leaves_coarse_axes_as_they_are() -> None:
    assert axis_zooms(0.8, (1.0, 1.0, 3.0)) == (0.8, 0.8, 0.8)
    assert axis_zooms(0.8, (1.0, 1.0, 5.0)) == (0.8, 0.8, 1.0)
