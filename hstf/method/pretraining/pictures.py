"""A picture of example patches: a row for each patch, the middle slice of each panel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hstf.method.pretraining.task import Example
from hstf.runtime.files import atomic_path

TILE = 180
"""Edge of a tile (pixels)."""
MARGIN = 6
CAPTION = 20
"""Height of a title (pixels)."""


def write_examples(path: Path, examples: Sequence[Example], spacing: Sequence[float]) -> None:
    """Write the picture, atomically.

    The gray values of the pictures of a patch are those of its first picture. Pictures of levels
    have their own.

    Args:
        path: the PNG file.
        examples: all with the same panels.
        spacing: voxel size (mm).

    Example:
        >>> callable(write_examples)
        True
    """
    titles = list(examples[0].panels)
    width = len(titles) * (TILE + MARGIN) + MARGIN
    height = CAPTION + len(examples) * (TILE + MARGIN) + MARGIN
    page = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(14)
    for column, title in enumerate(titles):
        draw.text((MARGIN + column * (TILE + MARGIN), 2), title, fill=0, font=font)
    for row, example in enumerate(examples):
        scale = _range(next(iter(example.panels.values())))
        for column, (title, patch) in enumerate(example.panels.items()):
            tile = _tile(patch, _range(patch) if "level" in title else scale, spacing)
            corner = (MARGIN + column * (TILE + MARGIN), CAPTION + row * (TILE + MARGIN))
            page.paste(tile, corner)
    with atomic_path(path) as target:
        page.save(target, format="PNG")


def middle_slice(patch: Tensor) -> np.ndarray:
    """Return the middle axial slice of a patch, the front of the patient on top.

    Args:
        patch: ``(X, Y, Z)``, from left to right, back to front and foot to head.

    Example:
        >>> import torch
        >>> middle_slice(torch.arange(8.0).reshape(2, 2, 2)).tolist()
        [[3.0, 7.0], [1.0, 5.0]]
    """
    plane = patch.detach().float().cpu().numpy()[:, :, patch.shape[2] // 2]
    return plane.T[::-1]


def _range(patch: Tensor) -> tuple[float, float]:
    values = patch.detach().float()
    return float(values.min()), float(values.max())


def _tile(patch: Tensor, limits: tuple[float, float], spacing: Sequence[float]) -> Image.Image:
    low, high = limits
    gray = np.clip((middle_slice(patch) - low) / max(high - low, 1e-6), 0, 1)
    picture = Image.fromarray((255 * gray).astype(np.uint8))
    size_mm = (gray.shape[1] * spacing[0], gray.shape[0] * spacing[1])
    factor = TILE / max(size_mm)
    pixels = [max(1, round(mm * factor)) for mm in size_mm]
    return picture.resize((pixels[0], pixels[1]), Image.Resampling.NEAREST)
