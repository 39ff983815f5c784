"""Read volumes with their geometry, and write NIfTI files with the geometry of their source.

NIfTI (.nii, .nii.gz, .hdr and .img), MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), FreeSurfer (.mgz,
.mgh) and Analyze (.hdr and .img) can be read.

Arrays are indexed as NIfTI stores them, ``(X, Y, Z)``. An affine maps voxel indices to millimetres
(RAS+). Files may be damaged or hostile: a small file must never make hstf allocate gigabytes.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import FileBasedImage

from hstf.imaging.affines import (
    affine_problem,
    geometry_distance,
    is_accepted_by_itk,
    second_geometry,
    spacing_of,
)
from hstf.imaging.header_text import remove_text
from hstf.imaging.itk import NO_VOXELS, READERS, detached_data_problem, open_itk
from hstf.imaging.nibabel_formats import FORMATS, FREESURFER, PAIR, open_other
from hstf.imaging.slabs import plane_slabs
from hstf.imaging.spacing import Spacing
from hstf.imaging.stored_voxels import stored_voxels
from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path
from hstf.runtime.voxel_files import voxel_file

SUFFIXES = (".nii.gz", ".nii", *READERS, *FORMATS)
VOXELS_OF_PAIR = ".img"
"""Suffix of the voxels of a header. The header names the volume."""
GZIP_MAGIC = b"\x1f\x8b"
MAXIMUM_GZIP_RATIO = 1100
"""Upper bound for the compression ratio of a gzip file; deflate reaches 1032."""
MAXIMUM_HEADER_BYTES = 64 << 20
"""Upper bound for a header with its extensions, which nibabel reads into memory."""
LARGE_SCAN = 1 << 26
"""Number of voxels up to which the compression of a scan is not checked."""
LARGE_LABEL = 1 << 29
"""The same for a mask or label map, which compresses well: a CT of the whole body has no more
voxels."""
MAXIMUM_LARGE_RATIO = 250
"""Upper bound for the compression ratio of a large volume: noise does not compress, so a smaller
file is not a scan."""
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


def suffix_of(path: Path) -> str:
    """Return which of :data:`SUFFIXES` the name of a file ends in; empty for other files."""
    name = path.name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    return ""


def stem(path: Path) -> str:
    """Return the name of a volume's file without its suffix."""
    length = len(path.name) - len(suffix_of(path))
    return path.name[:length]


def is_nifti(path: Path) -> bool:
    """Return whether a file has a suffix of NIfTI. Voxels of other formats are read as a whole."""
    return suffix_of(path) in (".nii", ".nii.gz")


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a 3D volume as NIfTI: read and check its header, but not its voxels.

    Raises:
        HstfError: as :func:`open_any`, or if the file has other than three axes (a fourth axis of
            length 1 is accepted).
    """
    image = open_any(path)
    shape = tuple(map(int, image.shape))
    if len(shape) == 3:
        return image
    if len(shape) == 4 and shape[3] == 1:
        return image
    raise HstfError(f"{path}: has shape {shape}, expected three axes. {_advise_on_axes(shape)}")


def _advise_on_axes(shape: Sequence[int]) -> str:
    if len(shape) < 3:
        return "A single slice is not a scan: store all slices of a scan in one file."
    return (
        "Split it into one file for each channel. For files of the Medical Segmentation Decathlon,"
        " use hstf import msd --extract."
    )


def open_any(path: Path) -> nib.Nifti1Image:
    """Open a volume with any number of axes as NIfTI. A fourth axis holds channels or time.

    Raises:
        HstfError: if the file is missing or unreadable, if its voxels are not real numbers, or if
            its header claims more voxels than a file of this size can hold.
    """
    size = _check_file(path)
    if is_nifti(path) and _has_huge_header(path):
        raise HstfError(
            f"{path}: its header claims more than {MAXIMUM_HEADER_BYTES} bytes before the voxels;"
            " it is damaged."
        )
    try:
        image = _open_format(path)
    # Damaged bytes cause errors of nibabel, struct, zlib, numpy and ITK.
    except Exception as error:
        kind = "NIfTI" if is_nifti(path) else suffix_of(path)
        raise HstfError(f"{path}: not a readable {kind} file ({error_text(error)}).") from error
    if not isinstance(image, nib.Nifti1Image | nib.Nifti2Image):
        raise HstfError(f"{path}: is {type(image).__name__}, expected NIfTI (.nii or .nii.gz).")
    problem = _header_problem(image, size, compressed=suffix_of(path) not in (".nii", PAIR, ".mgh"))
    if problem:
        raise HstfError(f"{path}: {problem}")
    return image


def _open_format(path: Path) -> FileBasedImage:
    if is_nifti(path):
        return nib.load(path, mmap=False)
    return open_itk(path) if suffix_of(path) in READERS else open_other(path)


def _has_huge_header(path: Path) -> bool:
    """Return whether the header and its extensions are larger than any scan needs.

    nibabel reads them into memory before anything can be checked.
    """
    unpack = gzip.open if suffix_of(path) == ".nii.gz" else open
    try:
        with unpack(path, "rb") as stream:
            return _claims_huge_header(cast(BinaryIO, stream))
    except (OSError, EOFError, zlib.error, struct.error, IndexError):
        return False  # nibabel reports the problem


def _claims_huge_header(stream: BinaryIO) -> bool:
    start = stream.read(544)
    lengths = struct.pack("<i", 348), struct.pack("<i", 540)
    order = "<" if start[:4] in lengths else ">"
    length = struct.unpack_from(f"{order}i", start)[0]
    if length == 348:  # NIfTI-1
        offset = struct.unpack_from(f"{order}f", start, 108)[0]
    elif length == 540:  # NIfTI-2
        offset = struct.unpack_from(f"{order}q", start, 168)[0]
    else:
        return False
    if offset > MAXIMUM_HEADER_BYTES:
        return True
    # A list of extensions follows if the next byte is set. Each one starts with its size.
    position = length + 4
    while start[length] and position + 8 <= offset:
        stream.seek(position)
        extension = struct.unpack(f"{order}i", stream.read(4))[0]
        if not 8 <= extension <= MAXIMUM_HEADER_BYTES:
            return True
        position += extension
    return False


def error_text(error: BaseException) -> str:
    """Return the message of an exception on one line, or its type if it has no message."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return " ".join(text.split()) or type(error).__name__


def _check_file(path: Path) -> int:
    """Check name and kind of a volume's file, and return its size in bytes.

    Pipes and devices are not opened, because they may have no end.
    """
    if path.name.lower().endswith(VOXELS_OF_PAIR):
        raise HstfError(
            f"{path}: has the voxels of a header. Name the header instead: {path.stem}{PAIR}"
        )
    if not suffix_of(path):
        raise HstfError(
            f"{path}: the name does not end in {', '.join(SUFFIXES)}. Convert the file to NIfTI."
            " For DICOM use hstf import dicom, or dcm2niix -z y -o OUTPUT FOLDER: both keep spacing"
            " and orientation."
        )
    try:
        if not path.exists():
            raise HstfError(f"{path}: the file is missing.")
        if not path.is_file():
            raise HstfError(f"{path}: is a folder or device, expected a file.")
        with path.open("rb") as stream:
            start = stream.read(2)
        size = size_of(path)
        detached = "" if is_nifti(path) else _detached_problem(path)
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({error_text(error)}).") from error
    if not start:
        raise HstfError(f"{path}: the file is empty.")
    if detached:
        raise HstfError(f"{path}: not a readable {suffix_of(path)} file: {detached}")
    if is_nifti(path):
        _check_compression(path, is_compressed=start == GZIP_MAGIC)
    return size


def _detached_problem(path: Path) -> str:
    """Describe why the voxels of a file that is not .nii or .nii.gz cannot be read safely."""
    suffix = suffix_of(path)
    if suffix in READERS:
        return detached_data_problem(path)
    return "" if suffix in FREESURFER or voxel_file(path) else NO_VOXELS


def size_of(path: Path) -> int:
    """Return the number of bytes of a volume: of its file, or of its voxels in another file."""
    return (voxel_file(path) or path).stat().st_size


def _check_compression(
    path: Path,
    is_compressed: bool,
) -> None:
    if is_compressed and not path.name.lower().endswith(".gz"):
        raise HstfError(
            f"{path}: is gzip-compressed, but its name does not end in .gz."
            " If the file is not damaged, rename it to end in .nii.gz."
        )
    if not is_compressed and path.name.lower().endswith(".gz"):
        raise HstfError(
            f"{path}: is not gzip-compressed, but its name ends in .gz."
            " If the file is not damaged, rename it to end in .nii."
        )


def _header_problem(
    image: nib.Nifti1Image,
    size: int,
    compressed: bool,
) -> str:
    """Describe what is implausible in the header of a file of ``size`` bytes; empty if nothing."""
    shape = tuple(map(int, image.shape))
    dtype = image.get_data_dtype()
    if min(shape, default=0) < 1:
        return f"has shape {shape}: an axis without voxels."
    if dtype.kind not in "iuf":
        return f"has voxels of type {dtype}, expected whole or real numbers. Convert it."
    offset = int(getattr(image.dataobj, "offset", 0))
    needed = offset + math.prod(shape) * dtype.itemsize
    ratio = MAXIMUM_GZIP_RATIO if compressed else 1
    if needed > size * ratio:
        return (
            f"the header claims shape {shape} of {dtype}, {needed} bytes, but the file has {size}"
            " bytes; it is truncated or its header is damaged."
        )
    return ""


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


def refuse_bomb(
    path: Path,
    image: nib.Nifti1Image,
    is_mask: bool,
) -> None:
    """Refuse a file that is too small for its voxels, before they fill the memory.

    Args:
        path: the file.
        image: its header.
        is_mask: whether the file is a mask or label map.

    Raises:
        HstfError: if the voxels are almost constant.
    """
    size = size_of(path)
    shape = tuple(map(int, image.shape))
    voxels = math.prod(shape)
    voxel_bytes = voxels * image.get_data_dtype().itemsize
    maximum = LARGE_LABEL if is_mask else LARGE_SCAN
    if voxels > maximum and voxel_bytes > MAXIMUM_LARGE_RATIO * size:
        kind = "label or mask" if is_mask else "scan (a mask needs the modality mask)"
        raise HstfError(
            f"{path}: {size} bytes for shape {shape}: it is almost constant, no {kind}."
        )


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


def blank_volume(path: Path) -> Volume:
    """Return the geometry of a file with voxels of zero, which need no memory."""
    image = open_nifti(path)
    zeros = np.broadcast_to(np.uint8(0), image.shape[:3])
    affine = np.asarray(image.affine, dtype=float)
    return Volume(zeros, affine, image.header)
