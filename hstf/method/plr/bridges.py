"""Thin bridges: a false structure that a few voxels connect with the true one.

The largest component keeps such a false structure. Therefore components are also looked at without
their outermost voxels: what is left are *cores*. A structure has a bridge if it has several large
cores. If no labelled case has one, and all have the same number of components, segmentations are
cut: each voxel belongs to the piece of its nearest core, and the pieces count as components of
their own. Vessels, the wall of the heart and other thin structures have several cores in the
labels, too. They are never cut.

Example:
    >>> mask = np.zeros((12, 5, 5), bool)
    >>> mask[:5] = mask[7:] = True
    >>> mask[5:7, 2, 2] = True  # a bridge
    >>> pieces = pieces_of(mask)
    >>> int(pieces.max()), int(pieces[0, 0, 0]) == int(pieces[11, 0, 0])
    (2, False)
    >>> int(pieces_of(mask[:5]).max())
    1
"""

import numpy as np
from scipy import ndimage

from hstf.method.plr.structure_components import label_components

SECOND_CORE = 0.1
"""Minimum size of a core that makes a piece of its own, as a fraction of the main core."""


def pieces_of(component: np.ndarray) -> np.ndarray:
    """Cut a component at its bridges.

    Args:
        component: ``(X, Y, Z)`` bool. Where it reaches the border of the array it continues.

    Returns:
        ``(X, Y, Z)`` number of the piece, from 1 to n; 0 outside. n is 1 without a bridge.
    """
    inner = ndimage.binary_erosion(component, border_value=1)
    cores, sizes = label_components(inner)
    large = sizes >= SECOND_CORE * sizes.max(initial=0)
    if large.sum() < 2:
        return component.astype(np.uint32)
    numbers = np.zeros(len(sizes) + 1, np.uint32)
    numbers[1:][large] = np.arange(1, large.sum() + 1)
    seeds = numbers[cores]
    nearest = ndimage.distance_transform_edt(
        seeds == 0, return_distances=False, return_indices=True
    )
    pieces = seeds[tuple(nearest)]
    pieces[~component] = 0
    return pieces


def split_at_bridges(
    components: np.ndarray, sizes: np.ndarray, maximum: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut the largest components at their bridges.

    Args:
        components: ``(X, Y, Z)`` number of the component, from 1 to n; 0 outside.
        sizes: ``(n,)`` number of voxels of each.
        maximum: number of components that are cut, in the order of their sizes.

    Returns:
        The numbers with the pieces as components of their own, and their sizes.
    """
    split = components
    added = 0
    for index in np.argsort(-sizes, kind="stable")[:maximum]:
        number = int(index) + 1
        pieces = pieces_of(components == number)
        if pieces.max() < 2:
            continue
        if split is components:
            split = components.copy()
        for piece in range(2, int(pieces.max()) + 1):
            added += 1
            split[pieces == piece] = len(sizes) + added
    if not added:
        return components, sizes
    return split, np.bincount(split.ravel(), minlength=len(sizes) + added + 1)[1:]
