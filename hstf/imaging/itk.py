"""Open MetaImage (.mha, .mhd) and NRRD (.nrrd, .nhdr) volumes as if they were NIfTI.

The readers of ITK support the pixel types, encodings and orientations of both formats. ITK places
voxels along LPS axes (left, posterior, superior). NIfTI's RAS+ has the first two axes reversed.

A header of both formats may name other files that have the voxels. The name may lead to any file of
the machine. So ITK only sees headers with the voxels in the same file (.mha, .nrrd), and headers
(.mhd, .nhdr) of one file in the same folder (:mod:`hstf.runtime.voxel_files`).
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from hstf.imaging.header_text import looks_identifying
from hstf.imaging.itk_checksums import verify_checksum
from hstf.runtime.errors import numbers
from hstf.runtime.voxel_files import is_header, voxel_file

if TYPE_CHECKING:
    import SimpleITK

READERS = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
}
ERROR_POSITION = re.compile(r"(?:ITK |itk::)ERROR: \w+\(0x[0-9a-f]+\): ")
PATIENT_GROUP = "0010|"
"""Start of the keys of DICOM values about the patient."""
OWN_KEYS = ("ITK_", "NRRD_")
"""Starts of the keys that ITK makes itself."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAXIMUM_TEXT_BYTES = 1 << 20
"""Upper bound for the text before the voxels of a file."""
NRRD_MAGIC = b"NRRD000"
NRRD_DATA_FILE = re.compile(rb"(?im)^[ \t]*data[ \t]*file[ \t]*:")
METAIMAGE_DATA_FILE = re.compile(rb"(?i)elementdatafile")
METAIMAGE_LOCAL = re.compile(rb"[ \t]*ElementDataFile[ \t]*=[ \t]*(LOCAL|Local|local)[ \t]*\r?\n")
METAIMAGE_EMPTY_VALUE = re.compile(rb"[=:]\s*\Z")
ONE_FILE = (
    "Header and voxels must be in one file. Convert the volume to NIfTI, for instance with"
    " SimpleITK: WriteImage(ReadImage('SCAN'), 'SCAN.nii.gz')."
)

NO_VOXELS = (
    "it must name one file with the voxels, in the same folder, and this file must exist. A list of"
    " files or a path is not accepted. Copy both files, or convert the volume to NIfTI, for"
    " instance with SimpleITK: WriteImage(ReadImage('SCAN'), 'SCAN.nii.gz')."
)


class ItkVoxels:
    """The voxels of a file, ``(X, Y, Z)``, read on demand as by an array proxy of nibabel."""

    is_proxy = True

    def __init__(
        self,
        path: Path,
        shape: tuple[int, ...],
        dtype: np.dtype,
    ) -> None:
        """Store what the header states; the voxels are not read."""
        self.path = path
        self.shape = shape
        self.dtype = dtype
        self.ndim = len(shape)

    def __array__(
        self,
        dtype: Any = None,
        copy: bool | None = None,
    ) -> np.ndarray:
        """Read the voxels.

        Raises:
            OSError: if ITK cannot read them, or if they are compressed and damaged.
        """
        import SimpleITK

        verify_checksum(self.path, math.prod(self.shape) * self.dtype.itemsize)
        with _short_errors():
            image = _reader(self.path).Execute()
            voxels = SimpleITK.GetArrayFromImage(image).T  # arrays of ITK are (Z, Y, X)
        if dtype is None:
            return voxels
        return voxels.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read all voxels and return those of ``index``."""
        return np.asarray(self)[index]


def detached_data_problem(path: Path) -> str:
    """Describe why the voxels of a file cannot be read safely; empty if they can.

    They must be in the file itself, or in the one file that belongs to a header. Everything that
    ITK could take for the name of another file counts.

    Raises:
        OSError: if the file cannot be read.
    """
    if is_header(path):
        return "" if voxel_file(path) else NO_VOXELS
    with path.open("rb") as stream:
        start = stream.read(MAXIMUM_TEXT_BYTES)
    is_nrrd = path.suffix.lower() == ".nrrd"
    return _nrrd_problem(start) if is_nrrd else _metaimage_problem(start)


def _nrrd_problem(start: bytes) -> str:
    if not start.startswith(NRRD_MAGIC):
        return "it does not begin as a NRRD file."
    # Two line feeds end the header. With carriage returns, ITK may see the end elsewhere.
    header, end, _ = start.partition(b"\n\n")
    if NRRD_DATA_FILE.search(header.replace(b"\r", b"\n")):
        return f"its header names another file with the voxels. {ONE_FILE}"
    if not end and b"\n\r\n" not in start:
        return "its header does not end."
    return ""


def _metaimage_problem(start: bytes) -> str:
    first = METAIMAGE_DATA_FILE.search(start)
    if first is None:
        return "its header has no line 'ElementDataFile = LOCAL'."
    # After an empty value, a reader may take the next line for the value.
    is_value = METAIMAGE_EMPTY_VALUE.search(start, 0, first.start()) is not None
    line = start.rfind(b"\n", 0, first.start()) + 1
    if is_value or not METAIMAGE_LOCAL.match(start, line):
        return f"its header names another file with the voxels. {ONE_FILE}"
    return ""


def open_itk(path: Path) -> nib.Nifti1Image:
    """Read the header of a .mha or .nrrd file as that of a NIfTI image in mm.

    The voxels are not read.

    Raises:
        OSError: if ITK cannot read the header.
        ValueError: if a voxel has several values, if its size is not positive, or if the file has
            other than three axes (a fourth axis of length 1 is accepted).
    """
    import SimpleITK

    reader = _reader(path)
    with _short_errors():
        reader.ReadImageInformation()
    size = tuple(map(int, reader.GetSize()))
    if reader.GetNumberOfComponents() != 1:
        raise ValueError(f"{reader.GetNumberOfComponents()} values for each voxel, expected one")
    if len(size) not in (3, 4):
        raise ValueError(f"shape {size}, expected three axes")
    sizes = reader.GetSpacing()[:3]
    if not min(sizes) > 0:
        raise ValueError(f"voxel sizes {numbers(sizes)}, expected positive ones")
    # An image of one voxel shows which numpy type the pixel type of the file has.
    pixel = SimpleITK.Image([1] * len(size), reader.GetPixelID())
    dtype = SimpleITK.GetArrayViewFromImage(pixel).dtype
    voxels = ItkVoxels(path, size, dtype)
    affine = _affine(reader, len(size))
    image = nib.Nifti1Image(voxels, affine, dtype=dtype)
    image.header.set_xyzt_units("mm")
    # update_affine=False: the header has single precision, the affine must keep double precision.
    image.set_qform(
        image.affine,
        code=1,
        update_affine=False,
    )
    image.set_sform(
        image.affine,
        code=1,
        update_affine=False,
    )
    return image


def identifying_metadata(path: Path) -> tuple[str, ...]:
    """Return the keys in the header of a file whose values may identify a patient.

    Raises:
        OSError: if ITK cannot read the header.
    """
    reader = _reader(path)
    with _short_errors():
        reader.ReadImageInformation()
    found = []
    for key in reader.GetMetaDataKeys():
        text = f"{key}: {reader.GetMetaData(key)}"
        is_about_patient = key.startswith(PATIENT_GROUP) or looks_identifying(text)
        if is_about_patient and not key.startswith(OWN_KEYS):
            found.append(key)
    return tuple(found)


@contextmanager
def _short_errors() -> Iterator[None]:
    """Convert errors of ITK to OSError, without positions in its source code and memory."""
    try:
        yield
    except RuntimeError as error:
        message = ERROR_POSITION.split(str(error))[-1]
        message, _, _ = message.partition(" Reason:")
        raise OSError(message) from error


def _reader(path: Path) -> "SimpleITK.ImageFileReader":
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])
    reader.SetFileName(str(_beside_its_voxels(path)))
    return reader


def _beside_its_voxels(path: Path) -> Path:
    """Return the name of a header in the folder of its voxels, where ITK looks for them."""
    voxels = voxel_file(path)
    return path if voxels is None or voxels.parent == path.parent else path.resolve()


def _affine(
    reader: "SimpleITK.ImageFileReader",
    axes: int,
) -> np.ndarray:
    """Return the affine ``(4, 4)`` of the first three axes: voxel index to mm (RAS+)."""
    direction = np.reshape(reader.GetDirection(), (axes, axes))
    direction = direction[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return LPS_TO_RAS @ affine
