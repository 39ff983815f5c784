"""From a scan's native voxels to the planned grid and back.

The grid keeps the scan's axes: they are reordered and mirrored to the closest RAS directions, cropped, and resampled to
the planned spacing. Grid and crop share their centre, and spacings are exact, so nothing drifts: voxel ``g`` of a grid of
``G`` voxels of ``t`` mm lies at ``(g - (G-1)/2) * t/s + (N-1)/2`` of the crop's ``N`` voxels of ``s`` mm. An axis whose
spacing equals the planned one is not interpolated.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from hstf.imaging.resampling import SLAB, Order, resample
from hstf.runtime.errors import HstfError

IGNORED = 255
SAME_SPACING = 1e-3  # relative difference below which two spacings are the same
ANISOTROPY = (
    3.0  # ratio of spacings beyond which the coarse axis is treated on its own, as in nnU-Net
)

Triple = tuple[int, int, int]
Spacing = tuple[float, float, float]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def corner_distance(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """Largest distance (mm) between where ``a`` and ``b``, affines ``(4, 4)``, put a corner of an array of ``shape``."""
    corners = np.array(
        [(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], dtype=float
    )
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())


def misplacement(
    shape: Sequence[int], affine: np.ndarray, image_shape: Sequence[int], image_affine: np.ndarray, tolerance_mm: float
) -> str | None:  # fmt: skip
    """How an array of ``shape`` and ``affine`` does not lie on the voxels of an image, in words; None where it does."""
    if tuple(shape) != tuple(image_shape):
        return f"has shape {tuple(shape)}, the image {tuple(image_shape)}"
    distance = corner_distance(affine, image_affine, shape)
    if distance > tolerance_mm:
        return f"has an affine that puts corner voxels up to {distance:.4g} mm away from those of the image"
    return None


def orientation_of(affine: np.ndarray) -> np.ndarray:
    """``(3, 2)`` in nibabel's form: for each array axis the closest RAS axis, and -1 where it runs against it.

    Raises:
        HstfError: an axis of ``affine`` has no direction.
    """
    orientation = io_orientation(np.asarray(affine, dtype=float))
    if np.isnan(orientation).any():
        raise HstfError(f"an affine with an axis of no direction: {np.asarray(affine).tolist()}.")
    return orientation.astype(int)


def to_ras(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A view of ``array`` ``(X, Y, Z)`` whose axes run closest to right, anterior, superior."""
    return apply_orientation(array, orientation_of(affine))


def ras_spacing(affine: np.ndarray) -> Spacing:
    """Voxel size (mm) along the axes of :func:`to_ras`."""
    sizes = np.linalg.norm(np.asarray(affine, dtype=float)[:3, :3], axis=0)
    return tuple(float(sizes[axis]) for axis in np.argsort(orientation_of(affine)[:, 0]))  # type: ignore[return-value]


def coarse_axis(spacing: Spacing) -> int | None:
    """The axis whose voxels are over three times as long as the shortest edge, if there is one."""
    worst = int(np.argmax(spacing))
    return worst if spacing[worst] > ANISOTROPY * min(spacing) else None


def edges(spacing: Sequence[float]) -> tuple[float, ...]:
    """Voxel edges in units of the shortest."""
    return tuple(mm / min(spacing) for mm in spacing)


def zooms(zoom: float, spacing: Sequence[float]) -> tuple[float, ...]:
    """``zoom`` of each axis: 1 along the thick slices of a strongly anisotropic grid of ``spacing`` (mm)."""
    return tuple(1.0 if edge > ANISOTROPY else zoom for edge in edges(spacing))


def bounding_box(mask: np.ndarray) -> Box:
    """First and last + 1 voxel of a non-empty ``mask`` ``(X, Y, Z)`` along each axis."""
    box = []
    for axis in range(3):
        along = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append((int(along[0]), int(along[-1]) + 1))
    return tuple(box)  # type: ignore[return-value]


@dataclass(frozen=True)
class Geometry:
    """Where a scan lies on the planned grid. Build it with :meth:`of`."""

    native_shape: Triple
    """``(X, Y, Z)`` in the file's array order."""
    affine: tuple[tuple[float, ...], ...]
    """``(4, 4)``, native voxel index to mm."""
    crop: Box
    """First and last + 1 voxel along each axis of the reoriented (RAS) volume."""
    source_spacing: Spacing
    """mm, of the reoriented volume."""
    spacing: Spacing
    """mm, of the grid."""
    grid_shape: Triple

    @classmethod
    def of(
        cls, native_shape: Triple, affine: np.ndarray, spacing: Spacing, crop: Box | None = None
    ) -> "Geometry":
        """The geometry of a scan on a grid of ``spacing`` (mm); ``crop`` is a box of the reoriented volume.

        Raises:
            HstfError: the affine is degenerate.
        """
        order = np.argsort(orientation_of(affine)[:, 0])
        whole = tuple((0, int(native_shape[axis])) for axis in order)
        box = whole if crop is None else tuple((int(a), int(b)) for a, b in crop)
        source = ras_spacing(affine)
        target = tuple(float(v) for v in spacing)
        sizes = [stop - start for start, stop in box]
        grid = [
            n if _same(s, t) else max(1, round(n * s / t))
            for n, s, t in zip(sizes, source, target, strict=True)
        ]
        rows = tuple(tuple(float(v) for v in row) for row in np.asarray(affine))
        return cls(tuple(int(n) for n in native_shape), rows, box, source, target, tuple(grid))  # type: ignore[arg-type]

    @property
    def crop_shape(self) -> Triple:
        """Shape of the crop in native voxels, RAS axes."""
        return tuple(stop - start for start, stop in self.crop)  # type: ignore[return-value]

    @property
    def orientation(self) -> str:
        """Directions of the native array axes, for instance ``LPS``."""
        return "".join(nib.aff2axcodes(np.array(self.affine)))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Geometry":
        """The inverse of :meth:`to_json`."""
        return cls(**{name: _tuples(content[name]) for name in cls.__dataclass_fields__})

    def to_grid(self, image: np.ndarray, order: Order = 3) -> np.ndarray:
        """A native ``image`` ``(X, Y, Z)`` on the grid, float32.

        Raises:
            HstfError: the shape is not the native one.
        """
        return self.crop_to_grid(self.cropped(image), order)

    def crop_to_grid(self, cropped: np.ndarray, order: Order = 3) -> np.ndarray:
        """As :meth:`to_grid`, of what :meth:`cropped` returned.

        With order 3 a coarse axis (over three times the shortest edge) takes the nearest slice instead: splines
        between thick slices make up structures that are not there (nnU-Net, Isensee et al. 2021).
        """
        return resample(cropped, self._grid_in_crop(), self._image_orders(order))

    def cropped(self, array: np.ndarray) -> np.ndarray:
        """The crop of a native array ``(X, Y, Z)`` as a view with RAS axes.

        Raises:
            HstfError: the shape is not the native one.
        """
        _expect_shape(array.shape, self.native_shape, "native")
        return to_ras(array, np.array(self.affine))[self._box]

    def label_to_grid(self, label: np.ndarray, classes: int) -> np.ndarray:
        """A native map of class indices (uint8, 255 = ignore) on the grid.

        Each class is interpolated linearly and the largest wins; ignored voxels go to the grid voxels nearest to them, but a
        labelled voxel goes before them: a scribble of one voxel's width is not lost between the voxels of a coarse grid.

        Raises:
            HstfError: the shape is not the native one.
        """
        cropped, coordinates = self.cropped(label), self._grid_in_crop()
        if all(c is None for c in coordinates):
            return cropped.astype(np.uint8)
        result = np.empty(self.grid_shape, np.uint8)
        for rows in _slabs(self.grid_shape[0]):
            source, within = _touched(cropped, rows, coordinates)
            present = [index for index in range(classes) if (source == index).any()]
            scores = (resample(source == index, within, (1, 1, 1)) for index in present)
            result[rows] = _largest(scores, present, result[rows].shape)
            ignored = source == IGNORED
            if ignored.any():
                result[rows][resample(ignored, within, (0, 0, 0)) > 0] = IGNORED
        if (result == IGNORED).any():
            self._keep_labelled(cropped, result)
        return result

    def probabilities_to_native(self, probabilities: np.ndarray) -> np.ndarray:
        """The most probable class index (uint8) of each native voxel; 0 outside the crop.

        Args:
            probabilities: ``(K, X, Y, Z)`` on the grid, on any scale that the classes share (0..1, 0..255).

        Raises:
            HstfError: the shape is not that of the grid.
        """
        _expect_shape(probabilities.shape[1:], self.grid_shape, "grid")

        def classes(rows: slice, coordinates: Coordinates) -> np.ndarray:
            slabs = [_touched(channel, rows, coordinates) for channel in probabilities]
            used = [k for k, (slab, _) in enumerate(slabs) if k == 0 or slab.any()]
            scores = (resample(*slabs[k], (1, 1, 1)) for k in used)
            return _largest(scores, used, (rows.stop - rows.start, *self.crop_shape[1:]))

        return self._native(np.dtype(np.uint8), 0, classes)

    def scalar_to_native(
        self, array: np.ndarray, order: Literal[0, 1] = 1, fill: float = 0
    ) -> np.ndarray:
        """A map on the grid ``(X, Y, Z)`` in native space, of the same type; ``fill`` outside the crop.

        Raises:
            HstfError: the shape is not that of the grid.
        """
        _expect_shape(array.shape, self.grid_shape, "grid")

        def values(rows: slice, coordinates: Coordinates) -> np.ndarray:
            slab = resample(*_touched(array, rows, coordinates), (order,) * 3)
            return np.rint(slab) if array.dtype.kind in "iu" else slab

        return self._native(array.dtype, fill, values)

    def grid_to_mm(self, position: Sequence[float]) -> tuple[float, float, float]:
        """Where a (fractional) voxel index of the grid lies, in mm of the file's affine."""
        sizes = zip(
            position,
            self.grid_shape,
            self.spacing,
            self.crop_shape,
            self.source_spacing,
            self.crop,
            strict=True,
        )
        ras = [
            (g - (G - 1) / 2) * t / s + (n - 1) / 2 + start for g, G, t, n, s, (start, _) in sizes
        ]
        x, y, z, _ = (self._ras_to_mm @ [*ras, 1]).tolist()
        return x, y, z

    @cached_property
    def _ras_to_mm(self) -> np.ndarray:
        """From voxels along RAS to mm of the file's affine, ``(4, 4)``."""
        affine = np.array(self.affine)
        return affine @ inv_ornt_aff(orientation_of(affine), self.native_shape)

    def _native(
        self, dtype: np.dtype, fill: float, values: Callable[[slice, "Coordinates"], np.ndarray]
    ) -> np.ndarray:
        """A native volume whose crop is filled slab by slab: memory stays that of the result."""
        native = np.full(self.native_shape, fill, dtype)
        cropped, coordinates = self.cropped(native), self._crop_in_grid()
        for rows in _slabs(self.crop_shape[0]):
            cropped[rows] = values(rows, coordinates)
        return native

    def _keep_labelled(self, cropped: np.ndarray, grid: np.ndarray) -> None:
        """Give ignored voxels of ``grid``, in place, the class of the labelled voxels of ``cropped`` within them.

        Those within which labelled voxels of several classes lie stay ignored: none of them is known there.
        """
        nearest = [
            (np.arange(n) if c is None else np.floor(c + 0.5)).clip(0, m - 1).astype(np.intp)
            for n, c, m in zip(self.crop_shape, self._crop_in_grid(), self.grid_shape, strict=True)
        ]
        lowest, highest = np.full(grid.shape, IGNORED, np.uint8), np.zeros(grid.shape, np.uint8)
        for rows in _slabs(self.crop_shape[0]):
            x, y, z = np.nonzero(cropped[rows] != IGNORED)
            place = (nearest[0][rows][x], nearest[1][y], nearest[2][z])
            values = cropped[rows][x, y, z]
            np.minimum.at(lowest, place, values)
            np.maximum.at(highest, place, values)
        only = (grid == IGNORED) & (lowest == highest)
        grid[only] = lowest[only]

    @property
    def _box(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.crop)

    def _image_orders(self, order: Order) -> tuple[Order, ...]:
        coarse = (
            {coarse_axis(self.source_spacing), coarse_axis(self.spacing)} if order == 3 else set()
        )
        return tuple(0 if axis in coarse else order for axis in range(3))

    def _grid_in_crop(self) -> "Coordinates":
        return _centred(self.crop_shape, self.source_spacing, self.grid_shape, self.spacing)

    def _crop_in_grid(self) -> "Coordinates":
        return _centred(self.grid_shape, self.spacing, self.crop_shape, self.source_spacing)


Coordinates = tuple[np.ndarray | None, ...]


def _centred(source: Triple, source_mm: Spacing, target: Triple, target_mm: Spacing) -> Coordinates:
    """Per axis, where the voxels of ``target`` lie in ``source`` when both share their centre; None: the same voxels."""
    return tuple(
        None if _same(s, t) else (np.arange(m) - (m - 1) / 2) * (t / s) + (n - 1) / 2
        for n, s, m, t in zip(source, source_mm, target, target_mm, strict=True)
    )


def _slabs(planes: int) -> Iterator[slice]:
    return (slice(start, min(start + SLAB, planes)) for start in range(0, planes, SLAB))


def _touched(
    grid: np.ndarray, rows: slice, coordinates: Coordinates
) -> tuple[np.ndarray, Coordinates]:
    """The planes of ``grid`` that interpolation at ``rows`` (linear or nearest) needs, and the coordinates within them."""
    if coordinates[0] is None:
        return grid[rows], coordinates
    wanted = np.clip(coordinates[0][rows], 0, grid.shape[0] - 1)
    first, last = int(wanted[0]), int(np.ceil(wanted[-1]))
    return grid[first : last + 1], (wanted - first, *coordinates[1:])


def _largest(
    scores: Iterator[np.ndarray], classes: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    """The class of the largest score at each voxel, the first of equals; one score in memory at a time."""
    winner, best = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    for index, score in zip(classes, scores, strict=True):
        better = score > best
        winner[better] = index
        np.maximum(best, score, out=best)
    return winner


def _same(a: float, b: float) -> bool:
    return abs(a - b) <= SAME_SPACING * b


def _expect_shape(found: tuple[int, ...], expected: Triple, space: str) -> None:
    if tuple(found) != tuple(expected):
        raise HstfError(
            f"an array of shape {tuple(found)} where the {space} shape is {tuple(expected)}."
        )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
