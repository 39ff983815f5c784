"""What a volume's file holds, found in one pass over its bytes and in little memory, whatever its size."""

import gzip
import hashlib
import math
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

from hstf.imaging.volumes import affine_fault, is_label, is_nifti, open_nifti, reason, spacing_of
from hstf.runtime.errors import HstfError

BLOCK = 4 << 20
FLOAT32_MAX = float(np.finfo(np.float32).max)
MOST_EXTRA = 64 << 20
"""Bytes behind the voxels after which unpacking stops: nobody waits for a gzip bomb."""
MOST_ODD_VALUES = 20


@dataclass(frozen=True)
class Scan:
    """Facts of a file; of one that cannot be read, only ``fault``. All plain values, so that it can be kept."""

    fault: str = ""
    """Why it cannot be read, as a sentence."""
    shape: tuple[int, ...] = ()
    affine: tuple[tuple[float, ...], ...] = ()
    """``(4, 4)``, voxel index to mm."""
    pixdim: tuple[float, ...] = ()
    """The header's voxel sizes as they are, before nibabel mends them."""
    orientation: str = ""
    """Direction in which each array axis grows, for instance RAS."""
    codes: tuple[int, int] = (0, 0)
    """qform_code and sform_code."""
    unit: str = ""
    """Spatial unit: mm, meter, micron or unknown."""
    dtype: str = ""
    minimum: float = math.nan
    maximum: float = math.nan
    """Smallest and largest finite value, scaled by slope and intercept."""
    non_finite: int = 0
    """Voxels that are NaN or infinite, as float32."""
    values: dict[str, int] = field(default_factory=dict)
    """Voxels of each value of a label; of values that are no label, the first few."""
    extra_bytes: int = 0
    """Bytes behind the last voxel (counted up to a bound)."""
    sha256: str = ""
    """Of the file."""
    content: str = ""
    """SHA-256 of the voxels as stored: a copy that was compressed again has the same."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Scan":
        """A scan from what ``dataclasses.asdict`` and JSON made of it."""
        return cls(**{key: _as_tuple(value) for key, value in content.items()})

    @property
    def matrix(self) -> np.ndarray:
        """The affine as an array ``(4, 4)``."""
        return np.asarray(self.affine, dtype=float)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        return spacing_of(self.matrix)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def scan_file(path: Path, label: bool) -> Scan:
    """Read every byte of a file once. Any fault of the file is in the result, none is raised."""
    try:
        image = open_nifti(path)
        fault = affine_fault(np.asarray(image.affine))
        if fault:
            raise HstfError(f"{path}: {fault}.")
        return _scan(path, image, label)
    except HstfError as error:
        return Scan(fault=str(error).removeprefix(f"{path}: "))


def _scan(path: Path, image: nib.Nifti1Image, label: bool) -> Scan:
    summary = _LabelSummary() if label else _ImageSummary()
    shape = tuple(map(int, image.shape[:3]))
    content = hashlib.sha256(repr((shape, image.get_data_dtype().str)).encode())
    try:
        with path.open("rb") as file:
            hashed, extra = _HashedFile(file), 0
            pixdim: tuple[float, ...] = spacing_of(image.affine)
            if is_nifti(path):
                stream = _unpacked(hashed) if path.suffix.lower() == ".gz" else hashed
                pixdim = _raw_pixdim(stream, image)
                for values in _voxels(stream, image, content):
                    summary.add(values)
                extra = _drain(stream)
            else:  # unpacked as a whole by its reader
                voxels = np.ravel(image.dataobj, order="F")
                content.update(voxels.data)
                summary.add(voxels)
            while hashed.read(BLOCK):
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise HstfError(f"{path}: truncated or damaged ({reason(error)}).") from error
    return Scan(
        shape=shape,
        affine=tuple(tuple(map(float, row)) for row in image.affine),
        orientation="".join(nib.aff2axcodes(image.affine)),
        pixdim=pixdim,
        codes=(int(image.header["qform_code"]), int(image.header["sform_code"])),
        unit=_unit(image.header),
        dtype=str(image.get_data_dtype().newbyteorder("=")),
        extra_bytes=extra,
        sha256=hashed.digest.hexdigest(),
        content=content.hexdigest(),
        **summary.facts(),
    )


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _HashedFile:
    """Hashes a file as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        self.digest.update(block)
        return block


def _unpacked(stream: _Readable) -> _Readable:
    return gzip.GzipFile(fileobj=cast(BinaryIO, stream), mode="rb")  # it reads forwards only


def _raw_pixdim(stream: _Readable, image: nib.Nifti1Image) -> tuple[float, ...]:
    """Voxel sizes as the file has them; leaves ``stream`` behind the header proper."""
    kind = type(image.header)
    raw = kind(stream.read(kind.template_dtype.itemsize), image.header.endianness, check=False)
    return tuple(float(size) for size in raw["pixdim"][1:4])


def _unit(header: nib.Nifti1Header) -> str:
    try:
        return str(header.get_xyzt_units()[0])
    except KeyError:
        return "unknown"


def _voxels(
    stream: _Readable, image: nib.Nifti1Image, content: "hashlib._Hash"
) -> Iterator[np.ndarray]:
    """The voxels block by block as stored, scaled by slope and intercept; ``content`` hashes them unscaled."""
    proxy, dtype = cast(ArrayProxy, image.dataobj), image.get_data_dtype()
    for _extension in _blocks(
        stream, int(proxy.offset) - type(image.header).template_dtype.itemsize
    ):
        pass
    scaled = (proxy.slope, proxy.inter) != (1, 0)
    for block in _blocks(stream, math.prod(image.shape) * dtype.itemsize):
        content.update(block)
        values = np.frombuffer(block, dtype)
        with np.errstate(all="ignore"):
            yield values * float(proxy.slope) + float(proxy.inter) if scaled else values


def _blocks(stream: _Readable, size: int) -> Iterator[bytes]:
    """Exactly ``size`` bytes of ``stream`` in blocks."""
    left = size
    while left > 0:
        wanted = min(left, BLOCK)
        block = stream.read(wanted)
        if len(block) < wanted:
            raise EOFError(f"{size - left + len(block)} of {size} bytes of voxels are there")
        left -= wanted
        yield block


def _drain(stream: _Readable) -> int:
    """Read to the end, which verifies the checksum of a gzip file; returns the bytes found, up to a bound."""
    extra = 0
    while extra < MOST_EXTRA and (block := stream.read(BLOCK)):
        extra += len(block)
    return extra


class _ImageSummary:
    """Range of the finite values and number of the others; what float32 cannot hold counts as infinite."""

    def __init__(self) -> None:
        self.minimum, self.maximum, self.non_finite = math.inf, -math.inf, 0

    def add(self, values: np.ndarray) -> None:
        low, high = float(values.min()), float(values.max())  # NaN wins in both
        if not (low >= -FLOAT32_MAX and high <= FLOAT32_MAX):
            finite = values[np.abs(values) <= FLOAT32_MAX]
            self.non_finite += values.size - finite.size
            if not finite.size:
                return
            low, high = float(finite.min()), float(finite.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def facts(self) -> dict[str, Any]:
        return {"minimum": self.minimum, "maximum": self.maximum, "non_finite": self.non_finite}


class _LabelSummary:
    """Voxels of each label value, and of the first few values that are none."""

    def __init__(self) -> None:
        self.counts, self.odd = np.zeros(256, dtype=np.int64), Counter[str]()

    def add(self, values: np.ndarray) -> None:
        if values.dtype != np.uint8:
            right = is_label(values)
            if not right.all():
                self._add_odd(values[~right])
                values = values[right]
            values = np.rint(values).astype(np.uint8)
        self.counts += np.bincount(values, minlength=256)

    def _add_odd(self, values: np.ndarray) -> None:
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            name = f"{float(value):g}"
            if name in self.odd or len(self.odd) < MOST_ODD_VALUES:
                self.odd[name] += int(count)

    def facts(self) -> dict[str, Any]:
        counts = {str(value): int(self.counts[value]) for value in np.flatnonzero(self.counts)}
        return {"values": counts | dict(self.odd)}
