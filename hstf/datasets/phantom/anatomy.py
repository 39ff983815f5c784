"""The anatomy of a case: organs of varying shape, lesions, and structures that resemble them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.shapes import (
    Points,
    SmoothField,
    Superellipsoid,
    Tube,
    coverage,
    small_rotation,
)

BUMP_HEIGHT = 0.14
OVERLAP = 0.82
"""Distance of liver and kidney, relative to their extents.

Below ``1 - BUMP_HEIGHT``, bumps cannot separate them.
"""
MINIMUM_LESION_VOXELS = 1.5
"""Minimum radius of a lesion in voxels."""


@dataclass(frozen=True)
class Anatomy:
    """Shapes of a case in scene coordinates (:mod:`hstf.datasets.phantom.shapes`)."""

    pose: np.ndarray
    """``(3, 4)``: rotation and shift of the whole body."""
    warp: tuple[SmoothField, SmoothField, SmoothField]
    warp_height: float
    body: Superellipsoid
    organs: Mapping[str, Superellipsoid]
    lesions: tuple[Superellipsoid, ...]
    bowel: tuple[Superellipsoid, ...]
    """Background structures with about the size and brightness of the organs."""
    spine: Tube
    vessels: tuple[Tube, ...]
    """Bright tubes through and around the organs. Within an organ they belong to its class."""

    def points(self, axes: Points) -> list[np.ndarray]:
        """Transform a grid to the coordinates of the body.

        Args:
            axes: scene coordinates ``(X,)``, ``(Y,)`` and ``(Z,)``.

        Returns:
            Three arrays ``(X, Y, Z)``.
        """
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        pose = self.pose.astype(np.float32)
        points = []
        for row, warp in zip(pose, self.warp, strict=True):
            rigid = row[0] * x + row[1] * y + row[2] * z + row[3]
            points.append(rigid + np.float32(self.warp_height) * warp(axes))
        return points


def draw_anatomy(rng: np.random.Generator, options: PhantomOptions) -> Anatomy:
    """Draw a random anatomy. ``options.variation`` scales its distance from the mean anatomy."""
    # The order of the draws defines the data set: do not change it.
    vary = options.variation
    liver = _organ(
        rng,
        vary,
        centre=(0.26, 0.02, 0.28),
        radii=(0.44, 0.44, 0.40),
    )
    spleen = _organ(
        rng,
        vary,
        centre=(-0.46, -0.22, 0.24),
        radii=(0.24, 0.28, 0.32),
    )
    kidney = _organ(
        rng,
        vary,
        centre=(0.0, 0.0, 0.0),
        radii=(0.26, 0.27, 0.32),
    )
    kidney = _move_beside(liver, kidney, rng, vary)
    rotation = small_rotation(rng, 6 * vary)
    shift = rng.normal(0, 0.04 * vary, 3)
    return Anatomy(
        pose=np.column_stack([rotation, shift]),
        warp=(
            SmoothField.random(rng, 4),
            SmoothField.random(rng, 4),
            SmoothField.random(rng, 4),
        ),
        warp_height=0.05 * vary,
        body=Superellipsoid(
            centre=np.zeros(3),
            radii=np.array([0.95, 0.82, 2.0]),
            rotation=np.eye(3),
            exponent=2.5,
        ),
        organs={
            "liver": liver,
            "spleen": spleen,
            "kidney": kidney,
        },
        lesions=_lesions(rng, liver, options),
        bowel=tuple(_bowel(rng) for _ in range(rng.integers(2, 6))),
        spine=Tube(
            axis=2,
            middle=np.array([0.0, -0.62]),
            swing=np.array([0.03, 0.03]),
            phase=rng.uniform(0, 6.3, 2),
            radius=0.14,
        ),
        vessels=tuple(_vessel(rng) for _ in range(rng.integers(2, 5))),
    )


def _organ(
    rng: np.random.Generator,
    vary: float,
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Superellipsoid:
    """Draw an organ with a mean position and size."""
    size = np.exp(rng.normal(0, 0.1 * vary)) * np.exp(rng.normal(0, 0.1 * vary, 3))
    return Superellipsoid(
        centre=np.array(centre) + rng.normal(0, 0.05 * vary, 3),
        radii=np.array(radii) * np.clip(size, 0.6, 1.5),
        rotation=small_rotation(rng, 15 * vary),
        exponent=float(rng.uniform(2.0, 2.0 + 1.5 * vary)),
        bumps=SmoothField.random(rng, 5),
        bump_height=BUMP_HEIGHT,
    )


def _move_beside(
    neighbour: Superellipsoid,
    organ: Superellipsoid,
    rng: np.random.Generator,
    vary: float,
) -> Superellipsoid:
    """Move ``organ`` to the lower back of ``neighbour``, so that both overlap."""
    direction = np.array([-0.1, -0.55, -0.83]) + rng.normal(0, 0.12 * vary, 3)
    direction /= np.linalg.norm(direction)
    distance = OVERLAP * (neighbour.extent(direction) + organ.extent(direction))
    return replace(organ, centre=neighbour.centre + distance * direction)


def _lesions(
    rng: np.random.Generator,
    liver: Superellipsoid,
    options: PhantomOptions,
) -> tuple[Superellipsoid, ...]:
    """Draw a random number of lesions."""
    minimum_radius = 2 * MINIMUM_LESION_VOXELS / max(options.size)
    lesions = []
    for _ in range(rng.poisson(options.lesions)):
        lesions.append(_lesion(rng, liver, minimum_radius))
    return tuple(lesions)


def _lesion(
    rng: np.random.Generator,
    liver: Superellipsoid,
    minimum_radius: float,
) -> Superellipsoid:
    """Draw a lesion with its centre in the liver."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    centre = liver.centre + direction * liver.extent(direction) * rng.uniform(0, 0.7)
    radius = max(rng.uniform(0.10, 0.20), minimum_radius)
    radii = radius * rng.uniform(0.8, 1.2, 3)
    rotation = small_rotation(rng, 60)
    return Superellipsoid(centre, radii, rotation)


def _bowel(rng: np.random.Generator) -> Superellipsoid:
    centre = np.array(
        [
            rng.uniform(-0.6, 0.5),
            rng.uniform(-0.1, 0.6),
            rng.uniform(-0.9, -0.2),
        ]
    )
    radii = rng.uniform(0.1, 0.25, 3)
    rotation = small_rotation(rng, 60)
    return Superellipsoid(centre, radii, rotation)


def _vessel(rng: np.random.Generator) -> Tube:
    return Tube(
        axis=int(rng.integers(0, 3)),
        middle=rng.uniform(-0.5, 0.5, 2),
        swing=rng.uniform(0.03, 0.15, 2),
        phase=rng.uniform(0, 6.3, 2),
        radius=rng.uniform(0.03, 0.06),
    )


@dataclass(frozen=True)
class Rendering:
    """A slab of an anatomy on the voxel grid."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8, values of :data:`PHANTOM_LABELS`."""
    layers: list[dict[str, np.ndarray]]
    """Tissues from back to front, each with its fraction of the voxels ``(X, Y, Z)``, 0 to 1.

    A layer covers those behind it. Tissues of the same layer divide a voxel between them.
    """


def render(anatomy: Anatomy, axes: Points) -> Rendering:
    """Compute labels and tissue fractions on a grid.

    Args:
        anatomy: the anatomy.
        axes: scene coordinates ``(X,)``, ``(Y,)`` and ``(Z,)``.
    """
    points = anatomy.points(axes)
    body = anatomy.body(points, axes)
    organs = {}
    for name, shape in anatomy.organs.items():
        organs[name] = np.maximum(shape(points, axes), body)
    organs = _divide_overlap(organs)
    label = np.zeros(points[0].shape, np.uint8)
    for name, values in organs.items():
        label[values < 0] = PHANTOM_LABELS[name]
    bowel = _union([shape(points, axes) for shape in anatomy.bowel])
    vessels = _union([tube(points) for tube in anatomy.vessels])
    layers = [
        {"body": coverage(body)},
        {"bowel": coverage(np.maximum(bowel, body))},
        {"bone": coverage(np.maximum(anatomy.spine(points), body))},
        {name: coverage(values) for name, values in organs.items()},
        {"vessel": coverage(np.maximum(vessels, body))},
    ]
    if anatomy.lesions:
        lesions = _union([shape(points, axes) for shape in anatomy.lesions])
        lesions = np.maximum(lesions, organs["liver"])
        label[lesions < 0] = PHANTOM_LABELS["lesion"]
        layers.append({"lesion": coverage(lesions)})
    return Rendering(label, layers)


def _union(shapes: Sequence[np.ndarray]) -> np.ndarray:
    return reduce(np.minimum, shapes)


def _divide_overlap(shapes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Divide the overlap of shapes, so that they touch.

    A voxel belongs to the shape in which it is deeper.
    """
    divided = {}
    for name, values in shapes.items():
        result = values
        for other, other_values in shapes.items():
            if other != name:
                result = np.maximum(result, (values - other_values) / 2)
        divided[name] = result
    return divided
