"""MetaImage (.mha) and NRRD (.nrrd) volumes, opened as if they were NIfTI.

ITK's readers know the pixel types, packings and orientation conventions of both. ITK places voxels along LPS
(left, posterior, superior); NIfTI's RAS+ is the same with the signs of the first two axes turned.
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
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


class ItkVoxels:
    """The voxels of a file, ``(X, Y, Z)``: read when they are asked for, as nibabel's own array proxies are."""

    is_proxy = True

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.path, self.shape, self.dtype, self.ndim = path, shape, dtype, len(shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        import SimpleITK

        with _plain_errors():
            voxels = SimpleITK.GetArrayFromImage(
                _reader(self.path).Execute()
            ).T  # ITK's arrays are (Z, Y, X)
        return voxels if dtype is None else voxels.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self)[index]


def open_itk(path: Path) -> nib.Nifti1Image:
    """The header of a .mha or .nrrd file as that of a NIfTI image in mm; the voxels are not read.

    Raises:
        OSError: ITK cannot read the header.
        ValueError: several values a voxel, or other than three axes (a fourth of length 1 passes).
    """
    import SimpleITK

    reader = _reader(path)
    with _plain_errors():
        reader.ReadImageInformation()
    size = tuple(int(n) for n in reader.GetSize())
    if reader.GetNumberOfComponents() != 1:
        raise ValueError(f"{reader.GetNumberOfComponents()} values a voxel, expected one")
    if len(size) not in (3, 4):
        raise ValueError(f"shape {size}, expected three axes")
    pixel = SimpleITK.Image([1] * len(size), reader.GetPixelID())
    dtype = SimpleITK.GetArrayViewFromImage(pixel).dtype
    image = nib.Nifti1Image(ItkVoxels(path, size, dtype), _affine(reader, len(size)), dtype=dtype)
    image.header.set_xyzt_units("mm")
    image.set_qform(image.affine, code=1, update_affine=False)  # the header has single precision
    image.set_sform(image.affine, code=1, update_affine=False)
    return image


@contextmanager
def _plain_errors() -> Iterator[None]:
    """ITK's errors without the places in its source and memory."""
    try:
        yield
    except RuntimeError as error:
        said = re.split(r"(?:ITK |itk::)ERROR: \w+\(0x[0-9a-f]+\): ", str(error))[-1]
        raise OSError(said.partition(" Reason:")[0]) from error


def _reader(path: Path) -> "SimpleITK.ImageFileReader":
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])
    reader.SetFileName(str(path))
    return reader


def _affine(reader: "SimpleITK.ImageFileReader", axes: int) -> np.ndarray:
    """Voxel index to mm (RAS+), ``(4, 4)``, of the first three ``axes``."""
    direction = np.reshape(reader.GetDirection(), (axes, axes))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * reader.GetSpacing()[:3]
    affine[:3, 3] = reader.GetOrigin()[:3]
    return LPS_TO_RAS @ affine
