"""The places of a pseudo-label that a reviewer should look at first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hstf.imaging.slabs import plane_slabs
from hstf.imaging.volumes import Volume, read_label

PLACES = 20
BLOCK_MM = 4.0
"""Edge of the blocks in which doubt is summed up: a single doubtful voxel does not matter."""
DISTANCE_MM = 12.0
"""Minimum distance of two places."""
NEGLIGIBLE = 0.05
"""Part of the doubt of the first place below which there is no other place."""
CANDIDATES = 5000

Place = dict[str, Any]


def uncertain_places(label: Path, weight: Path, names: dict[int, str]) -> list[Place]:
    """Find the places of the foreground with the least weight.

    Args:
        label: the pseudo-label.
        weight: its voxel weights.
        names: name of each class by its value in files, without the background.

    Returns:
        Position (mm), class and weight (0 to 1) of each place, most doubtful first. Without any
        doubt, the middle of the foreground.
    """
    volume = read_label(label)
    weights = read_label(weight).data
    search = _Search.of(volume, weights, names)
    chosen = _distinct(search, search.doubt)
    if not chosen:
        search = _Search.of(volume, None, names)
        chosen = _distinct(search, search.doubt)[:1]
    return [_place(volume, weights, names, search.voxel(block)) for block in chosen]


@dataclass(frozen=True)
class _Search:
    """The doubt in blocks. The doubt of voxels is computed where it is needed, to save memory."""

    label: np.ndarray
    weights: np.ndarray | None
    """None: the foreground is doubtful everywhere."""
    is_foreground: np.ndarray
    """``(256,)`` bool, by the value in files."""
    doubt: np.ndarray
    """Sum of the doubt of each block."""
    steps: tuple[int, ...]
    """Voxels of a block along each axis."""
    affine: np.ndarray

    @classmethod
    def of(cls, volume: Volume, weights: np.ndarray | None, names: Mapping[int, str]) -> "_Search":
        shape = volume.data.shape
        spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
        steps = tuple(max(1, round(BLOCK_MM / mm)) for mm in spacing)
        is_foreground = np.zeros(256, bool)
        is_foreground[list(names)] = True
        blocks = tuple(-(-size // step) for size, step in zip(shape, steps, strict=True))
        search = cls(
            volume.data, weights, is_foreground, np.zeros(blocks, np.uint32), steps, volume.affine
        )
        for index, slab in enumerate(plane_slabs(shape[0], steps[0])):
            search.doubt[index] = search._sums(slab)
        return search

    def _sums(self, slab: slice) -> np.ndarray:
        """Return the doubt of the blocks of a slab that is as thick as a block."""
        doubt = self.doubt_of(np.s_[slab, :, :]).sum(axis=0, dtype=np.uint32)
        for axis, step in enumerate(self.steps[1:]):
            starts = np.arange(0, doubt.shape[axis], step)
            doubt = np.add.reduceat(doubt, starts, axis=axis)
        return doubt

    def doubt_of(self, box: tuple[slice, ...]) -> np.ndarray:
        """Return the doubt of the voxels of a box, 0 to 255."""
        foreground = self.is_foreground[self.label[box]]
        if self.weights is None:
            return foreground * np.uint8(255)
        return foreground * (255 - self.weights[box])

    def mm(self, blocks: np.ndarray) -> np.ndarray:
        """Return the centres (mm) of blocks ``(N, 3)``."""
        voxels = blocks * np.array(self.steps) + (np.array(self.steps) - 1) / 2
        return voxels @ self.affine[:3, :3].T + self.affine[:3, 3]

    def voxel(self, block: np.ndarray) -> tuple[int, ...]:
        """Return the most doubtful voxel of a block, the one next to the middle of the doubt."""
        start = block * np.array(self.steps)
        box = tuple(
            slice(first, first + step) for first, step in zip(start, self.steps, strict=True)
        )
        doubt = self.doubt_of(box)
        voxels = np.argwhere(doubt == doubt.max())
        middle = voxels.mean(axis=0)
        nearest = voxels[np.square(voxels - middle).sum(axis=1).argmin()]
        return tuple((start + nearest).tolist())


def _distinct(search: _Search, doubt: np.ndarray) -> list[np.ndarray]:
    """Return the blocks with most doubt that are not close to each other."""
    flat = doubt.reshape(-1)
    maximum = int(flat.max(initial=0))
    if maximum == 0:
        return []
    candidates = np.flatnonzero(flat >= max(1, maximum * NEGLIGIBLE))
    order = candidates[np.argsort(flat[candidates], kind="stable")[::-1]][:CANDIDATES]
    blocks = np.stack(np.unravel_index(order, doubt.shape), axis=1)
    positions = search.mm(blocks)
    chosen: list[int] = []
    for index, position in enumerate(positions):
        distances = np.linalg.norm(positions[chosen] - position, axis=1)
        if (distances >= DISTANCE_MM).all():
            chosen.append(index)
        if len(chosen) == PLACES:
            break
    return [blocks[index] for index in chosen]


def _place(
    volume: Volume, weights: np.ndarray, names: dict[int, str], voxel: tuple[int, ...]
) -> Place:
    mm = volume.affine[:3, :3] @ voxel + volume.affine[:3, 3]
    return {
        "mm": [round(value, 3) for value in mm.tolist()],
        "class": names[int(volume.data[voxel])],
        "weight": round(float(weights[voxel]) / 255, 3),
    }
