"""Open the file of a volume: check its name and its header before any voxel is read.

NIfTI (.nii, .nii.gz, .hdr and .img), MetaImage (.mha, .mhd), NRRD (.nrrd, .nhdr), FreeSurfer (.mgz,
.mgh) and Analyze (.hdr and .img) can be opened. Files may be damaged or hostile: a small file must
never make hstf allocate gigabytes.
"""

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
from nibabel.filebasedimages import FileBasedImage

from hstf.imaging.itk import NO_VOXELS, READERS, detached_data_problem, open_itk
from hstf.imaging.nibabel_formats import FORMATS, FREESURFER, PAIR, open_other
from hstf.runtime.errors import HstfError
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
