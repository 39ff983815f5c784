"""Voxel sizes."""

from itertools import product

import numpy as np
import pytest

from hstf.imaging.spacing import (
    axis_zooms,
    coarse_axis,
    diagonal_mm,
    is_same_spacing,
    relative_spacing,
    slice_axis,
    to_mm,
    voxel_mm3,
)


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


AXES = np.array([[0.7, 0.4, 0.1], [0.0, 1.5, -0.8], [0.2, 0.0, 3.0]])


def test_voxel_mm3_is_the_determinant_of_the_axes() -> None:
    assert voxel_mm3((0.7, 1.5, 3.0)) == 0.7 * 1.5 * 3.0
    parallelepiped = np.dot(np.cross(AXES[:, 0], AXES[:, 1]), AXES[:, 2])
    assert voxel_mm3(AXES) == pytest.approx(parallelepiped)
    assert voxel_mm3(AXES * [[-1], [1], [1]]) == pytest.approx(parallelepiped)


def test_to_mm_follows_the_axes() -> None:
    indices = np.array([[1, 0, 0], [0, 0, 2], [1, 2, 3]])
    assert np.array_equal(to_mm(indices, (1, 2, 3)), indices * (1, 2, 3))
    assert np.allclose(to_mm(indices, AXES)[:2], [AXES[:, 0], 2 * AXES[:, 2]])
    assert np.allclose(to_mm(indices, AXES)[2], AXES @ [1, 2, 3])


def test_diagonal_mm_is_that_of_the_corners_that_are_farthest_apart() -> None:
    assert diagonal_mm((3, 4, 12), (1, 1, 1)) == 13
    shape = (5, 6, 7)
    corners = np.array(list(product(*[(0, size) for size in shape]))) @ AXES.T
    distances = np.linalg.norm(corners[:, None] - corners, axis=2)
    assert diagonal_mm(shape, AXES) == pytest.approx(distances.max())


@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ((1.5, 1.5, 10.0), 2),
        ((10.0, 1.5, 2.0), 0),
        ((4.0, 4.0, 10.0), None),
        ((1.0, 1.0, 0.3), None),
        ((1.0, 1.0, 1.0), None),
    ],
)
def test_slice_axis_is_coarse_compared_with_both_others(
    spacing: tuple[float, float, float], expected: int | None
) -> None:
    assert slice_axis(spacing) == expected
