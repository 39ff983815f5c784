"""A picture of each pseudo-label: three slices of image, label and weights, to judge a case at a glance."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hstf.runtime.files import atomic_path

TILE = 240  # pixels
CAPTION = 44  # pixels
COLOURS = np.array(
    [
        (0, 0, 0), (230, 75, 53), (77, 187, 213), (0, 160, 135), (240, 205, 70), (145, 130, 220),
        (243, 155, 127), (200, 90, 160), (120, 180, 60), (60, 110, 200),
    ],
    np.float32,
)  # fmt: skip


class Sliced(Protocol):
    """An array of which a slice can be read alone."""

    shape: tuple[int, ...]

    def __getitem__(self, region: tuple[int | slice, ...]) -> np.ndarray: ...


def overlay_path(folder: Path, case_id: str) -> Path:
    """The picture of a case whose label lies in ``folder``."""
    return folder / "overlays" / f"{case_id}.png"


def draw_overlay(
    path: Path,
    image: Sliced,
    label: np.ndarray,
    weight: np.ndarray,
    spacing: Sequence[float],
    *captions: str,
) -> None:
    """Write a PNG: above, three orthogonal slices with the label's outline; below, the weights of the same slices.

    The slices show the most foreground, as radiologists look at them: from the left (the front is on the left), from the
    front and from the feet (the patient's right is on the left).

    Args:
        image: ``(C, X, Y, Z)`` of any intensity; the first channel is shown, from its 1st to its 99th percentile.
        label: ``(X, Y, Z)`` class index.
        weight: ``(X, Y, Z)`` uint8.
        spacing: mm.
        captions: lines of text under the slices.
    """
    canvas = Image.new("RGB", (3 * TILE, 2 * TILE + CAPTION))
    for axis, position in enumerate(best_slices(label)):
        region = tuple(position if a == axis else slice(None) for a in range(3))
        pixels = [size for a, size in enumerate(spacing) if a != axis]
        grey, classes = _grey(image[(0, *region)]), label[region]
        tiles = _outlined(grey, classes), _heat(grey, weight[region])
        for row, tile in enumerate(tiles):
            canvas.paste(*_placed(tile, pixels, axis * TILE, row * TILE))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for line, caption in enumerate(captions):
        pen.text((6, 2 * TILE + 4 + 18 * line), caption[:118], fill=(255, 255, 255), font=font)
    with atomic_path(path) as temporary:
        canvas.save(temporary)


def best_slices(label: np.ndarray) -> list[int]:
    """For each axis, the slice with the most foreground; the middle one without any."""
    foreground = label > 0
    counts = [
        np.count_nonzero(foreground, axis=tuple(a for a in range(3) if a != axis))
        for axis in range(3)
    ]
    return [int(c.argmax()) if c.any() else len(c) // 2 for c in counts]


def _grey(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float32)
    low, high = np.percentile(values, (1, 99))
    grey = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    return np.repeat(grey[..., None], 3, axis=-1)


def _outlined(grey: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The slice with each class tinted and its edge in full colour."""
    edge = np.zeros(classes.shape, bool)
    for lines, neighbours in ((classes, edge), (classes.T, edge.T)):
        differs = lines[1:] != lines[:-1]
        neighbours[1:] |= differs
        neighbours[:-1] |= differs
    inside = classes > 0
    colour = COLOURS[np.where(inside, (classes - 1) % (len(COLOURS) - 1) + 1, 0)]
    opacity = np.where(inside, np.where(edge, 1.0, 0.25), 0.0)[..., None]
    return grey * (1 - opacity) + colour * opacity


def _heat(grey: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The slice in red where the weight is low."""
    doubt = 1 - weight[..., None].astype(np.float32) / 255
    return grey * (1 - doubt) * 0.6 + np.array((255, 60, 30), np.float32) * doubt


def _placed(
    tile: np.ndarray, spacing: Sequence[float], left: int, top: int
) -> tuple[Image.Image, tuple[int, int]]:
    """A slice of RAS axes (first axis to the left, second up) with square pixels in its tile, and where it goes."""
    picture = Image.fromarray(np.rint(tile).astype(np.uint8).swapaxes(0, 1)[::-1, ::-1])
    sizes = [n * mm for n, mm in zip(tile.shape[:2], spacing, strict=True)]
    zoom = (TILE - 4) / max(sizes)
    width, height = (max(1, round(size * zoom)) for size in sizes)
    shown = picture.resize((width, height), Image.Resampling.BILINEAR)
    return shown, (left + (TILE - width) // 2, top + (TILE - height) // 2)


def prune_overlays(folder: Path, rows: Sequence[Mapping[str, str]], most: int) -> None:
    """Keep the pictures of the ``most`` cases of ``rows`` with the lowest predicted Dice."""
    certain = sorted(rows, key=lambda row: (row["accepted"] == "1", float(row["predicted_dice"])))[
        most:
    ]
    for row in certain:
        overlay_path(folder, row["case_id"]).unlink(missing_ok=True)
