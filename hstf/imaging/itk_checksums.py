"""Compare the checksums of compressed MetaImage and NRRD voxels, which ITK does not do.

For MetaImage, ITK ignores that the voxels cannot be inflated, and returns what is in its memory.
For NRRD, it stops after the last voxel, before the checksum. So all compressed bytes are inflated
once before ITK reads them. The result is not kept.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hstf.imaging.itk_headers import MAXIMUM_TEXT_BYTES, NUMBER
from hstf.imaging.stored_voxels import BLOCK_BYTES, MAXIMUM_EXTRA_BYTES
from hstf.runtime.voxel_files import voxel_file

GZIP = 16 + zlib.MAX_WBITS
"""``wbits`` of zlib for a gzip file."""
ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
"""``wbits`` of zlib for either format."""
NRRD_SUFFIXES = (".nrrd", ".nhdr")
NRRD_GZIP = ("gzip", "gz")
"""Names of the compressed encoding of NRRD. ITK has no bzip2, and reports it."""
MAXIMUM_NUMBER = float(1 << 62)
"""Upper bound for a number in a header, which may be damaged."""
LINE_END = re.compile(rb"\r\n|\r|\n")
NRRD_HEADER_END = re.compile(rb"(?>\r\n|\r|\n){2}")
METAIMAGE_HEADER_END = re.compile(rb"(?i)elementdatafile[^\n]*\n?")
METAIMAGE_FIELD = re.compile(r"(?m)^[ \t]*(\w+)[ \t]*[=:][=: \t]*([^\r\n]*)")


@dataclass(frozen=True)
class CompressedVoxels:
    """Where the compressed voxels of a volume are, and how many bytes they become."""

    path: Path
    start: int
    """Number of bytes before them."""
    wbits: int
    """Format, as zlib expects it."""
    minimum: int
    """Number of bytes of the inflated voxels."""
    maximum: int
    """The same number, or more if the header states that bytes before the voxels are skipped."""
    length: int = 0
    """Number of compressed bytes; 0 for all up to the end of the file."""


def verify_checksum(path: Path, voxel_bytes: int) -> None:
    """Inflate the compressed voxels of a volume, and compare their checksum and their number.

    Voxels that are not compressed have no checksum, and are not read.

    Args:
        path: a MetaImage or NRRD file with voxels in it, or a header.
        voxel_bytes: number of bytes of the voxels, as the header states it.

    Raises:
        OSError: if the file cannot be read, or if the compressed voxels are damaged or truncated.
    """
    with path.open("rb") as stream:
        start = stream.read(MAXIMUM_TEXT_BYTES)
    is_nrrd = path.suffix.lower() in NRRD_SUFFIXES
    find = _nrrd_voxels if is_nrrd else _metaimage_voxels
    voxels = find(path, start, voxel_bytes)
    if voxels is None:
        return
    try:
        found = _inflate(voxels)
    except zlib.error as error:
        raise OSError(f"its compressed voxels are damaged: {error}") from error
    if found < voxels.minimum:
        raise OSError(f"its compressed voxels are {found} bytes, expected {voxels.minimum}")


def _metaimage_voxels(path: Path, start: bytes, voxel_bytes: int) -> CompressedVoxels | None:
    end = METAIMAGE_HEADER_END.search(start)
    if end is None:
        return None
    fields = dict(METAIMAGE_FIELD.findall(start[: end.start()].decode("latin-1")))
    if not _is_true(fields.get("CompressedData", "")):
        return None
    if not _is_true(fields.get("BinaryData", "True")):
        return None  # text, which ITK does not inflate
    other = voxel_file(path)
    length = _number(fields.get("CompressedDataSize", ""))
    position = end.end() if other is None else 0
    if length:
        position = _number(fields.get("HeaderSize", "")) or position
        if position < 0:
            raise OSError("its header states a negative HeaderSize for compressed voxels")
    elif other is None:
        # Without it, ITK inflates a file from its beginning, where this one has its header.
        raise OSError("its header has no CompressedDataSize, which compressed voxels need")
    return CompressedVoxels(other or path, position, ZLIB_OR_GZIP, voxel_bytes, voxel_bytes, length)


def _is_true(value: str) -> bool:
    """Return whether ITK takes a value of MetaImage for true: it looks at the first letter."""
    return value.startswith(("T", "t", "1"))


def _number(text: str) -> int:
    """Return the number at the beginning of a value, 0 if there is none."""
    found = NUMBER.match(text)
    number = float(found[0]) if found else 0.0
    return int(max(-MAXIMUM_NUMBER, min(number, MAXIMUM_NUMBER)))


def _nrrd_voxels(path: Path, start: bytes, voxel_bytes: int) -> CompressedVoxels | None:
    end = NRRD_HEADER_END.search(start)
    header = start if end is None else start[: end.start()]
    fields = _nrrd_fields(header)
    if fields.get("encoding", "").lower() not in NRRD_GZIP:
        return None
    position = len(start) if end is None else end.end()
    other = voxel_file(path)
    if other is not None:
        position = 0
        with other.open("rb") as stream:
            start = stream.read(MAXIMUM_TEXT_BYTES)
    skipped = _number(fields.get("byteskip", ""))
    minimum = voxel_bytes + max(skipped, 0)
    return CompressedVoxels(
        other or path,
        _skip_lines(start, position, _number(fields.get("lineskip", ""))),
        GZIP,
        minimum,
        # A negative number stands for all bytes before the voxels.
        minimum + (MAXIMUM_EXTRA_BYTES if skipped < 0 else 0),
    )


def _nrrd_fields(header: bytes) -> dict[str, str]:
    """Return the fields of a NRRD header by their names in small letters, without spaces."""
    fields = {}
    for line in LINE_END.split(header):
        name, _, value = line.decode("latin-1").partition(": ")
        fields[name.replace(" ", "").lower()] = value.strip()
    return fields


def _skip_lines(start: bytes, position: int, lines: int) -> int:
    """Return the position after a number of lines of text."""
    for _ in range(lines):
        end = LINE_END.search(start, position)
        if end is None:
            raise OSError(f"its header skips {lines} lines, more than {len(start)} bytes of text")
        position = end.end()
    return position


def _inflate(voxels: CompressedVoxels) -> int:
    """Inflate voxels in blocks without keeping them, and return their number of bytes.

    Bytes after the end of the compressed voxels are ignored: some programs fill up their files.
    """
    found = 0
    inflater = zlib.decompressobj(voxels.wbits)
    for block in _blocks(voxels):
        while block:
            found += len(inflater.decompress(block, BLOCK_BYTES))
            if found > voxels.maximum:
                raise OSError(f"its compressed voxels are more than {voxels.maximum} bytes")
            block = inflater.unconsumed_tail
            if inflater.eof:
                # A gzip file may have several parts, each with its own checksum.
                if found >= voxels.minimum or voxels.wbits != GZIP:
                    return found
                block = inflater.unused_data
                inflater = zlib.decompressobj(voxels.wbits)
    raise OSError("its compressed voxels end before their last byte or their checksum")


def _blocks(voxels: CompressedVoxels) -> Iterator[bytes]:
    """Yield the compressed bytes."""
    with voxels.path.open("rb") as stream:
        stream.seek(voxels.start)
        left = voxels.length or voxels.path.stat().st_size
        while left > 0:
            block = stream.read(min(left, BLOCK_BYTES))
            if not block:
                return
            left -= len(block)
            yield block
