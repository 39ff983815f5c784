"""Transform a scan from its native voxels to the planned grid and back.

The grid keeps the axes of the scan. They are reordered and flipped to the closest RAS directions,
cropped, and resampled to the planned spacing. An axis that has the planned spacing already is not
interpolated.

Grid and crop have the same centre, and spacings are exact. Hence positions do not drift: over an
axis that is not interpolated, by at most :data:`hstf.imaging.spacing.MAXIMUM_DRIFT`.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import nibabel as nib
import numpy as np
from nibabel.orientations import inv_ornt_aff

from hstf.imaging.affines import GridAxes, grid_orientation, ras_order, ras_spacing, to_ras
from hstf.imaging.components import connected_components
from hstf.imaging.grid_coordinates import (
    Coordinates,
    WinningClass,
    matching_coordinates,
    needed_planes,
)
from hstf.imaging.intensity import few_values
from hstf.imaging.label_values import IGNORED
from hstf.imaging.resampling import Order, resample
from hstf.imaging.slabs import plane_slabs
from hstf.imaging.spacing import Spacing, Triple, coarse_axis, is_same_spacing
from hstf.runtime.documents import Document
from hstf.runtime.errors import HstfError

GEOMETRY = "geometry.json"
"""File name of the geometry of a preprocessed case."""
Extent = tuple[int, int]
"""First voxel and last voxel + 1 along an axis."""
CropBox = tuple[Extent, Extent, Extent]
"""Extent along each axis."""
Point = tuple[float, float, float]
"""A position (mm)."""
LINEAR: tuple[Order, ...] = (1, 1, 1)
NEAREST: tuple[Order, ...] = (0, 0, 0)


def bounding_box(mask: np.ndarray) -> CropBox:
    """Return the bounding box of a ``mask`` ``(X, Y, Z)`` that has at least one voxel."""
    x = _extent(mask, 0)
    y = _extent(mask, 1)
    z = _extent(mask, 2)
    return x, y, z


def _extent(
    mask: np.ndarray,
    axis: int,
) -> Extent:
    others = tuple(other for other in range(3) if other != axis)
    occupied = np.flatnonzero(mask.any(axis=others))
    first = int(occupied[0])
    last = int(occupied[-1])
    return first, last + 1


class Geometry(Document):
    """Position of a scan on the planned grid (``geometry.json``). Create it with :meth:`of`."""

    stage = "preprocess"

    native_shape: Triple
    """``(X, Y, Z)`` in the array order of the file."""
    affine: tuple[tuple[float, ...], ...]
    """``(4, 4)``, native voxel index to mm."""
    crop: CropBox
    """First voxel and last voxel + 1 along each axis of the reoriented (RAS) volume."""
    source_spacing: Spacing
    """Voxel size (mm) of the reoriented volume."""
    spacing: Spacing
    """Voxel size (mm) of the grid."""
    grid_shape: Triple
    """Shape of the grid, RAS axes."""
    axes: GridAxes = "anatomical"
    """What the axes of the grid are; RAS axes in the other texts are those of the slices with
    ``slices``."""

    @classmethod
    def of(
        cls,
        native_shape: Sequence[int],
        affine: np.ndarray,
        spacing: Sequence[float],
        crop: CropBox | None = None,
        axes: GridAxes = "anatomical",
    ) -> "Geometry":
        """Compute the geometry of a scan.

        Args:
            native_shape: shape of the scan.
            affine: ``(4, 4)``, native voxel index to mm.
            spacing: voxel size (mm) of the grid, RAS axes.
            crop: box of the reoriented volume; None for the whole volume.
            axes: what the axes of the grid are.

        Raises:
            HstfError: if the affine is degenerate.
        """
        if crop is None:
            box = [(0, int(native_shape[axis])) for axis in ras_order(affine, axes)]
        else:
            box = list(crop)
        source_spacing = ras_spacing(affine, axes)
        grid_shape = []
        for axis, (start, stop) in enumerate(box):
            size = _grid_size(
                stop - start,
                source_spacing[axis],
                float(spacing[axis]),
            )
            grid_shape.append(size)
        content = {
            "native_shape": [int(size) for size in native_shape],
            "affine": np.asarray(affine, dtype=float).tolist(),
            "crop": box,
            "source_spacing": source_spacing,
            "spacing": [float(mm) for mm in spacing],
            "grid_shape": grid_shape,
            "axes": axes,
        }
        return cls.model_validate(content)

    @property
    def crop_shape(self) -> Triple:
        """Shape of the crop in native voxels, RAS axes."""
        x, y, z = self.crop
        return _length(x), _length(y), _length(z)

    @property
    def orientation(self) -> str:
        """Directions of the native array axes, for instance ``LPS``."""
        codes = nib.aff2axcodes(np.array(self.affine))
        return "".join(codes)

    def to_grid(
        self,
        image: np.ndarray,
        order: Order = 3,
    ) -> np.ndarray:
        """Resample a native ``image`` ``(X, Y, Z)`` to the grid.

        Args:
            image: native volume.
            order: order of interpolation; see :meth:`crop_to_grid`.

        Returns:
            Float32, of shape :attr:`grid_shape`.

        Raises:
            HstfError: if the shape is not the native one.
        """
        return self.crop_to_grid(self.cropped(image), order)

    def crop_to_grid(
        self,
        cropped: np.ndarray,
        order: Order = 3,
    ) -> np.ndarray:
        """Resample a volume that :meth:`cropped` returned to the grid, as float32.

        With order 3, the nearest slice is taken along a coarse axis: splines between thick slices
        produce structures that do not exist (nnU-Net, Isensee et al. 2021).
        """
        coordinates = self._grid_in_crop()
        orders = self._image_orders(order)
        return resample(cropped, coordinates, orders)

    def cropped(self, array: np.ndarray) -> np.ndarray:
        """Return the crop of a native ``array`` ``(X, Y, Z)`` as a view with RAS axes.

        Raises:
            HstfError: if the shape is not the native one.
        """
        _check_shape(array.shape, self.native_shape, "native")
        reoriented = to_ras(array, np.array(self.affine), self.axes)
        box = tuple(slice(*extent) for extent in self.crop)
        return reoriented[box]

    def label_to_grid(
        self,
        label: np.ndarray,
        classes: int,
    ) -> np.ndarray:
        """Resample a native label map to the grid.

        Each class is interpolated linearly, and the class with the maximum value is taken. A grid
        voxel is ignored if the nearest native voxel is ignored. Labelled voxels take precedence: a
        scribble that is one voxel wide is not lost on a coarse grid.

        Args:
            label: ``(X, Y, Z)`` uint8 class indices, 255 for voxels to ignore.
            classes: number of classes, including the background.

        Raises:
            HstfError: if the shape is not the native one.
        """
        cropped = self.cropped(label)
        coordinates = self._grid_in_crop()
        if all(axis is None for axis in coordinates):
            return cropped.astype(np.uint8)
        result = np.empty(self.grid_shape, np.uint8)
        for rows in plane_slabs(self.grid_shape[0]):
            source, within = needed_planes(cropped, rows, coordinates)
            winner = WinningClass(result[rows].shape)
            for index in range(classes):
                inside = source == index
                if inside.any():
                    winner.add(index, resample(inside, within, LINEAR))
            result[rows] = winner.label
            ignored = source == IGNORED
            if ignored.any():
                is_ignored = resample(ignored, within, NEAREST) > 0
                result[rows][is_ignored] = IGNORED
        if (result == IGNORED).any():
            self._keep_labelled(cropped, result)
        return result

    def mask_to_grid(self, cropped: np.ndarray) -> np.ndarray:
        """Resample a mask that :meth:`cropped` returned to the grid, as float32.

        The nearest voxel is taken, so that no new values appear. A structure between the voxels of
        the grid, such as a click, would disappear: it gets the grid voxels nearest to it. Each of a
        few values is a structure of its own, also within another one.

        Args:
            cropped: ``(X, Y, Z)``; 0 means that there is nothing.
        """
        coordinates = self._grid_in_crop()
        grid = resample(cropped, coordinates, NEAREST)
        if not any(size < whole for size, whole in zip(grid.shape, cropped.shape, strict=True)):
            return np.array(grid, np.float32)
        components = connected_components(_numbered_values(cropped), 26)
        kept = np.unique(resample(components, coordinates, NEAREST).astype(components.dtype))
        lost = (components > 0) & ~np.isin(components, kept)
        x, y, z = np.nonzero(lost)
        nearest = self._nearest_grid_voxels()
        grid[nearest[0][x], nearest[1][y], nearest[2][z]] = cropped[lost]
        return grid

    def probabilities_to_native(self, probabilities: np.ndarray) -> np.ndarray:
        """Compute the most probable class of each native voxel.

        Args:
            probabilities: ``(K, X, Y, Z)`` on the grid, on the same scale for all classes, such as
                0..1 or 0..255.

        Returns:
            Uint8 class indices of the native shape; 0 outside the crop.

        Raises:
            HstfError: if the shape is not that of the grid.
        """
        _check_shape(probabilities.shape[1:], self.grid_shape, "grid")

        def classes(
            rows: slice,
            coordinates: Coordinates,
        ) -> np.ndarray:
            planes = rows.stop - rows.start
            winner = WinningClass((planes, *self.crop_shape[1:]))
            for index, channel in enumerate(probabilities):
                source, within = needed_planes(channel, rows, coordinates)
                # A class without probability cannot win. Class 0 is the default.
                if index == 0 or source.any():
                    winner.add(index, resample(source, within, LINEAR))
            return winner.label

        return self._fill_native(np.dtype(np.uint8), 0, classes)

    def scalar_to_native(
        self,
        array: np.ndarray,
        order: Literal[0, 1] = 1,
        fill: float = 0,
    ) -> np.ndarray:
        """Resample a map on the grid ``(X, Y, Z)`` to native space.

        Args:
            array: map on the grid. Integers are rounded.
            order: 0 for the nearest voxel, 1 for linear interpolation.
            fill: value outside the crop.

        Returns:
            Map of the native shape and of the type of ``array``.

        Raises:
            HstfError: if the shape is not that of the grid.
        """
        _check_shape(array.shape, self.grid_shape, "grid")

        def values(
            rows: slice,
            coordinates: Coordinates,
        ) -> np.ndarray:
            source, within = needed_planes(array, rows, coordinates)
            resampled = resample(source, within, (order,) * 3)
            if array.dtype.kind in "iu":
                return np.rint(resampled)
            return resampled

        return self._fill_native(array.dtype, fill, values)

    def grid_to_mm(self, position: Sequence[float]) -> Point:
        """Return the position (mm, by the affine of the file) of a voxel index of the grid."""
        voxel = []
        for axis, index in enumerate(position):
            grid_centre = (self.grid_shape[axis] - 1) / 2
            crop_centre = (self.crop_shape[axis] - 1) / 2
            crop_start, _ = self.crop[axis]
            mm = (index - grid_centre) * self.spacing[axis]
            offset = mm / self.source_spacing[axis]
            voxel.append(offset + crop_centre + crop_start)
        homogeneous = self._ras_to_mm @ [*voxel, 1]
        x, y, z, _ = homogeneous.tolist()
        return x, y, z

    @cached_property
    def _ras_to_mm(self) -> np.ndarray:
        """Affine ``(4, 4)`` from voxels of the reoriented volume to mm."""
        affine = np.array(self.affine)
        return affine @ inv_ornt_aff(grid_orientation(affine, self.axes), self.native_shape)

    def _fill_native(
        self,
        dtype: np.dtype,
        fill: float,
        values: Callable[[slice, Coordinates], np.ndarray],
    ) -> np.ndarray:
        """Create a native volume and fill its crop slab by slab, to save memory."""
        native = np.full(self.native_shape, fill, dtype)
        cropped = self.cropped(native)
        coordinates = self._crop_in_grid()
        for rows in plane_slabs(self.crop_shape[0]):
            cropped[rows] = values(rows, coordinates)
        return native

    def _keep_labelled(
        self,
        cropped: np.ndarray,
        grid: np.ndarray,
    ) -> None:
        """Label ignored voxels of ``grid`` by the labelled voxels of ``cropped`` within them.

        ``grid`` changes in place. A grid voxel that contains voxels of several classes stays
        ignored, because its class is not known.
        """
        nearest = self._nearest_grid_voxels()
        lowest = np.full(grid.shape, IGNORED, np.uint8)
        highest = np.zeros(grid.shape, np.uint8)
        for rows in plane_slabs(self.crop_shape[0]):
            slab = cropped[rows]
            x, y, z = np.nonzero(slab != IGNORED)
            values = slab[x, y, z]
            grid_x = nearest[0][rows][x]
            grid_y = nearest[1][y]
            grid_z = nearest[2][z]
            voxels = (grid_x, grid_y, grid_z)
            np.minimum.at(lowest, voxels, values)
            np.maximum.at(highest, voxels, values)
        has_one_class = (grid == IGNORED) & (lowest == highest)
        grid[has_one_class] = lowest[has_one_class]

    def _nearest_grid_voxels(self) -> list[np.ndarray]:
        """Return, for each axis, the index of the grid voxel that is nearest to a crop voxel."""
        nearest = []
        for axis, coordinates in enumerate(self._crop_in_grid()):
            if coordinates is None:
                index = np.arange(self.crop_shape[axis])
            else:
                index = np.floor(coordinates + 0.5)
            last = self.grid_shape[axis] - 1
            nearest.append(index.clip(0, last).astype(np.intp))
        return nearest

    def _image_orders(self, order: Order) -> tuple[Order, ...]:
        orders = [order] * 3
        if order == 3:
            for spacing in (self.source_spacing, self.spacing):
                axis = coarse_axis(spacing)
                if axis is not None:
                    orders[axis] = 0
        return tuple(orders)

    def _grid_in_crop(self) -> Coordinates:
        return matching_coordinates(
            self.crop_shape,
            self.source_spacing,
            self.grid_shape,
            self.spacing,
        )

    def _crop_in_grid(self) -> Coordinates:
        return matching_coordinates(
            self.grid_shape,
            self.spacing,
            self.crop_shape,
            self.source_spacing,
        )


def _numbered_values(mask: np.ndarray) -> np.ndarray:
    """Number the few values of a mask from 1; 0 where it is 0. Many values count as one."""
    values = few_values(mask)
    if values is None:
        return mask != 0
    numbers = np.zeros(mask.shape, np.uint8)
    for number, value in enumerate(values, start=1):
        if value != 0:
            numbers[mask == value] = number
    return numbers


def _length(extent: Extent) -> int:
    start, stop = extent
    return stop - start


def _grid_size(
    voxels: int,
    source_mm: float,
    target_mm: float,
) -> int:
    """Return the number of grid voxels along an axis."""
    if is_same_spacing(source_mm, target_mm, voxels):
        return voxels
    return max(1, round(voxels * source_mm / target_mm))


def _check_shape(
    found: tuple[int, ...],
    expected: Triple,
    space: str,
) -> None:
    if tuple(found) != tuple(expected):
        raise HstfError(
            f"an array has shape {tuple(found)}, but the {space} shape of its case is"
            f" {tuple(expected)}."
        )
