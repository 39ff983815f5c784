"""Draw an overview picture of each pseudo-label: slices of image, label and weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hstf.runtime.files import atomic_path, remove_leftovers

TILE = 240
"""Edge of a tile (pixels)."""
MARGIN = 4
"""Margin of a slice in its tile (pixels)."""
CAPTION = 44
"""Height of the caption (pixels)."""
LINE_HEIGHT = 18
"""Height of a line of the caption (pixels)."""
MAXIMUM_CHARACTERS = 118
"""Number of characters that fit into a line of the caption."""
COLOURS = np.array(
    [
        (0, 0, 0),
        (230, 75, 53),
        (77, 187, 213),
        (120, 180, 60),
        (240, 205, 70),
        (145, 130, 220),
        (243, 155, 127),
        (200, 90, 160),
        (0, 160, 135),
        (60, 110, 200),
    ],
    np.float32,
)
"""RGB colour of each class. Classes after the last colour start again at the second one.

Neighbours differ in hue also as thin outlines: blue is not followed by teal."""
LOW_WEIGHT_COLOUR = np.array((255, 60, 30), np.float32)


def class_colour(index: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class (0 to 255).

    Args:
        index: index of the class; 0 is the background.

    Example:
        >>> class_colour(1) == class_colour(10)
        True
    """
    repeated = (index - 1) % (len(COLOURS) - 1) + 1 if index else 0
    red, green, blue = COLOURS[repeated].astype(int).tolist()
    return red, green, blue


class Sliceable(Protocol):
    """An array from which slices can be read."""

    shape: tuple[int, ...]

    def __getitem__(self, region: tuple[int | slice, ...]) -> np.ndarray:
        """Read a region."""
        ...


def overlay_path(
    folder: Path,
    case_id: str,
) -> Path:
    """Return the path of the picture of a case.

    Args:
        folder: folder of the pseudo-labels.
        case_id: the case.
    """
    return folder / "overlays" / f"{case_id}.png"


def draw_overlay(
    path: Path,
    image: Sliceable,
    label: np.ndarray,
    weight: np.ndarray,
    spacing: Sequence[float],
    *captions: str,
) -> None:
    """Draw three orthogonal slices and write them as PNG.

    The upper row shows the label on the image, and the lower row shows the weights. Each slice is
    the one with the most foreground along its axis. The views are radiological: from the left
    (anterior is on the left), from the front, and from the feet (the patient's right is on the
    left).

    Args:
        path: file to write.
        image: ``(C, X, Y, Z)``. The first channel is shown, from its 1st to its 99th percentile.
        label: ``(X, Y, Z)`` class indices.
        weight: ``(X, Y, Z)`` uint8.
        spacing: voxel size (mm).
        captions: lines of text below the slices.
    """
    width = 3 * TILE
    height = 2 * TILE + CAPTION
    canvas = Image.new("RGB", (width, height))
    for axis, position in enumerate(best_slices(label)):
        region: list[int | slice] = [slice(None)] * 3
        region[axis] = position
        plane = tuple(region)
        pixel_size = [mm for other, mm in enumerate(spacing) if other != axis]
        grey = _grey(image[(0, *plane)])
        outlined = _outline(grey, label[plane])
        weighted = _highlight_low(grey, weight[plane])
        _paste(canvas, outlined, pixel_size, (axis, 0))
        _paste(canvas, weighted, pixel_size, (axis, 1))
    _write_captions(canvas, captions)
    remove_leftovers(path)
    with atomic_path(path) as temporary:
        canvas.save(temporary)


def best_slices(label: np.ndarray) -> list[int]:
    """Return the slice with the most foreground along each axis; without any, the middle one."""
    foreground = label > 0
    slices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        counts = np.count_nonzero(foreground, axis=others)
        if counts.any():
            slices.append(int(counts.argmax()))
        else:
            slices.append(len(counts) // 2)
    return slices


def prune_overlays(
    folder: Path,
    ranked_cases: Sequence[str],
    maximum: int,
) -> None:
    """Delete the pictures of all but the first ``maximum`` of ``ranked_cases``."""
    for case_id in ranked_cases[maximum:]:
        overlay_path(folder, case_id).unlink(missing_ok=True)


def _grey(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float32)
    low, high = np.percentile(values, (1, 99))
    contrast = max(high - low, 1e-6)
    fraction = (values - low) / contrast
    grey = np.clip(fraction, 0, 1) * 255
    return np.stack([grey, grey, grey], axis=-1)


def _outline(
    grey: np.ndarray,
    classes: np.ndarray,
) -> np.ndarray:
    """Tint each class of a slice and draw its edge in full colour."""
    edge = np.zeros(classes.shape, bool)
    _mark_changes(classes, edge)
    _mark_changes(classes.T, edge.T)
    inside = classes > 0
    repeated = (classes - 1) % (len(COLOURS) - 1) + 1
    colour = COLOURS[np.where(inside, repeated, 0)]
    opacity = np.where(edge, 1.0, 0.25)
    opacity = np.where(inside, opacity, 0.0)
    opacity = opacity[..., None]
    return grey * (1 - opacity) + colour * opacity


def _mark_changes(
    classes: np.ndarray,
    edge: np.ndarray,
) -> None:
    """Mark both neighbours wherever the class changes along the first axis, in place."""
    differs = classes[1:] != classes[:-1]
    edge[1:] |= differs
    edge[:-1] |= differs


def _highlight_low(
    grey: np.ndarray,
    weight: np.ndarray,
) -> np.ndarray:
    """Colour a slice red where the weight is low."""
    fraction = weight[..., None].astype(np.float32) / 255
    lack = 1 - fraction
    return grey * (1 - lack) * 0.6 + LOW_WEIGHT_COLOUR * lack


def _paste(
    canvas: Image.Image,
    plane: np.ndarray,
    pixel_size: Sequence[float],
    tile: tuple[int, int],
) -> None:
    """Paste a slice with RAS axes into the middle of a tile, with square pixels.

    Args:
        canvas: picture to change.
        plane: ``(X, Y, 3)``. The first axis is drawn to the left, the second upwards.
        pixel_size: voxel size (mm) of both axes.
        tile: column and row of the tile.
    """
    pixels = np.rint(plane).astype(np.uint8)
    pixels = pixels.swapaxes(0, 1)
    picture = Image.fromarray(pixels[::-1, ::-1])
    width_mm = plane.shape[0] * pixel_size[0]
    height_mm = plane.shape[1] * pixel_size[1]
    zoom = (TILE - MARGIN) / max(width_mm, height_mm)
    width = max(1, round(width_mm * zoom))
    height = max(1, round(height_mm * zoom))
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left = tile[0] * TILE + (TILE - width) // 2
    top = tile[1] * TILE + (TILE - height) // 2
    canvas.paste(picture, (left, top))


def _write_captions(
    canvas: Image.Image,
    captions: Sequence[str],
) -> None:
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(12)
    for line, caption in enumerate(captions):
        position = (6, 2 * TILE + 4 + LINE_HEIGHT * line)
        pen.text(
            position,
            caption[:MAXIMUM_CHARACTERS],
            fill=(255, 255, 255),
            font=font,
        )
