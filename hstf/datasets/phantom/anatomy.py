"""The anatomy of a case: organs of varying shape, pose and size, lesions, and their look-alikes."""

from collections.abc import Mapping
from dataclasses import dataclass
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

ORGANS = ("liver", "spleen", "kidney")
BUMP_HEIGHT = 0.14
OVERLAP = 0.82  # below 1 - BUMP_HEIGHT: bumps cannot part the touching pair


@dataclass(frozen=True)
class Anatomy:
    """Shapes of one case in scene coordinates (:mod:`hstf.datasets.phantom.shapes`)."""

    pose: np.ndarray
    """``(3, 4)``: tilt and shift of the whole body."""
    warp: tuple[SmoothField, SmoothField, SmoothField]
    warp_height: float
    body: Superellipsoid
    organs: Mapping[str, Superellipsoid]
    lesions: tuple[Superellipsoid, ...]
    bowel: tuple[Superellipsoid, ...]
    """Blobs of about the organs' size and brightness, of no class."""
    spine: Tube
    vessels: tuple[Tube, ...]
    """Bright tubes through and around the organs; within an organ they belong to it."""

    def points(self, axes: Points) -> list[np.ndarray]:
        """The grid of ``axes`` bent and moved into the body's own coordinates, three arrays ``(X, Y, Z)``."""
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        pose = self.pose.astype(np.float32)
        return [
            row[0] * x
            + row[1] * y
            + row[2] * z
            + row[3]
            + np.float32(self.warp_height) * warp(axes)
            for row, warp in zip(pose, self.warp, strict=True)
        ]


def draw_anatomy(rng: np.random.Generator, options: PhantomOptions) -> Anatomy:
    """A random anatomy; ``options.variation`` scales how far it is from the mean one."""
    vary = options.variation
    liver = _organ(rng, vary, (0.26, 0.02, 0.28), (0.44, 0.44, 0.40))
    spleen = _organ(rng, vary, (-0.46, -0.22, 0.24), (0.24, 0.28, 0.32))
    kidney = _beside(liver, _organ(rng, vary, (0.0, 0.0, 0.0), (0.26, 0.27, 0.32)), rng, vary)
    pose = np.column_stack([small_rotation(rng, 6 * vary), rng.normal(0, 0.04 * vary, 3)])
    return Anatomy(
        pose=pose,
        warp=(SmoothField.random(rng, 4), SmoothField.random(rng, 4), SmoothField.random(rng, 4)),
        warp_height=0.05 * vary,
        body=Superellipsoid(np.zeros(3), np.array([0.95, 0.82, 2.0]), np.eye(3), exponent=2.5),
        organs={"liver": liver, "spleen": spleen, "kidney": kidney},
        lesions=tuple(_lesion(rng, liver, options) for _ in range(rng.poisson(options.lesions))),
        bowel=tuple(_bowel(rng) for _ in range(rng.integers(2, 6))),
        spine=Tube(2, np.array([0.0, -0.62]), np.array([0.03, 0.03]), rng.uniform(0, 6.3, 2), 0.14),
        vessels=tuple(_vessel(rng) for _ in range(rng.integers(2, 5))),
    )


def _organ(
    rng: np.random.Generator, vary: float, centre: tuple[float, ...], radii: tuple[float, ...]
) -> Superellipsoid:
    size = np.exp(rng.normal(0, 0.1 * vary)) * np.exp(rng.normal(0, 0.1 * vary, 3))
    return Superellipsoid(
        centre=np.array(centre) + rng.normal(0, 0.05 * vary, 3),
        radii=np.array(radii) * np.clip(size, 0.6, 1.5),
        rotation=small_rotation(rng, 15 * vary),
        exponent=float(rng.uniform(2.0, 2.0 + 1.5 * vary)),
        bumps=SmoothField.random(rng, 5),
        bump_height=BUMP_HEIGHT,
    )


def _beside(
    neighbour: Superellipsoid, organ: Superellipsoid, rng: np.random.Generator, vary: float
) -> Superellipsoid:
    """``organ`` moved to touch the lower back of ``neighbour``: they overlap, and share the overlap."""
    direction = np.array([-0.1, -0.55, -0.83]) + rng.normal(0, 0.12 * vary, 3)
    direction /= np.linalg.norm(direction)
    distance = OVERLAP * (neighbour.extent(direction) + organ.extent(direction))
    return Superellipsoid(
        neighbour.centre + distance * direction, organ.radii, organ.rotation, organ.exponent, organ.bumps,
        organ.bump_height,
    )  # fmt: skip


def _lesion(
    rng: np.random.Generator, liver: Superellipsoid, options: PhantomOptions
) -> Superellipsoid:
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    centre = liver.centre + direction * liver.extent(direction) * rng.uniform(0, 0.7)
    radius = max(rng.uniform(0.10, 0.20), 3.0 / max(options.size))  # at least 1.5 voxels
    return Superellipsoid(centre, radius * rng.uniform(0.8, 1.2, 3), small_rotation(rng, 60))


def _bowel(rng: np.random.Generator) -> Superellipsoid:
    centre = np.array([rng.uniform(-0.6, 0.5), rng.uniform(-0.1, 0.6), rng.uniform(-0.9, -0.2)])
    return Superellipsoid(centre, rng.uniform(0.1, 0.25, 3), small_rotation(rng, 60))


def _vessel(rng: np.random.Generator) -> Tube:
    axis = int(rng.integers(0, 3))
    return Tube(
        axis,
        rng.uniform(-0.5, 0.5, 2),
        rng.uniform(0.03, 0.15, 2),
        rng.uniform(0, 6.3, 2),
        rng.uniform(0.03, 0.06),
    )


@dataclass(frozen=True)
class Rendering:
    """A slab of an anatomy on the voxel grid: what lies where, and how much of it."""

    label: np.ndarray
    """``(X, Y, Z)`` uint8, values of :data:`PHANTOM_LABELS`."""
    layers: list[dict[str, np.ndarray]]
    """Tissues from the back to the front, each with its share of the voxel ``(X, Y, Z)`` in 0..1. Tissues of
    one layer share the voxel; a layer covers those behind it."""


def render(anatomy: Anatomy, axes: Points) -> Rendering:
    """The anatomy on the grid of scene coordinates ``axes`` (``(X,)``, ``(Y,)``, ``(Z,)``)."""
    points = anatomy.points(axes)
    body = anatomy.body(points, axes)
    organs = {name: np.maximum(shape(points, axes), body) for name, shape in anatomy.organs.items()}
    organs = _share_overlap(organs)
    label = np.zeros(points[0].shape, np.uint8)
    for name, values in organs.items():
        label[values < 0] = PHANTOM_LABELS[name]
    layers = [
        {"body": coverage(body)},
        {
            "bowel": coverage(
                np.maximum(_union([shape(points, axes) for shape in anatomy.bowel]), body)
            )
        },
        {"bone": coverage(np.maximum(anatomy.spine(points), body))},
        {name: coverage(values) for name, values in organs.items()},
        {"vessel": coverage(np.maximum(_union([tube(points) for tube in anatomy.vessels]), body))},
    ]
    if anatomy.lesions:
        lesion = np.maximum(
            _union([shape(points, axes) for shape in anatomy.lesions]), organs["liver"]
        )
        label[lesion < 0] = PHANTOM_LABELS["lesion"]
        layers.append({"lesion": coverage(lesion)})
    return Rendering(label, layers)


def _union(values: list[np.ndarray]) -> np.ndarray:
    return reduce(np.minimum, values)


def _share_overlap(values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Where shapes overlap, the one that a voxel is deeper in keeps it: they end up touching."""
    return {
        name: reduce(
            np.maximum, [(mine - other) / 2 for key, other in values.items() if key != name], mine
        )
        for name, mine in values.items()
    }
