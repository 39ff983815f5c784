"""Parts of the field of view of a feature map."""

from collections.abc import Sequence
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.runtime.devices import to_device

ROUNDING = 1e-6


def crop_features(
    features: Tensor,
    starts: Sequence[float],
    stops: Sequence[float],
) -> Tensor:
    """Crop a feature map to a box of its field of view.

    Whole cells are copied. Otherwise the cells are resampled linearly, so that they cover the box
    exactly.

    Args:
        features: ``(B, C, d, h, w)``.
        starts: where the box begins along each axis, as a fraction of the field of view.
        stops: where it ends.
    """
    cells = features.shape[2:]
    first = [start * n for start, n in zip(starts, cells, strict=True)]
    last = [stop * n for stop, n in zip(stops, cells, strict=True)]
    if all(_is_whole(border) for border in (*first, *last)):
        x, y, z = (slice(round(a), round(b)) for a, b in zip(first, last, strict=True))
        return features[:, :, x, y, z]
    size = [ceil(b - a - ROUNDING) for a, b in zip(first, last, strict=True)]
    return F.grid_sample(
        features.float(),
        _grid(len(features), starts, stops, size, features.device),
        padding_mode="border",
        align_corners=False,
    )


def _is_whole(border: float) -> bool:
    return abs(border - round(border)) < ROUNDING


def _grid(
    batch: int,
    starts: Sequence[float],
    stops: Sequence[float],
    size: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Return the sampling positions ``(B, d, h, w, 3)`` of a box.

    The coordinates of a position count from the last axis.
    """
    boxes = list(zip(starts, stops, strict=True))[::-1]
    scale = torch.tensor([stop - start for start, stop in boxes])
    centre = torch.tensor([stop + start - 1 for start, stop in boxes])
    affine = to_device(torch.cat([scale.diag(), centre[:, None]], dim=1), device)
    return F.affine_grid(affine.expand(batch, 3, 4), [batch, 1, *size], align_corners=False)
