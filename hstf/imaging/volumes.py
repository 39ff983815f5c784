"""Read volumes with their geometry, and write NIfTI files with the geometry of their source.

Arrays are indexed as NIfTI stores them, ``(X, Y, Z)``. An affine maps voxel indices to millimetres
(RAS+). :mod:`hstf.imaging.volume_files` opens the files.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np

from hstf.imaging.affines import (
    affine_problem,
    geometry_distance,
    is_accepted_by_itk,
    second_geometry,
    spacing_of,
)
from hstf.imaging.header_text import remove_text
from hstf.imaging.slabs import plane_slabs
from hstf.imaging.spacing import Spacing
from hstf.imaging.stored_voxels import stored_voxels
from hstf.imaging.volume_files import error_text, open_nifti, refuse_bomb
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path

OF_THE_FORMAT = ("sizeof_hdr", "magic", "vox_offset")
"""Fields of a header that NIfTI-1 and NIfTI-2 do not have in common."""
BLOCK_PLANES = 64
"""Edge of the blocks in which the order of axes is changed."""
LABEL_TOLERANCE = 1e-3
"""Maximum distance of a label value from a whole number, after rounding of slope and intercept."""


@dataclass(frozen=True)
class Volume:
    """A 3D array with its geometry."""

    data: np.ndarray
    """``(X, Y, Z)``."""
    affine: np.ndarray
    """``(4, 4)``, voxel index to mm."""
    header: nib.Nifti1Header

    @property
    def spacing(self) -> Spacing:
        """Voxel size (mm) along each array axis."""
        return spacing_of(self.affine)

    @property
    def affines(self) -> list[np.ndarray]:
        """All affines of the header: the one that is used, and the other one if there are two."""
        second = second_geometry(self.header)
        return [self.affine] if second is None else [self.affine, second]


def read_image(path: Path, is_mask: bool = False) -> Volume:
    """Read a 3D image as float32, scaled by the slope and intercept of the header.

    Args:
        path: the file.
        is_mask: whether the file is a mask or label map, which may be almost constant.

    Raises:
        HstfError: if the file is missing, truncated, unreadable or not 3D (a fourth axis of length
            1 is dropped), if its affine cannot be inverted, or if it is large and almost constant.
    """
    return _read(path, np.dtype(np.float32), is_mask)


def read_label(path: Path) -> Volume:
    """Read a 3D label map as uint8.

    Raises:
        HstfError: as :func:`read_image`, or if a value is not a whole number from 0 to 255.
    """
    volume = _read(path, None, is_mask=True)
    data = volume.data
    if data.dtype != np.uint8:
        valid = is_label(data)
        if not valid.all():
            found = float(data[~valid][0])
            raise HstfError(
                f"{path}: label values must be whole numbers from 0 to 255, found {found:g}."
                " Number the classes anew; voxels to ignore can have the value 255."
            )
        data = np.rint(data).astype(np.uint8)
    return Volume(data, volume.affine, volume.header)


def is_label(values: np.ndarray) -> np.ndarray:
    """Return which ``values`` are whole numbers from 0 to 255, as booleans. NaN is not."""
    if values.dtype.kind in "iu":
        return (values >= 0) & (values <= 255)
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        is_whole = np.abs(values - rounded) <= LABEL_TOLERANCE
    return is_whole & (rounded >= 0) & (rounded <= 255)


def _read(
    path: Path,
    dtype: np.dtype | None,
    is_mask: bool,
) -> Volume:
    image = open_nifti(path)
    affine = np.asarray(image.affine, dtype=float)
    problem = affine_problem(affine)
    if problem:
        raise HstfError(f"{path}: {problem}. Restore the geometry of the file from its source.")
    refuse_bomb(path, image, is_mask)
    try:
        # A damaged slope overflows. `check` reports the resulting values.
        with np.errstate(all="ignore"):
            data = stored_voxels(image, dtype)
        data = _in_c_order(data.reshape(image.shape[:3]))
    except MemoryError as error:
        raise HstfError(f"{path}: not enough memory for its shape {image.shape}.") from error
    # Damaged bytes cause errors of many kinds, as in open_any.
    except Exception as error:
        raise HstfError(
            f"{path}: the voxels cannot be read; the file is truncated or damaged"
            f" ({error_text(error)})."
        ) from error
    return Volume(data, affine, image.header)


def _in_c_order(array: np.ndarray) -> np.ndarray:
    """Return a contiguous array ``(X, Y, Z)``. Files have the order of Fortran.

    Blocks stay in the cache of the processor; this is three times as fast as numpy.
    """
    if array.flags.c_contiguous:
        return array
    result = np.empty(array.shape, array.dtype)
    for rows in plane_slabs(array.shape[0], BLOCK_PLANES):
        for planes in plane_slabs(array.shape[2], BLOCK_PLANES):
            result[rows, :, planes] = array[rows, :, planes]
    return result


def grid_mismatch(volume: Volume, image: Volume, tolerance_mm: float) -> str | None:
    """Describe how the voxels of a volume differ in shape or position from those of an image.

    If a header has two geometries, either of them may match.

    Args:
        volume: a label, or another image.
        image: the image.
        tolerance_mm: maximum distance (mm) of the corners.

    Returns:
        The rest of a sentence that starts with the name of the file; None if the voxels match.
    """
    shape = volume.data.shape
    if shape != image.data.shape:
        return f"has shape {shape}, the image {image.data.shape}"
    distance = geometry_distance(volume.affines, image.affines, shape)
    if distance > tolerance_mm:
        return (
            f"has an affine that puts corner voxels up to {distance:.4g} mm away from"
            " those of the image"
        )
    return None


def write_like(
    path: Path,
    data: np.ndarray,
    source: Volume,
) -> None:
    """Write a NIfTI file with the geometry of ``source``.

    The header is that of the source: qform, sform, their codes, voxel sizes, units and byte order
    do not change by a bit. Only where ITK could not open the file, a qform is added. Text in the
    header and its extensions may identify the patient; they are not copied.

    Args:
        path: file to write.
        data: ``(X, Y, Z)``, uint8 or float32.
        source: volume of the same shape.

    Raises:
        HstfError: if the shapes differ, or the file cannot be written.
    """
    if data.shape != source.data.shape:
        raise HstfError(
            f"{path}: an array of shape {data.shape} cannot be written with the geometry of a"
            f" volume of shape {source.data.shape}."
        )
    header = source.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = 0
    header["cal_max"] = 0
    remove_text(header)
    if not int(header["qform_code"]) and not is_accepted_by_itk(source.affine):
        # nibabel goes on to use the sform. ITK falls back to the qform, which has right angles.
        header.set_qform(source.affine, code=int(header["sform_code"]))
    is_nifti2 = isinstance(header, nib.Nifti2Header)
    image_type = nib.Nifti2Image if is_nifti2 else nib.Nifti1Image
    with atomic_path(path) as temporary:
        nib.save(image_type(data, source.affine, header), temporary)


def is_readable_by_itk(volume: Volume) -> bool:
    """Return whether ITK, and thus nnU-Net, can open a NIfTI file that has this header."""
    is_nifti1 = not isinstance(volume.header, nib.Nifti2Header)
    return is_nifti1 and (is_accepted_by_itk(volume.affine) or bool(volume.header["qform_code"]))


def as_nifti1(volume: Volume) -> Volume:
    """Return a volume with a header of NIfTI-1, which :func:`write_like` writes."""
    if not isinstance(volume.header, nib.Nifti2Header):
        return volume
    header = nib.Nifti1Header(endianness=volume.header.endianness)
    common = set(header.keys()).intersection(volume.header.keys())
    for name in common.difference(OF_THE_FORMAT):
        header[name] = volume.header[name]
    return replace(volume, header=header)


def blank_volume(path: Path) -> Volume:
    """Return the geometry of a file with voxels of zero, which need no memory."""
    image = open_nifti(path)
    zeros = np.broadcast_to(np.uint8(0), image.shape[:3])
    affine = np.asarray(image.affine, dtype=float)
    return Volume(zeros, affine, image.header)
