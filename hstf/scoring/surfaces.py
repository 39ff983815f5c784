"""Distances between the surfaces of two masks."""

import numpy as np

from hstf.imaging.spacing import VoxelSteps, to_mm


def surface_distances(
    a: np.ndarray,
    b: np.ndarray,
    spacing: VoxelSteps,
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the distances between the surfaces of two masks.

    A k-d tree of the surface voxels finds them, so time and memory grow with the surfaces and not
    with the volume.

    Args:
        a: mask ``(X, Y, Z)``, not empty.
        b: mask ``(X, Y, Z)``, not empty.
        spacing: voxel size (mm) along the axes of the arrays, or the axes ``(3, 3)`` of the affine
            if they are not at right angles (:func:`hstf.imaging.affines.steps_of`).

    Returns:
        The distance (mm) of each surface voxel of ``a`` to the surface of ``b``, and the distance
        of each surface voxel of ``b`` to the surface of ``a``.
    """
    surface_a = surface(a)
    surface_b = surface(b)
    points_a = to_mm(np.argwhere(surface_a), spacing)
    points_b = to_mm(np.argwhere(surface_b), spacing)
    # Voxels of both surfaces have distance 0 and need no search.
    to_b = np.where(surface_b[surface_a], 0.0, np.inf)
    to_a = np.where(surface_a[surface_b], 0.0, np.inf)
    _search(to_b, points_a, points_b)
    _search(to_a, points_b, points_a)
    return to_b, to_a


def _search(
    distances: np.ndarray,
    points: np.ndarray,
    others: np.ndarray,
) -> None:
    """Replace the infinite ``distances`` of ``points`` by those to their nearest of ``others``."""
    from scipy.spatial import KDTree

    apart = distances > 0
    if apart.any():
        nearest, _ = KDTree(others).query(points[apart])
        distances[apart] = nearest


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the surface of a mask.

    It consists of the voxels with a face neighbour outside of the mask or of the array.
    """
    interior = mask.copy()
    for axis in range(mask.ndim):
        inner = np.moveaxis(interior, axis, 0)
        line = np.moveaxis(mask, axis, 0)
        inner[1:] &= line[:-1]
        inner[:-1] &= line[1:]
        inner[[0, -1]] = False
    return mask & ~interior
