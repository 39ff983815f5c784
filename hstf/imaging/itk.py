"""Open MetaImage (.mha) and NRRD (.nrrd) volumes as if they were NIfTI.

The readers of ITK support the pixel types, encodings and orientations of both formats. ITK places
voxels along LPS axes (left, posterior, superior). NIfTI's RAS+ has the first two axes reversed.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

if TYPE_CHECKING:
    import SimpleITK

READERS = {".mha": "MetaImageIO", ".nrrd": "NrrdImageIO"}
ERROR_POSITION = re.compile(r"(?:ITK |itk::)ERROR: \w+\(0x[0-9a-f]+\): ")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


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
        """Read the voxels."""
        import SimpleITK

        with _short_errors():
            image = _reader(self.path).Execute()
            voxels = SimpleITK.GetArrayFromImage(image).T  # arrays of ITK are (Z, Y, X)
        if dtype is None:
            return voxels
        return voxels.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read all voxels and return those of ``index``."""
        return np.asarray(self)[index]


def open_itk(path: Path) -> nib.Nifti1Image:
    """Read the header of a .mha or .nrrd file as that of a NIfTI image in mm.

    The voxels are not read.

    Raises:
        OSError: if ITK cannot read the header.
        ValueError: if a voxel has several values, or the file has other than three axes (a fourth
            axis of length 1 is accepted).
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
    reader.SetFileName(str(path))
    return reader


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
