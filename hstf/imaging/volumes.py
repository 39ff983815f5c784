"""Volumes: read with their geometry, written as NIfTI with the geometry of their source.

NIfTI (.nii, .nii.gz), MetaImage (.mha) and NRRD (.nrrd) are read.

Arrays are indexed as NIfTI stores them, ``(X, Y, Z)``; an affine maps voxel indices to millimetres (RAS+).
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from hstf.imaging.itk import READERS, open_itk
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path

SUFFIXES = (".nii.gz", ".nii", *READERS)
DEFLATE_RATIO = 1100
"""No gzip file expands by more than a factor of 1032."""
MOST_HEADER = 64 << 20
LARGE, MOST_PACKED = 1 << 26, 250
"""Of more voxels than :data:`LARGE`, a packed scan needs at least a byte for so many: noise does not compress."""
LABEL_TOLERANCE = 1e-3
"""Rounding of the header's slope and intercept: a voxel this close to a whole number is that number."""


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
        return spacing_of(self.affine)


def spacing_of(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel size in mm along each array axis of ``affine`` ``(4, 4)``."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


def suffix_of(path: Path) -> str:
    """Which of :data:`SUFFIXES` a file's name ends in, in lower case; empty for other files."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), "")


def stem(path: Path) -> str:
    """The name of a volume's file without its suffix."""
    return path.name[: len(path.name) - len(suffix_of(path))]


def is_nifti(path: Path) -> bool:
    """Whether a file is named as NIfTI; other volumes have their voxels read as a whole."""
    return suffix_of(path) in (".nii", ".nii.gz")


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a volume lazily as NIfTI: the header is read and found plausible, the voxels are not read.

    Raises:
        HstfError: missing, unreadable, not 3D (a fourth axis of length 1 passes), voxels that are no real numbers,
            or a header that claims more voxels than a file of this size can hold.
    """
    image = open_any(path)
    shape = tuple(map(int, image.shape))
    if len(shape) != 3 and not (len(shape) == 4 and shape[3] == 1):
        raise HstfError(f"{path}: has shape {shape}, expected three axes. {_advice(shape)}")
    return image


def _advice(shape: Sequence[int]) -> str:
    if len(shape) < 3:
        return "A single slice is no scan: stack the slices of a scan in one file."
    return "Split it into one file per channel; of the decathlon, hstf import msd does so with --extract."


def open_any(path: Path) -> nib.Nifti1Image:
    """As :func:`open_nifti`, for any number of axes: a fourth one holds channels or time.

    Raises:
        HstfError: as :func:`open_nifti`, shape aside.
    """
    size = _size(path)
    if is_nifti(path) and _has_boundless_header(path):
        raise HstfError(
            f"{path}: its header claims over {MOST_HEADER} bytes before the voxels; it is damaged."
        )
    try:
        image = nib.load(path, mmap=False) if is_nifti(path) else open_itk(path)
    except (
        Exception
    ) as error:  # damaged bytes surface as errors of nibabel, struct, zlib, numpy and ITK alike
        kind = "NIfTI" if is_nifti(path) else suffix_of(path)
        raise HstfError(f"{path}: not a readable {kind} file ({reason(error)}).") from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise HstfError(f"{path}: is {type(image).__name__}, expected NIfTI (.nii or .nii.gz).")
    fault = _header_fault(image, size, compressed=suffix_of(path) != ".nii")
    if fault:
        raise HstfError(f"{path}: {fault}")
    return image


def _has_boundless_header(path: Path) -> bool:
    """Whether a header and its extensions, which nibabel reads as a whole, are longer than any scan needs."""
    unpack = gzip.open if suffix_of(path) == ".nii.gz" else open
    try:
        with unpack(path, "rb") as stream:
            start = stream.read(544)
            order = "<" if start[:4] in (struct.pack("<i", 348), struct.pack("<i", 540)) else ">"
            length = struct.unpack_from(f"{order}i", start)[0]
            if length not in (348, 540):
                return False
            kind, place = ("f", 108) if length == 348 else ("q", 168)
            offset = struct.unpack_from(f"{order}{kind}", start, place)[0]
            if offset > MOST_HEADER:
                return True
            at = length + 4  # a list of extensions, each with its size
            while start[length] and at + 8 <= offset:
                stream.seek(at)
                extension = struct.unpack(f"{order}i", stream.read(4))[0]
                if not 8 <= extension <= MOST_HEADER:
                    return True
                at += extension
    except (OSError, EOFError, zlib.error, struct.error, IndexError):  # nibabel tells what is wrong
        pass
    return False


def reason(error: BaseException) -> str:
    """What an exception says, on one line; its kind when it says nothing."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def _size(path: Path) -> int:
    """Bytes of a regular file with a volume's name; pipes and devices, which may never end, are not opened."""
    if not suffix_of(path):
        raise HstfError(
            f"{path}: is not named {', '.join(SUFFIXES)}. Convert it to NIfTI: DICOM with dcm2niix"
            " (dcm2niix -z y -o OUTPUT FOLDER), which keeps spacing and orientation."
        )
    try:
        if not path.exists():
            raise HstfError(f"{path}: the file is missing.")
        if not path.is_file():
            raise HstfError(f"{path}: is a folder or device, expected a file.")
        with path.open("rb") as stream:
            start = stream.read(2)
        size = path.stat().st_size
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({reason(error)}).") from error
    if not start:
        raise HstfError(f"{path}: the file is empty.")
    compressed, named = start == b"\x1f\x8b", path.name.lower().endswith(".gz")
    if is_nifti(path) and compressed != named:
        raise HstfError(
            f"{path}: is{'' if compressed else ' not'} gzip-compressed, which its name denies."
            f" Rename it to end in {'.nii.gz' if compressed else '.nii'} if it is sound."
        )
    return size


def _header_fault(image: nib.Nifti1Image, size: int, compressed: bool) -> str:
    """What is implausible about a header of a file of ``size`` bytes; empty when nothing is."""
    shape, dtype = tuple(map(int, image.shape)), image.get_data_dtype()
    if min(shape, default=0) < 1:
        return f"has shape {shape}: an axis without voxels."
    if dtype.kind not in "iuf":
        return f"has voxels of type {dtype}, expected whole or real numbers. Convert it."
    needed = int(getattr(image.dataobj, "offset", 0)) + math.prod(shape) * dtype.itemsize
    if needed > size * (DEFLATE_RATIO if compressed else 1):
        return (
            f"the header claims shape {shape} of {dtype}, {needed} bytes, but the file has {size} bytes;"
            " it is truncated or its header is damaged."
        )
    return ""


def affine_fault(affine: np.ndarray) -> str:
    """Why an affine ``(4, 4)`` cannot place voxels in space; empty when it can."""
    if not np.isfinite(affine).all():
        return "the affine holds values that are not finite"
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < 1e-6 or abs(np.linalg.det(affine[:3, :3] / edges)) < 1e-6:
        return f"the affine is singular: {np.array2string(affine[:3, :3], precision=4).replace(chr(10), '')}"
    return ""


def read_image(path: Path) -> Volume:
    """Read a 3D image as float32, scaled by the header's slope and intercept.

    Raises:
        HstfError: missing, truncated, not NIfTI, not 3D (a fourth axis of length 1 is dropped), or with an
            affine that cannot be inverted.
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
        wrong = ~is_label(data)
        if wrong.any():
            found = float(data[wrong][0])
            raise HstfError(
                f"{path}: label values must be whole numbers from 0 to 255, found {found:g}."
            )
        data = np.rint(data).astype(np.uint8)
    return Volume(data, volume.affine, volume.header)


def is_label(values: np.ndarray) -> np.ndarray:
    """Which ``values`` are whole numbers in 0..255, as booleans of the same shape. NaN is none."""
    if values.dtype.kind in "iu":
        return (values >= 0) & (values <= 255)
    rounded = np.rint(values)
    with np.errstate(invalid="ignore"):  # inf - inf
        return (np.abs(values - rounded) <= LABEL_TOLERANCE) & (rounded >= 0) & (rounded <= 255)


def _read(path: Path, dtype: np.dtype | None) -> Volume:
    image = open_nifti(path)
    affine = np.asarray(image.affine, dtype=float)
    fault = affine_fault(affine)
    if fault:
        raise HstfError(f"{path}: {fault}. Restore the file's geometry from its source.")
    if dtype is not None and math.prod(image.shape) > max(LARGE, MOST_PACKED * path.stat().st_size):
        raise HstfError(
            f"{path}: {path.stat().st_size} bytes for shape {image.shape}: all but constant, no scan."
        )
    try:
        with np.errstate(
            all="ignore"
        ):  # a damaged slope overflows; check names the values that result
            data = np.asanyarray(image.dataobj, dtype=dtype)
        data = np.ascontiguousarray(data.reshape(image.shape[:3]))
    except MemoryError as error:
        raise HstfError(f"{path}: not enough memory for its shape {image.shape}.") from error
    except Exception as error:  # as in open_nifti
        raise HstfError(
            f"{path}: the voxels cannot be read; the file is truncated or damaged ({reason(error)})."
        ) from error
    return Volume(data, affine, image.header)


def write_like(path: Path, data: np.ndarray, source: Volume) -> None:
    """Write ``data`` (``(X, Y, Z)``, uint8 or float32) as NIfTI with the geometry of ``source``.

    The header is the source's: qform, sform, their codes, voxel sizes, units and byte order stay, bit by bit.

    Raises:
        HstfError: the shapes differ, or the file cannot be written.
    """
    if data.shape != source.data.shape:
        raise HstfError(
            f"{path}: shape {data.shape} to be written with the geometry of shape {source.data.shape}."
        )
    header = source.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    with atomic_path(path) as temporary:
        nib.save(kind(data, source.affine, header), temporary)


def blank_volume(path: Path) -> Volume:
    """The geometry of a NIfTI file, its voxels not read: all zero, in no memory."""
    image = open_nifti(path)
    zeros = np.broadcast_to(np.uint8(0), image.shape[:3])
    return Volume(zeros, np.asarray(image.affine, dtype=float), image.header)
