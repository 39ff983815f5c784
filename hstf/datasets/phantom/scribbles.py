"""Scribbles: sparse labels, as an annotator draws them in a minute."""

import numpy as np

CURVES = 4
"""Maximum number of curves of a foreground class, each in another slice."""
BACKGROUND_CURVES = 12
"""Maximum number of curves of the background, which has many tissues."""


def scribble(
    label: np.ndarray,
    ignore: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Return a few curves of each class, including the background (0).

    A curve is one voxel wide and runs within a slice of the last axis. Where it leaves its class it
    is interrupted, so that scribbles are always correct.

    Args:
        label: dense label ``(X, Y, Z)``, uint8.
        ignore: value of all voxels without a scribble.
        rng: source of random numbers.
    """
    drawn = np.full_like(label, ignore)
    for value in np.unique(label):
        slices = np.flatnonzero((label == value).any(axis=(0, 1)))
        count = CURVES if value else BACKGROUND_CURVES
        count = min(count, len(slices))
        for z in rng.choice(slices, count, replace=False):
            pixels = np.argwhere(label[..., z] == value)
            points = pixels[rng.integers(len(pixels), size=3)]
            x, y = _curve(points).T
            inside = label[x, y, z] == value
            drawn[x[inside], y[inside], z] = value
    return drawn


def _curve(points: np.ndarray) -> np.ndarray:
    """Return the pixels ``(M, 2)`` of the quadratic Bézier curve of ``points`` ``(3, 2)``."""
    length = np.abs(np.diff(points, axis=0)).sum()
    steps = 2 * int(length) + 1
    t = np.linspace(0, 1, steps)[:, None]
    start, control, end = points
    curve = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
    return np.rint(curve).astype(np.intp)
