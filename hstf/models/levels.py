"""Facts about the resolution levels of a planned network."""

from collections.abc import Sequence
from math import prod


def attended_level(
    strides: Sequence[Sequence[int]],
    maximum: int,
) -> int:
    """Return the deepest level whose total stride is at most ``maximum`` along every axis."""
    total = [1, 1, 1]
    deepest = 0
    for level, stride in enumerate(strides):
        total = [a * b for a, b in zip(total, stride, strict=True)]
        if max(total) <= maximum:
            deepest = level
    return deepest


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, int, int]:
    """Return the product of ``strides`` along each axis."""
    return (
        prod(stride[0] for stride in strides),
        prod(stride[1] for stride in strides),
        prod(stride[2] for stride in strides),
    )


def voxel_at(
    level: int,
    strides: Sequence[Sequence[int]],
    spacing: Sequence[float],
) -> tuple[float, float, float]:
    """Return the voxel size (mm) of the feature map at ``level``.

    Args:
        level: index of the level, 0 is the finest.
        strides: stride into each level.
        spacing: voxel size (mm) of the input.
    """
    total = total_stride(strides[: level + 1])
    return (spacing[0] * total[0], spacing[1] * total[1], spacing[2] * total[2])
