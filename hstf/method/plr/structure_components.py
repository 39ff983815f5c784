"""Connected components of a structure: their size, and how much they touch other structures.

Example:
    >>> mask = np.zeros((4, 4, 4), bool)
    >>> mask[0, 0, 0] = mask[2:, 2:, 2:] = True
    >>> components, sizes = label_components(mask)
    >>> sorted(sizes.tolist())
    [1, 8]
"""

import cc3d
import numpy as np

from hstf.imaging.components import connected_components


def label_components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the 26-connected components of a boolean ``mask`` ``(X, Y, Z)``.

    Returns:
        The number of the component of each voxel, from 1 to n (0 outside), and ``(n,)`` the number
        of voxels of each component.
    """
    components = connected_components(mask, connectivity=26)
    # Without slice objects, because there may be millions of components.
    statistics = cc3d.statistics(components, no_slice_conversion=True)
    return components, np.asarray(statistics["voxel_counts"], dtype=np.int64)[1:]


def contact_fractions(components: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the fraction of the surface of each component that touches ``others``.

    The surface consists of voxel faces. Faces on the border of the volume do not count.

    Args:
        components: ``(X, Y, Z)`` number of the component, from 1 to n; 0 outside.
        others: ``(X, Y, Z)`` bool.

    Returns:
        ``(n,)`` in the range 0 to 1.
    """
    count = int(components.max())
    other = count + 1
    outside = count + 2
    parts = np.full(components.shape, outside, np.uint32)
    parts[others] = other
    np.copyto(
        parts,
        components,
        where=components > 0,
    )
    total = np.zeros(count + 3)
    touching = np.zeros(count + 3)
    areas = cc3d.contacts(
        parts,
        connectivity=6,
        surface_area=True,
    )
    for (first, second), area in areas.items():
        # The pair is sorted: a component comes before `other`.
        total[first] += area
        touching[first] += area * (second == other)
    return touching[1:other] / np.maximum(total[1:other], 1)
