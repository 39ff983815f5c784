"""Read the voxels of an opened volume, with the checksum of a compressed file.

A gzip file ends with a checksum of its content. nibabel stops after the last voxel and never
compares it: most damaged bytes of a compressed scan would change voxels without any error.
"""

import gzip
from pathlib import Path
from typing import Protocol

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy

BLOCK_BYTES = 4 << 20
"""Number of bytes that are read at a time."""
MAXIMUM_EXTRA_BYTES = 64 << 20
"""Upper bound for the bytes after the last voxel that are read: a gzip bomb would take hours."""
COMPRESSED = (".gz", ".mgz")


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes:
        """Return the next ``size`` bytes, fewer at the end of the stream."""
        ...


def stored_voxels(image: nib.Nifti1Image, dtype: np.dtype | None = None) -> np.ndarray:
    """Return the voxels of a volume, scaled by slope and intercept, in the order of the file.

    Args:
        image: the volume, opened.
        dtype: type of the result; by default that of the scaled voxels.

    Raises:
        Exception: of many kinds, if the file is damaged.
    """
    proxy = image.dataobj
    # Formats of ITK have another proxy, which compares the checksums of their files itself.
    if not isinstance(proxy, ArrayProxy):
        return np.asanyarray(proxy, dtype=dtype)
    path = Path(proxy.file_like)
    if path.suffix.lower() not in COMPRESSED:
        return np.asanyarray(proxy, dtype=dtype)
    layout = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
    with gzip.open(path) as stream:
        voxels = np.asanyarray(ArrayProxy(stream, layout, mmap=False), dtype=dtype)
        read_to_end(stream)
    return voxels


def read_to_end(stream: Readable) -> int:
    """Read what is left of a stream, which verifies the checksum of a gzip file.

    Returns:
        Number of bytes read, at most :data:`MAXIMUM_EXTRA_BYTES`.
    """
    extra_bytes = 0
    while extra_bytes < MAXIMUM_EXTRA_BYTES:
        block = stream.read(BLOCK_BYTES)
        if not block:
            break
        extra_bytes += len(block)
    return extra_bytes
