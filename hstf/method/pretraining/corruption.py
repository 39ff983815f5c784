"""Corruptions of images, as pure functions of the image and a random generator.

All act on ``(B, C, D, H, W)`` and return a new tensor. Random decisions are drawn on the host.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from hstf.imaging.spacing import ANISOTROPY, Spacing, relative_spacing
from hstf.runtime.devices import to_device
from hstf.training.augmentations.draws import uniform

CURVE_POINTS = 256
"""Points at which a Bézier curve is computed; between them it is linear."""
SHUFFLED_FRACTION = 0.5
"""Fraction of the blocks within which voxels are shuffled."""
BLOCK = (2, 6)
"""Minimum and maximum edge of a shuffled block (voxels)."""
PAINTED_BOXES = 5
"""Maximum number of boxes of in-painting and of out-painting."""
INNER = (0.15, 0.33)
"""Edges of the boxes that in-painting replaces, relative to the patch."""
OUTER = (0.45, 0.6)
"""Edges of the boxes that out-painting keeps, relative to the patch."""


def intensity_curve(image: Tensor, controls: Tensor) -> Tensor:
    """Map the intensities of each patch and channel by a monotone Bézier curve.

    The minimum and the maximum of a patch stay. The curve starts at (0, 0) and ends at (1, 1). Its
    two control points are in the unit square, so that it grows everywhere.

    Args:
        image: ``(B, C, D, H, W)``.
        controls: control points ``(B, 2, 2)``, x and y of each, 0 to 1.

    Example:
        >>> image = torch.tensor([0.0, 1.0, 2.0, 4.0]).reshape(1, 1, 4, 1, 1)
        >>> straight = torch.tensor([[[1 / 3, 1 / 3], [2 / 3, 2 / 3]]])
        >>> intensity_curve(image, straight).flatten().tolist()
        [0.0, 1.0, 2.0, 4.0]
    """
    low = image.amin((2, 3, 4), keepdim=True)
    width = (image.amax((2, 3, 4), keepdim=True) - low).clamp_min(1e-6)
    relative = ((image - low) / width).float()
    mapped = []
    for patch, points in zip(relative, controls, strict=True):
        mapped.append(_on_curve(patch, points))
    return (torch.stack(mapped) * width + low).to(image.dtype)


def _on_curve(values: Tensor, points: Tensor) -> Tensor:
    """Return the height of a Bézier curve at ``values``, 0 to 1."""
    t = torch.linspace(0, 1, CURVE_POINTS)[:, None]
    curve = 3 * (1 - t) ** 2 * t * points[0] + 3 * (1 - t) * t**2 * points[1] + t**3
    x, y = to_device(curve, values.device).unbind(1)
    right = torch.searchsorted(x.contiguous(), values.contiguous()).clamp(1, CURVE_POINTS - 1)
    x0, x1 = x[right - 1], x[right]
    fraction = ((values - x0) / (x1 - x0).clamp_min(1e-6)).clamp(0, 1)
    return y[right - 1] + fraction * (y[right] - y[right - 1])


def random_controls(batch: int, generator: torch.Generator) -> Tensor:
    """Draw the control points ``(B, 2, 2)`` of curves.

    Example:
        >>> random_controls(3, torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2, 2])
    """
    return uniform((batch, 2, 2), 0.0, 1.0, generator)


def shuffled_blocks(image: Tensor, spacing: Spacing, generator: torch.Generator) -> Tensor:
    """Shuffle the voxels within random small blocks, the same in all channels.

    The patch is divided into blocks of a random size; a rest at the end stays. Blocks are one voxel
    thick across thick slices.

    Args:
        image: ``(B, C, D, H, W)``.
        spacing: voxel size (mm).
        generator: source of the random numbers.

    Example:
        >>> image = torch.arange(64.0).reshape(1, 1, 4, 4, 4)
        >>> found = shuffled_blocks(image, (1, 1, 1), torch.Generator().manual_seed(1))
        >>> bool((found != image).any()), bool(found.sum() == image.sum())
        (True, True)
    """
    size = image.shape[2:]
    edges = _block_edges(size, spacing, generator)
    counts = [n // edge for n, edge in zip(size, edges, strict=True)]
    covered = [count * edge for count, edge in zip(counts, edges, strict=True)]
    blocks = _to_blocks(image[:, :, : covered[0], : covered[1], : covered[2]], counts, edges)
    batch, channels, number, voxels = blocks.shape
    order = torch.rand(batch, number, voxels, generator=generator).argsort(dim=-1)
    is_kept = uniform((batch, number, 1), 0, 1, generator) >= SHUFFLED_FRACTION
    order = torch.where(is_kept, torch.arange(voxels), order)
    index = to_device(order, image.device)[:, None].expand(-1, channels, -1, -1)
    shuffled = _from_blocks(blocks.gather(-1, index), counts, edges)
    result = image.clone()
    result[:, :, : covered[0], : covered[1], : covered[2]] = shuffled
    return result


def _block_edges(
    size: Sequence[int], spacing: Spacing, generator: torch.Generator
) -> tuple[int, int, int]:
    drawn = torch.randint(BLOCK[0], BLOCK[1] + 1, (3,), generator=generator).numpy().tolist()
    edges = []
    for n, edge, relative in zip(size, drawn, relative_spacing(spacing), strict=True):
        edges.append(1 if relative > ANISOTROPY else min(n, edge))
    return edges[0], edges[1], edges[2]


def _to_blocks(image: Tensor, counts: Sequence[int], edges: Sequence[int]) -> Tensor:
    """Return the voxels of each block, ``(B, C, blocks, voxels)``."""
    batch, channels = image.shape[:2]
    (a, b, c), (i, j, k) = counts, edges
    parts = image.reshape(batch, channels, a, i, b, j, c, k)
    return parts.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(batch, channels, a * b * c, i * j * k)


def _from_blocks(blocks: Tensor, counts: Sequence[int], edges: Sequence[int]) -> Tensor:
    """Reverse :func:`_to_blocks`."""
    batch, channels = blocks.shape[:2]
    (a, b, c), (i, j, k) = counts, edges
    parts = blocks.reshape(batch, channels, a, b, c, i, j, k).permute(0, 1, 2, 5, 3, 6, 4, 7)
    return parts.reshape(batch, channels, a * i, b * j, c * k)


def painting_masks(
    size: Sequence[int], is_outer: Sequence[bool], generator: torch.Generator
) -> Tensor:
    """Draw which voxels are replaced, ``(B, 1, D, H, W)`` bool on the host.

    Args:
        size: size of a patch (voxels).
        is_outer: for each patch, whether everything but some boxes is replaced (out-painting);
            otherwise some boxes are (in-painting).
        generator: source of the random numbers.

    Example:
        >>> masks = painting_masks((8, 8, 8), [False, True], torch.Generator().manual_seed(1))
        >>> bool(masks[0].float().mean() < masks[1].float().mean())
        True
    """
    masks = torch.zeros(len(is_outer), 1, *size, dtype=torch.bool)
    for mask, outer in zip(masks, is_outer, strict=True):
        low, high = OUTER if outer else INNER
        count = whole_number(1, PAINTED_BOXES, generator)
        for _ in range(count):
            mask[:, *random_shape_box(size, low, high, generator)] = True
        if outer:
            mask.logical_not_()
    return masks


def whole_number(low: int, high: int, generator: torch.Generator) -> int:
    """Draw a whole number from ``low`` to ``high``, both included.

    Example:
        >>> whole_number(3, 3, torch.Generator())
        3
    """
    # As an array of numpy: a number of the host is read without waiting for a GPU.
    return int(torch.randint(low, high + 1, (1,), generator=generator).numpy()[0])


def random_shape_box(
    size: Sequence[int], low: float, high: float, generator: torch.Generator
) -> tuple[slice, ...]:
    """Draw a box in a patch, whose edges are ``low`` to ``high`` times those of the patch.

    Example:
        >>> random_shape_box((4, 4, 4), 0.5, 0.5, torch.Generator().manual_seed(0))
        (slice(0, 2, None), slice(0, 2, None), slice(1, 3, None))
    """
    fractions = uniform((3,), low, high, generator).numpy().tolist()
    positions = uniform((3,), 0, 1, generator).numpy().tolist()
    box = []
    for n, fraction, position in zip(size, fractions, positions, strict=True):
        edge = min(n, max(1, round(fraction * n)))
        start = min(int(position * (n - edge + 1)), n - edge)
        box.append(slice(start, start + edge))
    return tuple(box)
