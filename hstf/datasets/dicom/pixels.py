"""Voxels of a DICOM series.

SimpleITK decodes the pixels (GDCM: all compressions that scanners and PACS use). It gets a copy of
the pixels only, in a temporary folder: so neither names of patients nor paths can get into its
messages, and the rescale is applied here, by one rule for every modality.
"""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from hstf.datasets.dicom.headers import Header
from hstf.datasets.dicom.packages import quiet
from hstf.datasets.dicom.series import BrokenSeries, Series

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

PIXEL_TAGS = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelData",
)
"""What describes the pixels."""
BRIGHT_IS_LOW = "MONOCHROME1"
BRIGHT_IS_HIGH = "MONOCHROME2"
"""How a viewer shows the pixels. The rescale does not depend on it."""
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
"""The kind of an object with pixels and nothing else."""
INTEGERS = (np.int16, np.int32)
"""Types of voxels, if all rescaled values are whole numbers."""


def read_voxels(series: Series) -> np.ndarray:
    """Return the rescaled values of a series.

    Returns:
        ``(columns, rows, slices)``, int16 or int32 for whole numbers, float32 for others.

    Raises:
        BrokenSeries: if pixels are missing or cannot be decoded.
    """
    planes = []
    with TemporaryDirectory(prefix="hstf-") as folder, quiet():
        for number, header in enumerate(series.slices, start=1):
            stored = _read_stored(header, Path(folder) / "slice.dcm", number)
            planes.append(_rescale(stored, header))
    kind = _common_type(planes)
    volume: np.ndarray = np.empty(series.shape, kind)
    for index, plane in enumerate(planes):
        volume[:, :, index] = plane.T
    return volume


def fingerprint(series: Series, voxels: np.ndarray) -> str:
    """Return a SHA-256 of slices, grid and voxels; other values of the headers do not count."""
    digest = hashlib.sha256()
    for header in series.slices:
        digest.update(header.uid.encode() + b"\n")
    digest.update((np.round(series.affine, 4) + 0.0).tobytes())  # without -0.0
    digest.update(f"{voxels.shape} {voxels.dtype}".encode())
    digest.update(voxels.tobytes())
    return digest.hexdigest()


def _read_stored(header: Header, temporary: Path, number: int) -> np.ndarray:
    """Return the stored values of a slice, ``(rows, columns)``.

    Raises:
        BrokenSeries: if they are missing or cannot be decoded.
    """
    import SimpleITK as sitk

    try:
        _write_pixels(header.path, temporary)
        reader = sitk.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(temporary))
        values = sitk.GetArrayFromImage(reader.Execute())
    except Exception as error:  # each compression has its own exceptions
        # Neither the message nor its traceback is shown: both may contain the path.
        raise BrokenSeries(
            f"the pixels of slice {number} cannot be decoded ({type(error).__name__}). Export the"
            " series from the PACS again, if possible without compression"
        ) from None
    return values.reshape(header.shape)


def _write_pixels(source: Path, target: Path) -> None:
    """Write a DICOM file with the pixels of another one, as they are, and nothing else.

    Raises:
        ValueError: if pixels are missing.
    """
    from pydicom import dcmread
    from pydicom.dataset import Dataset
    from pydicom.uid import generate_uid

    full = dcmread(source, specific_tags=list(PIXEL_TAGS))
    pixels = Dataset()
    for name in PIXEL_TAGS:
        setattr(pixels, name, full[name].value)
    if pixels.PhotometricInterpretation == BRIGHT_IS_LOW:
        pixels.PhotometricInterpretation = BRIGHT_IS_HIGH  # ITK would invert the stored values
    is_compressed = full.file_meta.TransferSyntaxUID.is_encapsulated
    size = full.Rows * full.Columns * full.BitsAllocated // 8
    if not is_compressed and len(full.PixelData) < size:
        raise ValueError("pixels are missing")  # GDCM would fill the rest
    pixels.SOPClassUID = SECONDARY_CAPTURE
    pixels.SOPInstanceUID = generate_uid(prefix=None)
    pixels["PixelData"].VR = "OB" if full.BitsAllocated == 8 else "OW"
    _save(pixels, full, target)


def _save(pixels: "Dataset", full: "Dataset", target: Path) -> None:
    """Write a file with the transfer syntax of another one."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = full.file_meta.TransferSyntaxUID
    meta.MediaStorageSOPClassUID = pixels.SOPClassUID
    meta.MediaStorageSOPInstanceUID = pixels.SOPInstanceUID
    pixels.file_meta = meta
    if meta.TransferSyntaxUID.is_encapsulated:
        pixels["PixelData"].VR = "OB"
        pixels["PixelData"].is_undefined_length = True
    pixels.save_as(target, enforce_file_format=True)


def _rescale(stored: np.ndarray, header: Header) -> np.ndarray:
    """Apply slope and intercept; whole numbers stay whole numbers, in 16 bits if possible."""
    if not (header.slope.is_integer() and header.intercept.is_integer()):
        return (stored * np.float64(header.slope) + header.intercept).astype(np.float32)
    values = stored.astype(np.int64) * int(header.slope) + int(header.intercept)
    for kind in INTEGERS:
        if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(np.float32)


def _common_type(planes: list[np.ndarray]) -> type:
    """Return the type of voxels that holds all planes."""
    kinds = {plane.dtype.type for plane in planes}
    if np.float32 in kinds:
        return np.float32
    return np.int32 if np.int32 in kinds else np.int16
