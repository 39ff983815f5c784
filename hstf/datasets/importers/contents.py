"""Recognise label maps among scans by their voxels.

A scan has noise: hundreds of values, and neighbours that differ. A label map has few whole numbers.
Most scans are recognised without reading them, because noise does not compress.
"""

import math
import struct
import zlib
from pathlib import Path

import numpy as np

from hstf.imaging.volume_files import is_nifti, open_nifti
from hstf.imaging.volumes import read_image
from hstf.runtime.errors import HstfError

FEW_VALUES = 20
"""A volume with at most so many values, all whole numbers, looks like a label map."""
MANY_VALUES = 256
"""A volume with more values than this one does not look like a label map."""
EQUAL_NEIGHBOURS = 0.8
"""Fraction of equal neighbours within structures from which many values look like labels, too."""
SMALL_FILE = 1 << 18
"""Files up to this number of bytes are always read."""
RATIO_OF_SCANS = 6.0
"""Larger compressed files are scans up to this compression ratio: noise does not compress."""


def label_values_of_scan(path: Path) -> list[int]:
    """Return the values of a volume that looks like a label map; empty for a scan.

    A constant volume has no structure and returns no values; ``check`` reports it.
    Unreadable files return no values: they are reported elsewhere.
    """
    try:
        image = open_nifti(path)
        if _compresses_like_a_scan(path, image.shape, image.get_data_dtype().itemsize):
            return []
        if is_nifti(path):
            middle = np.asanyarray(image.dataobj[:, :, image.shape[2] // 2])
            if np.unique(middle).size > MANY_VALUES:
                return []
        data = read_image(path, is_mask=True).data
    except (HstfError, OSError, EOFError, ValueError, IndexError, zlib.error, struct.error):
        return []
    return _values(data)


def _compresses_like_a_scan(
    path: Path,
    shape: tuple[int, ...],
    voxel_bytes: int,
) -> bool:
    size = path.stat().st_size
    if size <= SMALL_FILE or not path.name.lower().endswith(".gz"):
        return False
    return math.prod(shape) * voxel_bytes < RATIO_OF_SCANS * size


def _values(data: np.ndarray) -> list[int]:
    """Return the values of ``data`` if they look like those of a label map."""
    sample = np.unique(data[:, :, data.shape[2] // 2])
    if sample.size > MANY_VALUES:
        return []
    found = np.unique(data)
    if not 2 <= found.size <= MANY_VALUES or not np.array_equal(found, np.rint(found)):
        return []
    if found.size > FEW_VALUES and not _is_piecewise_constant(data):
        return []
    return [int(value) for value in found]


def _is_piecewise_constant(data: np.ndarray) -> bool:
    """Return whether most neighbours within structures have the same value."""
    first = data[1:]
    second = data[:-1]
    inside = (first != data.min()) & (second != data.min())
    if not inside.any():
        return True
    return float(np.mean(first[inside] == second[inside])) >= EQUAL_NEIGHBOURS
