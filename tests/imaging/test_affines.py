"""Affine matrices."""

import numpy as np
import pytest

from hstf.imaging.affines import (
    affine_problem,
    corner_distance,
    orientation_of,
    ras_spacing,
    shear_degrees,
    spacing_of,
    steps_of,
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


def sheared(degrees: float, turn: float = 0.3) -> np.ndarray:
    """Return an affine whose second and third axes meet at 90 minus ``degrees``."""
    angle = np.deg2rad(degrees)
    axes = np.array([[1, 0, 0], [0, 1, np.sin(angle)], [0, 0, np.cos(angle)]]) * (0.7, 1.5, 3)
    turned = [
        [np.cos(turn), -np.sin(turn), 0],
        [np.sin(turn), np.cos(turn), 0],
        [0, 0, 1],
    ]
    affine = np.eye(4)
    affine[:3, :3] = np.array(turned) @ axes
    return affine


@pytest.mark.parametrize("degrees", [3.5, -5, 17, 30, -45])
def test_affine_problem_names_sheared_grids_and_the_way_out(degrees: float) -> None:
    problem = affine_problem(sheared(degrees))
    assert f"two of its axes meet at {90 - abs(degrees):.1f} degrees, expected 90" in problem
    assert "dcm2niix" in problem and "'Sheared grids'" in problem


@pytest.mark.parametrize("degrees", [0, 0.004, 0.1, -1, 2.9])
def test_affine_problem_accepts_rounded_affines(degrees: float) -> None:
    assert affine_problem(sheared(degrees)) == ""
    assert shear_degrees(sheared(degrees)) == pytest.approx(abs(degrees), abs=1e-6)


def test_steps_of_are_the_spacing_at_right_angles_only() -> None:
    assert steps_of(sheared(0)) == spacing_of(sheared(0))
    assert np.array_equal(steps_of(sheared(1)), sheared(1)[:3, :3])


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
