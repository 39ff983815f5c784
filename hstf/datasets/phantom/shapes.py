"""Implicit shapes: functions that are negative inside a shape, and the volume they fill of a voxel.

Points are three arrays ``(X, Y, Z)`` of scene coordinates along right, anterior and superior. The
field of view is -1 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

Points = Sequence[np.ndarray]


@dataclass(frozen=True)
class SmoothField:
    """A smooth random function of three axes: a sum of products of cosines."""

    coefficients: np.ndarray
    """``(N, N, N)``. The index along each axis is the wave number."""

    @classmethod
    def random(cls, rng: np.random.Generator, order: int) -> "SmoothField":
        """Draw a field with wave numbers below ``order``.

        Its mean is 0 and its standard deviation about 1 over the field of view.
        """
        shape = (order, order, order)
        indices = np.indices(shape)
        waves = indices.sum(0)
        weights = np.where(waves == 0, 0, 1 / np.maximum(waves, 1))
        mean_square = np.where(indices == 0, 1, 0.5).prod(0)
        norm = np.sqrt((weights**2 * mean_square).sum())
        coefficients = rng.standard_normal(shape) * weights / norm
        return cls(coefficients)

    def __call__(self, axes: Points) -> np.ndarray:
        """Compute values ``(X, Y, Z)`` float32 on the grid of ``axes``.

        Args:
            axes: coordinates ``(X,)``, ``(Y,)`` and ``(Z,)``.
        """
        field = self.coefficients.astype(np.float32)
        waves = np.arange(len(self.coefficients), dtype=np.float32)
        for axis in axes:
            phase = np.multiply.outer(waves, axis.astype(np.float32) + 1)
            basis = np.cos(np.pi / 2 * phase)
            # Each step replaces the first axis, a wave number, by the coordinate as the last axis.
            # A matrix product of BLAS would depend on the number of threads.
            field = np.einsum("a...,ax->...x", field, basis)
        return field


@dataclass(frozen=True)
class Superellipsoid:
    """An ellipsoid with a boxier outline (Barr, 1981) and bumps.

    Its value is the distance from the centre in radii, minus 1.
    """

    centre: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    """``(3, 3)``, from the axes of the shape to those of the scene."""
    exponent: float = 2.0
    """2 is an ellipsoid, a higher value is boxier."""
    bumps: SmoothField | None = None
    bump_height: float = 0.0
    """Maximum change of the radius, as a fraction of it."""

    def __call__(self, points: Points, axes: Points) -> np.ndarray:
        """Compute values ``(X, Y, Z)`` at ``points``. The bumps depend on ``axes``."""
        matrix = (self.rotation.T / self.radii[:, None]).astype(np.float32)
        offsets = matrix @ self.centre.astype(np.float32)
        x, y, z = points
        total = np.zeros(x.shape, np.float32)
        for row, offset in zip(matrix, offsets, strict=True):
            local = row[0] * x + row[1] * y + row[2] * z - offset
            total += self._power(np.abs(local))
        value = self._root(total) - 1
        if self.bumps is None:
            return value
        return value - self.bump_height * np.sin(2 * self.bumps(axes))

    def _power(self, values: np.ndarray) -> np.ndarray:
        if self.exponent == 2:
            return values * values
        return values ** np.float32(self.exponent)

    def _root(self, values: np.ndarray) -> np.ndarray:
        if self.exponent == 2:
            return np.sqrt(values)
        return values ** np.float32(1 / self.exponent)

    def extent(self, direction: np.ndarray) -> float:
        """Return the distance from the centre to the surface, without bumps.

        Args:
            direction: unit vector.
        """
        local = np.abs(self.rotation.T @ direction) / self.radii
        total = (local**self.exponent).sum()
        return float(total ** (-1 / self.exponent))


@dataclass(frozen=True)
class Tube:
    """A winding tube through the whole scene along one axis."""

    axis: int
    middle: np.ndarray
    """``(2,)``: mean position along the other two axes."""
    swing: np.ndarray
    """``(2,)``: amplitude along the other two axes."""
    phase: np.ndarray
    """``(2,)`` radians."""
    radius: float

    def __call__(self, points: Points) -> np.ndarray:
        """Compute values ``(X, Y, Z)`` at ``points``."""
        along = points[self.axis]
        others = [point for number, point in enumerate(points) if number != self.axis]
        middle = self.middle.astype(np.float32)
        swing = self.swing.astype(np.float32)
        phase = self.phase.astype(np.float32)
        squares = []
        for number, point in enumerate(others):
            wave = swing[number] * np.sin(3 * along + phase[number])
            offset = point - middle[number] - wave
            squares.append(offset * offset)
        distance = np.sqrt(sum(squares))
        return distance / np.float32(self.radius) - 1


def coverage(values: np.ndarray) -> np.ndarray:
    """Return the fraction of each voxel inside an implicit shape, 0 to 1: the partial volume.

    The fraction decreases linearly from 1 to 0 as the surface passes through the voxel, over one
    voxel along the normal of the surface. It is exact for surfaces parallel to the axes, and the
    error is at most 0.06 for tilted ones. It is above 0.5 exactly if the centre of the voxel is
    inside.
    """
    slopes = np.gradient(values)
    slope = np.sqrt(sum(partial * partial for partial in slopes))
    return np.clip(0.5 - values / np.maximum(slope, 1e-6), 0, 1)


def small_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """Draw a rotation matrix about a random axis.

    Args:
        rng: source of random numbers.
        degrees: standard deviation of the angle.
    """
    vector = rng.normal(0, degrees / np.sqrt(3), 3)
    return Rotation.from_rotvec(np.deg2rad(vector)).as_matrix()
