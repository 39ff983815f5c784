"""Implicit shapes: functions that are negative inside, and the share of a voxel that they cover.

Points are three arrays ``(X, Y, Z)``: scene coordinates along right, anterior and superior, -1 to 1 over the
field of view.
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
    """``(N, N, N)``: the wave number along each axis is the index."""

    @classmethod
    def random(cls, rng: np.random.Generator, order: int) -> "SmoothField":
        """Wave numbers below ``order``, mean 0 and standard deviation about 1 over the field of view."""
        waves = np.indices((order,) * 3).sum(0)
        weights = np.where(waves == 0, 0, 1 / np.maximum(waves, 1))
        spread = np.where(np.indices((order,) * 3) == 0, 1, 0.5).prod(
            0
        )  # mean square of the products
        coefficients = (
            rng.standard_normal((order,) * 3) * weights / np.sqrt((weights**2 * spread).sum())
        )
        return cls(coefficients)

    def __call__(self, axes: Points) -> np.ndarray:
        """Values ``(X, Y, Z)`` float32 on the grid of three ``axes`` (``(X,)``, ``(Y,)``, ``(Z,)``)."""
        field = self.coefficients.astype(np.float32)
        for axis in axes:  # each step replaces the leading wave number by the axis, now last
            waves = np.arange(len(self.coefficients), dtype=np.float32)
            basis = np.cos(np.pi / 2 * np.multiply.outer(waves, axis.astype(np.float32) + 1))
            field = np.einsum(
                "a...,ax->...x", field, basis
            )  # no BLAS: its sums depend on the threads
        return field


@dataclass(frozen=True)
class Superellipsoid:
    """An ellipsoid with a boxy or a plump outline (Barr, 1981) and bumps.

    The value is the distance from the centre in radii, less 1.
    """

    centre: np.ndarray
    radii: np.ndarray
    rotation: np.ndarray
    """``(3, 3)``, from the shape's own axes to the scene's."""
    exponent: float = 2.0
    """2 is an ellipsoid, larger is boxier."""
    bumps: SmoothField | None = None
    bump_height: float = 0.0
    """Largest change of the radius, as a share of it."""

    def __call__(self, points: Points, axes: Points) -> np.ndarray:
        """Values ``(X, Y, Z)`` at ``points``; the bumps follow ``axes``."""
        matrix = (self.rotation.T / self.radii[:, None]).astype(np.float32)
        total = np.zeros(points[0].shape, np.float32)
        for row, offset in zip(matrix, matrix @ self.centre.astype(np.float32), strict=True):
            local = row[0] * points[0] + row[1] * points[1] + row[2] * points[2] - offset
            total += self._power(np.abs(local))
        value = (
            np.sqrt(total) if self.exponent == 2 else total ** np.float32(1 / self.exponent)
        ) - 1
        return (
            value if self.bumps is None else value - self.bump_height * np.sin(2 * self.bumps(axes))
        )

    def _power(self, values: np.ndarray) -> np.ndarray:
        return values * values if self.exponent == 2 else values ** np.float32(self.exponent)

    def extent(self, direction: np.ndarray) -> float:
        """Distance from the centre to the surface along the unit vector ``direction``, bumps left out."""
        local = np.abs(self.rotation.T @ direction) / self.radii
        return float((local**self.exponent).sum() ** (-1 / self.exponent))


@dataclass(frozen=True)
class Tube:
    """A winding tube that runs through the whole scene along one axis."""

    axis: int
    middle: np.ndarray
    """``(2,)``: where it runs along the other two axes."""
    swing: np.ndarray
    """``(2,)``: how far it winds."""
    phase: np.ndarray
    """``(2,)`` radians."""
    radius: float

    def __call__(self, points: Points) -> np.ndarray:
        """Values ``(X, Y, Z)`` at ``points``."""
        along = points[self.axis]
        others = [point for number, point in enumerate(points) if number != self.axis]
        offsets = (
            point - middle - swing * np.sin(3 * along + phase)
            for point, middle, swing, phase in zip(
                others,
                *(v.astype(np.float32) for v in (self.middle, self.swing, self.phase)),
                strict=True,
            )
        )
        return np.sqrt(sum(offset * offset for offset in offsets)) / np.float32(self.radius) - 1


def coverage(values: np.ndarray) -> np.ndarray:
    """Share of each voxel inside an implicit shape, 0 to 1: the partial volume.

    It falls linearly from 1 to 0 as the surface passes through the voxel, over a width of one voxel along the
    surface's normal: exact for surfaces along the axes, within 0.06 for tilted ones, and above a half exactly where
    the voxel's centre lies inside.
    """
    slope = np.sqrt(sum(partial * partial for partial in np.gradient(values)))
    return np.clip(0.5 - values / np.maximum(slope, 1e-6), 0, 1)


def small_rotation(rng: np.random.Generator, degrees: float) -> np.ndarray:
    """A rotation matrix about a random axis, by an angle of standard deviation ``degrees``."""
    return Rotation.from_rotvec(np.deg2rad(rng.normal(0, degrees / np.sqrt(3), 3))).as_matrix()
