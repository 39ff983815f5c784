"""Scribbles in place of a dense label: what a person draws in a minute."""

import numpy as np

CURVES = 4
"""Curves of each class, each in a slice of its own; fewer where the class is in fewer slices."""
BACKGROUND_CURVES = 12
"""The background holds many tissues; a person scribbles on several."""


def scribble(label: np.ndarray, ignore: int, rng: np.random.Generator) -> np.ndarray:
    """A few curves, a voxel wide, of each class of ``label`` ``(X, Y, Z)`` uint8, background (0) too; ``ignore`` elsewhere.

    Each curve lies in a slice of the last axis. Where it leaves its class it is interrupted, so that it is always right.
    """
    drawn = np.full_like(label, ignore)
    for value in np.unique(label):
        slices = np.flatnonzero((label == value).any(axis=(0, 1)))
        count = CURVES if value else BACKGROUND_CURVES
        for z in rng.choice(slices, min(count, len(slices)), replace=False):
            own = np.argwhere(label[..., z] == value)
            x, y = _curve(own[rng.integers(len(own), size=3)]).T
            right = label[x, y, z] == value
            drawn[x[right], y[right], z] = value
    return drawn


def _curve(points: np.ndarray) -> np.ndarray:
    """Pixels ``(M, 2)`` of the Bézier curve of three ``points`` ``(3, 2)``, from the first to the last."""
    steps = 2 * int(np.abs(np.diff(points, axis=0)).sum()) + 1
    t = np.linspace(0, 1, steps)[:, None]
    start, control, end = points
    return np.rint((1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end).astype(np.intp)
