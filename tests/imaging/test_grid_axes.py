"""Grids with the axes of the slices instead of those of the body."""

import numpy as np
import pytest

from hstf.imaging.affines import grid_orientation, ras_order, ras_spacing
from hstf.imaging.geometry import Geometry

TILTED = np.array([[0, 0, 6.0, 5], [-1.0, 0.6, 0, 7], [0.6, 1.0, 0, 9], [0, 0, 0, 1]])
"""In-plane axes that are tilted; slices along X. The closest axes are P, S, R."""


def affine(*columns: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(columns).T
    return matrix


AXIAL = affine((-1.5, 0, 0), (0, -1.5, 0), (0, 0, 8.0))
SAGITTAL = affine((0, 1.5, 0), (0, 0, 1.5), (8.0, 0, 0))
FIRST = affine((8.0, 0, 0), (0, 1.5, 0), (0, 0, 1.5))


@pytest.mark.parametrize(
    ("matrix", "order"), [(AXIAL, [0, 1, 2]), (SAGITTAL, [0, 1, 2]), (FIRST, [1, 2, 0])]
)
def test_last_axis_goes_from_slice_to_slice(matrix: np.ndarray, order: list[int]) -> None:
    assert ras_order(matrix, "slices").tolist() == order
    assert ras_spacing(matrix, "slices") == (1.5, 1.5, 8.0)


def test_grid_of_cubes_keeps_the_order_of_the_file() -> None:
    cubes = affine((0, 1, 0), (0, 0, 1), (1, 0, 0))
    assert ras_order(cubes, "slices").tolist() == [0, 1, 2]
    assert ras_order(cubes).tolist() == [2, 0, 1]


@pytest.mark.parametrize("matrix", [AXIAL, SAGITTAL, FIRST, TILTED])
def test_anatomy_is_not_mirrored(matrix: np.ndarray) -> None:
    """The axes of the grid are always right-handed."""
    orientation = grid_orientation(matrix, "slices")
    axes = np.empty((3, 3))
    for column, (axis, direction) in enumerate(orientation):
        axes[:, axis] = direction * matrix[:3, column]
    assert np.linalg.det(axes) > 0


@pytest.mark.parametrize("matrix", [AXIAL, SAGITTAL, FIRST, TILTED])
def test_label_returns_to_its_voxels(matrix: np.ndarray) -> None:
    shape = (7, 5, 6)
    label = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    geometry = Geometry.of(shape, matrix, ras_spacing(matrix, "slices"), axes="slices")
    grid = geometry.label_to_grid(label, 3)
    assert geometry.spacing[2] == max(geometry.spacing)
    back = geometry.scalar_to_native(grid, order=0)
    assert np.array_equal(back, label)
    again = Geometry.model_validate(geometry.to_json())
    assert np.array_equal(again.label_to_grid(label, 3), grid)


def test_positions_in_millimetres_are_those_of_the_file() -> None:
    geometry = Geometry.of((7, 5, 6), TILTED, ras_spacing(TILTED, "slices"), axes="slices")
    orientation = grid_orientation(TILTED, "slices")
    assert orientation[:, 0].tolist() == [0, 1, 2]
    voxel = (2, 3, 4) if orientation[2, 1] > 0 else (2, 3, 5 - 4)
    found = geometry.grid_to_mm(voxel)
    assert np.allclose(found, (TILTED @ [2, 3, 4, 1])[:3])


def test_older_geometry_has_anatomical_axes() -> None:
    geometry = Geometry.of((7, 5, 6), SAGITTAL, ras_spacing(SAGITTAL))
    content = geometry.to_json()
    del content["axes"]
    assert Geometry.model_validate(content) == geometry
