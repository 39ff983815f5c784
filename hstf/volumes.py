"""NIfTI volumes: read with their geometry, written with the geometry of their source.

Arrays are indexed as NIfTI stores them, ``(X, Y, Z)``; an affine maps voxel indices to millimetres (RAS+).
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from hstf.errors import HstfError
from hstf.files import atomic_path


@dataclass(frozen=True)
class Volume:
    """A 3D array with its geometry."""

    data: np.ndarray
    """``(X, Y, Z)``."""
    affine: np.ndarray
    """``(4, 4)``, voxel index to mm."""
    header: nib.Nifti1Header

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        return tuple(float(v) for v in np.linalg.norm(self.affine[:3, :3], axis=0))  # type: ignore[return-value]


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a NIfTI file lazily: the header is read, the voxels are not.

    Raises:
        HstfError: missing, or not NIfTI.
    """
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise HstfError(f"{path}: the file is missing.") from error
    except (ImageFileError, OSError, EOFError, ValueError) as error:
        raise HstfError(f"{path}: not a readable NIfTI file ({error}).") from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise HstfError(f"{path}: is {type(image).__name__}, expected NIfTI (.nii or .nii.gz).")
    return image


def read_image(path: Path) -> Volume:
    """Read a 3D image as float32, scaled by the header's slope and intercept.

    Raises:
        HstfError: missing, truncated, not NIfTI, or not 3D (a fourth axis of length 1 is dropped).
    """
    return _read(path, np.dtype(np.float32))


def read_label(path: Path) -> Volume:
    """Read a 3D label map as uint8. Values that are not whole numbers in 0..255 are refused.

    Raises:
        HstfError: as :func:`read_image`, or a value that is no label.
    """
    volume = _read(path, None)
    data = volume.data
    if data.dtype != np.uint8:
        rounded = np.rint(data)
        if not np.all((data == rounded) & (data >= 0) & (data <= 255)):
            raise HstfError(f"{path}: label values must be whole numbers from 0 to 255, found {_odd(data)}.")
        data = rounded.astype(np.uint8)
    return Volume(data, volume.affine, volume.header)


def _odd(data: np.ndarray) -> float:
    wrong = ~((data == np.rint(data)) & (data >= 0) & (data <= 255))
    return float(data[wrong][0])


def _read(path: Path, dtype: np.dtype | None) -> Volume:
    image = open_nifti(path)
    shape = image.shape[:3] if len(image.shape) == 4 and image.shape[3] == 1 else image.shape
    if len(shape) != 3:
        raise HstfError(f"{path}: has shape {image.shape}, expected three axes. Split a 4D file into one file per channel.")
    try:
        data = np.asanyarray(image.dataobj, dtype=dtype)
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise HstfError(f"{path}: the voxels cannot be read; the file is truncated or damaged ({error}).") from error
    return Volume(np.ascontiguousarray(data.reshape(shape)), np.asarray(image.affine, dtype=float), image.header)


def write_like(path: Path, data: np.ndarray, source: Volume) -> None:
    """Write ``data`` (``(X, Y, Z)``, uint8 or float32) as NIfTI with the affine, codes and units of ``source``.

    Raises:
        HstfError: the shapes differ, or the file cannot be written.
    """
    if data.shape != source.data.shape:
        raise HstfError(f"{path}: shape {data.shape} to be written with the geometry of shape {source.data.shape}.")
    header = source.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    image = kind(data, source.affine, header)
    image.set_sform(source.affine, code=int(source.header["sform_code"]) or 1)
    if int(source.header["qform_code"]):
        image.header["qform_code"] = source.header["qform_code"]
    with atomic_path(path) as temporary:
        nib.save(image, temporary)
