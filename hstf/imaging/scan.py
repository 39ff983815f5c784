"""Read what a volume's file contains, in one pass and in little memory, whatever its size."""

import gzip
import hashlib
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from pydantic import Field

from hstf.imaging.affines import affine_problem, second_geometry, spacing_of
from hstf.imaging.header_text import identifying_fields
from hstf.imaging.itk import READERS, identifying_metadata
from hstf.imaging.itk_headers import read_itk_header
from hstf.imaging.nibabel_formats import has_nifti_header
from hstf.imaging.spacing import Spacing
from hstf.imaging.stored_voxels import BLOCK_BYTES, Readable, read_to_end, stored_voxels
from hstf.imaging.volume_files import error_text, is_nifti, open_nifti, refuse_bomb, suffix_of
from hstf.imaging.voxel_summaries import ImageSummary, LabelSummary
from hstf.runtime.documents import Part
from hstf.runtime.errors import HstfError
from hstf.runtime.voxel_files import voxel_file


class Scan(Part):
    """Content of a file. If the file cannot be read, only ``problem`` is set.

    All values are plain, so that a scan can be stored as JSON.
    """

    problem: str = ""
    """Why the file cannot be read, as a sentence."""
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()
    """``(4, 4)``, voxel index to mm."""
    pixdim: tuple[float, ...] = ()
    """Voxel sizes as stored in the header, before nibabel corrects them."""
    orientation: str = ""
    """Direction in which each array axis grows, for instance RAS."""
    codes: tuple[int, int] = (0, 0)
    """qform_code and sform_code."""
    second_affine: tuple[tuple[float, ...], ...] = ()
    """The affine of the qform, if the header also has another one, of the sform, which is used."""
    has_spacing: bool = True
    """Whether the header states voxel sizes that the affine can be made from."""
    has_orientation: bool = True
    """Whether the header states the directions of the axes in the patient."""
    unit: str = ""
    """Spatial unit: mm, meter, micron, unknown, or another one of NRRD or MetaImage."""
    modality: str = ""
    """Modality that the header states: ct, mr, us or pet; mostly it states none."""
    dtype: str = ""
    minimum: float = math.nan
    """Minimum of the finite values, scaled by slope and intercept. NaN for labels."""
    maximum: float = math.nan
    """Maximum of the finite values, scaled by slope and intercept. NaN for labels."""
    non_finite: int = 0
    """Number of voxels that are NaN, infinite or too large for float32."""
    percentiles: tuple[float, ...] = ()
    """0.5th, 50th and 99.5th percentile of a sample of the voxels that are not empty background.
    Not computed for labels."""
    filled: float = 1.0
    """Fraction of the sample that is not empty background."""
    distinct: int = 0
    """Number of different values of the sample, if all are whole numbers and at most
    :data:`~hstf.imaging.voxel_summaries.MAXIMUM_DISTINCT` are different; otherwise 0."""
    values: dict[str, int] = Field(default_factory=dict)
    """Number of voxels of each label value, and of the first few invalid values."""
    identifying: tuple[str, ...] = ()
    """Parts of the header with text that may identify a patient."""
    extra_bytes: int = 0
    """Number of bytes after the last voxel, up to
    :data:`~hstf.imaging.stored_voxels.MAXIMUM_EXTRA_BYTES`."""
    sha256: str = ""
    """SHA-256 of the file."""
    voxels_sha256: str = ""
    """SHA-256 of the voxels as stored. It is the same for a copy that was compressed again."""

    @property
    def matrix(self) -> np.ndarray:
        """The affine as an array ``(4, 4)``."""
        return np.asarray(self.affine, dtype=float)

    @property
    def matrices(self) -> list[np.ndarray]:
        """All affines of the header: the one that is used, and the other one if there are two."""
        others = [np.asarray(self.second_affine, dtype=float)] if self.second_affine else []
        return [self.matrix, *others]

    @property
    def spacing(self) -> Spacing:
        """Voxel size (mm) along each array axis."""
        return spacing_of(self.matrix)


def scan_header(path: Path) -> Scan:
    """Read only the header of a file. A problem of the file is part of the result."""
    try:
        image = _open(path)
        return Scan(**_header_facts(path, image, _stored_pixdim(path, image)))
    except HstfError as error:
        return Scan(problem=str(error).removeprefix(f"{path}: "))
    except (OSError, EOFError, zlib.error) as error:
        return Scan(problem=f"truncated or damaged ({error_text(error)}).")


def scan_file(
    path: Path,
    label: bool,
    is_mask: bool = False,
) -> Scan:
    """Read every byte of a file once.

    A problem of the file is part of the result and raises no exception.

    Args:
        path: the file.
        label: whether the file is a label map.
        is_mask: whether the file is an image of the modality ``mask``.
    """
    try:
        image = _open(path)
        # Readers refuse the same files, and `check` must not accept what they refuse.
        refuse_bomb(path, image, is_mask or label)
        return _scan(path, image, label)
    except HstfError as error:
        return Scan(problem=str(error).removeprefix(f"{path}: "))


def _open(path: Path) -> nib.Nifti1Image:
    """Open a 3D volume whose affine can place voxels in space."""
    image = open_nifti(path)
    problem = affine_problem(np.asarray(image.affine))
    if problem:
        raise HstfError(f"{path}: {problem}.")
    return image


def _scan(
    path: Path,
    image: nib.Nifti1Image,
    label: bool,
) -> Scan:
    shape = tuple(map(int, image.shape[:3]))
    summary = LabelSummary() if label else ImageSummary(shape)
    layout = (shape, image.get_data_dtype().str)
    voxels_hash = hashlib.sha256(repr(layout).encode())
    extra_bytes = 0
    identifying = identifying_fields(image.header)
    try:
        with path.open("rb") as binary:
            file = _HashedFile(binary)
            if is_nifti(path):
                stream = _unpack(file) if path.suffix.lower() == ".gz" else file
                pixdim = _raw_pixdim(stream, image)
                for values in _voxels(stream, image, voxels_hash):
                    summary.add(values)
                extra_bytes = read_to_end(stream)
            else:  # other formats are read as a whole
                if suffix_of(path) in READERS:
                    identifying = identifying_metadata(path)
                pixdim = _stored_pixdim(path, image)
                voxels = np.ravel(stored_voxels(image), order="F")
                voxels_hash.update(voxels.data)
                summary.add(voxels)
            file.read_to_end()
        file.add(voxel_file(path))
    except (OSError, EOFError, zlib.error) as error:
        raise HstfError(f"{path}: truncated or damaged ({error_text(error)}).") from error
    return Scan(
        **_header_facts(path, image, pixdim),
        identifying=identifying,
        extra_bytes=extra_bytes,
        sha256=file.digest.hexdigest(),
        voxels_sha256=voxels_hash.hexdigest(),
        **summary.facts(),
    )


def _header_facts(path: Path, image: nib.Nifti1Image, pixdim: tuple[float, ...]) -> dict[str, Any]:
    """Return what the header of a file states.

    Args:
        path: the file.
        image: the file, opened.
        pixdim: voxel sizes as stored.
    """
    header = image.header
    codes = (int(header["qform_code"]), int(header["sform_code"]))
    second = second_geometry(header)
    facts = {
        "shape": tuple(map(int, image.shape[:3])),
        "affine": tuple(map(tuple, image.affine.tolist())),
        "orientation": "".join(nib.aff2axcodes(image.affine)),
        "pixdim": pixdim,
        "codes": codes,
        "second_affine": () if second is None else tuple(map(tuple, second.tolist())),
        "dtype": str(image.get_data_dtype().newbyteorder("=")),
    }
    if suffix_of(path) not in READERS:
        has_sizes = all(0 < size < math.inf for size in pixdim)
        return facts | {
            "has_spacing": has_sizes or codes[1] > 0,
            "has_orientation": any(codes),
            "unit": _unit(header),
        }
    stated = read_itk_header(path)
    return facts | {
        "has_spacing": stated.has_spacing,
        "has_orientation": stated.has_orientation,
        "unit": stated.unit,
        "modality": stated.modality,
    }


def _stored_pixdim(path: Path, image: nib.Nifti1Image) -> tuple[float, ...]:
    """Return the voxel sizes as the file states them, before nibabel corrects them."""
    if not (is_nifti(path) or has_nifti_header(path)):
        return spacing_of(image.affine)
    with path.open("rb") as binary:
        file = _HashedFile(binary)
        return _raw_pixdim(_unpack(file) if path.suffix.lower() == ".gz" else file, image)


class _HashedFile:
    """A file that is hashed while it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        self.digest.update(block)
        return block

    def add(self, path: Path | None) -> None:
        """Add the other file of a volume in two files to the hash."""
        if path is not None:
            with path.open("rb") as file:
                while block := file.read(BLOCK_BYTES):
                    self.digest.update(block)

    def read_to_end(self) -> None:
        while self.read(BLOCK_BYTES):
            pass


def _unpack(stream: Readable) -> Readable:
    # GzipFile is typed for a file that can seek, but it only reads forwards.
    return gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb")


def _raw_pixdim(
    stream: Readable,
    image: nib.Nifti1Image,
) -> tuple[float, ...]:
    """Read the voxel sizes as stored. ``stream`` is then after the header, before extensions."""
    kind = type(image.header)
    header_bytes = stream.read(kind.template_dtype.itemsize)
    raw = kind(header_bytes, image.header.endianness, check=False)
    return tuple(float(size) for size in raw["pixdim"][1:4])


def _unit(header: nib.Nifti1Header) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _voxels(
    stream: Readable,
    image: nib.Nifti1Image,
    voxels_hash: "hashlib._Hash",
) -> Iterator[np.ndarray]:
    """Yield the voxels in blocks, scaled by slope and intercept. The hash is of unscaled voxels."""
    proxy = cast(ArrayProxy, image.dataobj)
    dtype = image.get_data_dtype()
    header_bytes = type(image.header).template_dtype.itemsize
    for _ in _blocks(stream, int(proxy.offset) - header_bytes):
        pass  # extensions of the header
    is_scaled = (proxy.slope, proxy.inter) != (1, 0)
    voxel_bytes = math.prod(image.shape) * dtype.itemsize
    for block in _blocks(stream, voxel_bytes):
        voxels_hash.update(block)
        values = np.frombuffer(block, dtype)
        # The consumer works within errstate too: values of a damaged file overflow.
        with np.errstate(all="ignore"):
            if is_scaled:
                values = values * float(proxy.slope) + float(proxy.inter)
            yield values


def _blocks(
    stream: Readable,
    size: int,
) -> Iterator[bytes]:
    """Yield exactly ``size`` bytes of ``stream`` in blocks."""
    left = size
    while left > 0:
        wanted = min(left, BLOCK_BYTES)
        block = stream.read(wanted)
        if len(block) < wanted:
            found = size - left + len(block)
            raise EOFError(f"the file has {found} of {size} bytes of voxels")
        left -= wanted
        yield block
