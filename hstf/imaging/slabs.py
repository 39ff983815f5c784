"""Split a volume into slabs, so that temporary arrays stay small.

A slab is a range of planes of the first spatial axis.
"""

from collections.abc import Iterator, Sequence
from math import prod

SLAB_PLANES = 16
"""Number of planes of a slab of :func:`plane_slabs`."""
SLAB_VOXELS = 1 << 22
"""Approximate number of voxels of a slab of :func:`slabs`."""


def plane_slabs(
    planes: int,
    thickness: int | None = None,
) -> Iterator[slice]:
    """Yield ranges that cover ``planes`` planes once, in order.

    Args:
        planes: number of planes of the volume.
        thickness: number of planes of a slab; :data:`SLAB_PLANES` by default. The last slab may
            have fewer.
    """
    step = SLAB_PLANES if thickness is None else thickness
    for start in range(0, planes, step):
        yield slice(start, min(start + step, planes))


def slabs(
    shape: Sequence[int],
    maximum_voxels: int | None = None,
) -> Iterator[slice]:
    """Yield ranges of the first axis of ``shape`` that hold a bounded number of voxels.

    Args:
        shape: shape of the volume, ``(X, Y, Z)``.
        maximum_voxels: upper bound for the voxels of a slab; :data:`SLAB_VOXELS` by default. A slab
            has at least one plane, even if the plane is larger.
    """
    maximum = SLAB_VOXELS if maximum_voxels is None else maximum_voxels
    voxels_per_plane = max(1, prod(shape[1:]))
    thickness = max(1, maximum // voxels_per_plane)
    return plane_slabs(shape[0], thickness)
