"""Affine matrices."""

import numpy as np
import pytest

from hstf.imaging.affines import (
    affine_problem,
    corner_distance,
    geometry_mismatch,
    orientation_of,
    ras_spacing,
    to_ras,
)
from hstf.runtime.errors import HstfError

OBLIQUE = np.array(
    [
        [1.9, -0.31, 0.12, -91.2],
        [0.28, 1.92, -0.4, 40.7],
        [-0.05, 0.37, 2.9, 12.5],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
SWAPPED = np.array(
    [
        [0.0, 0.0, 3.0, 1.0],
        [-1.0, 0.0, 0.0, 2.0],
        [0.0, 2.0, 0.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""The array axes point to posterior, superior and right."""


def test_affine_problem_accepts_oblique_and_small_voxels() -> None:
    assert affine_problem(OBLIQUE) == ""
    assert affine_problem(np.diag([1e-3, 1e-3, 1e-3, 1])) == ""


def test_affine_problem_names_values_that_are_not_finite() -> None:
    assert "finite" in affine_problem(np.diag([1, np.nan, 1, 1]))


def test_affine_problem_names_singular_affines() -> None:
    parallel = OBLIQUE.copy()
    parallel[:, 1] = parallel[:, 0]
    assert "singular" in affine_problem(np.diag([1, 0, 1, 1]))
    assert "singular" in affine_problem(parallel)


def test_orientation_of_refuses_an_axis_without_direction() -> None:
    with pytest.raises(HstfError, match="no direction"):
        orientation_of(np.diag([1.0, 0, 1, 1]))


def test_to_ras_reorders_and_flips_axes() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    expected = array.transpose(2, 0, 1)[:, ::-1]
    np.testing.assert_array_equal(to_ras(array, SWAPPED), expected)
    assert ras_spacing(SWAPPED) == (3.0, 1.0, 2.0)


def test_corner_distance_is_the_maximum_over_all_corners() -> None:
    longer = np.diag([1.0, 1.0, 1.1, 1.0])
    assert corner_distance(np.eye(4), longer, (5, 6, 11)) == pytest.approx(1.0)


def test_geometry_mismatch_describes_shape_and_position() -> None:
    moved = np.eye(4)
    moved[0, 3] = 2
    shape = (4, 5, 6)
    assert geometry_mismatch(shape, moved, shape, np.eye(4), tolerance_mm=2.5) is None
    problem = geometry_mismatch(shape, moved, shape, np.eye(4), tolerance_mm=1.0)
    assert problem is not None
    assert "up to 2 mm away" in problem
    problem = geometry_mismatch((4, 5, 7), moved, shape, np.eye(4), tolerance_mm=2.5)
    assert problem == "has shape (4, 5, 7), the image (4, 5, 6)"
