"""Compressed arrays on disk (``.b2nd``), of which a patch can be read without the rest.

A file holds one array in the documented format of Blosc2: chunks, which consist of blocks that are
decompressed independently. Blosc2 runs without threads, because many processes read and write at
the same time, and some of them are forked from processes that use torch.

A file of Blosc2 may also hold an expression or a function instead of an array. Versions before
:data:`SAFE_VERSION` run it when the file is opened, so they are refused.
"""

import re
from functools import cache
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hstf.runtime.errors import HstfError, write_error
from hstf.runtime.files import atomic_path

if TYPE_CHECKING:
    import blosc2

COMPRESSION_LEVEL = 5
SAFE_VERSION = (4, 14, 1)
"""First version of Blosc2 that refuses files with code."""

Region = slice | int | tuple[slice | int, ...]
"""What an array is indexed with."""


class StoredArray:
    """An array on disk. Slicing it reads and decompresses only the blocks within the slice."""

    def __init__(
        self,
        path: Path,
        array: "blosc2.NDArray",
    ) -> None:
        """Wrap an open array of Blosc2."""
        self.path = path
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype = array.dtype
        self._array = array

    def __getitem__(self, region: Region) -> np.ndarray:
        """Read the voxels of ``region``, indexed as in numpy with steps of 1.

        Raises:
            HstfError: if the file is damaged there.
        """
        try:
            return np.asarray(self._array[region])
        except (RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from error


def write_array(
    path: Path,
    array: np.ndarray,
    chunk: int,
) -> None:
    """Write an array atomically.

    Args:
        path: file to write.
        array: its last three axes are spatial.
        chunk: maximum edge of a chunk (voxels).

    Raises:
        HstfError: if the file cannot be written.
    """
    import blosc2  # slow to import, and a prediction needs no array on disk

    other_axes = array.ndim - 3
    chunks = [1] * other_axes
    for size in array.shape[other_axes:]:
        chunks.append(max(1, min(chunk, size)))
    blocks = [ceil(edge / 2) for edge in chunks]
    compression = {
        "codec": blosc2.Codec.ZSTD,
        "clevel": COMPRESSION_LEVEL,
        "nthreads": 1,
    }
    try:
        with atomic_path(path) as temporary:
            blosc2.asarray(
                np.ascontiguousarray(array),
                urlpath=str(temporary),
                mode="w",
                chunks=tuple(chunks),
                blocks=tuple(blocks),
                cparams=compression,
            )
    except RuntimeError as error:  # what Blosc2 raises when the disk is full
        raise write_error(path, OSError(f"{error} Is the disk full?")) from error


def open_array(path: Path) -> StoredArray:
    """Open an array. Its voxels are read when it is sliced.

    Raises:
        HstfError: if the file is missing, damaged or no array, or if this version of Blosc2 runs
            code from files.
    """
    import blosc2

    if not path.is_file():
        raise HstfError(f"{path}: missing. Run the stage that writes it first.")
    _refuse_unsafe_version(blosc2.__version__)
    try:
        array = blosc2.open(
            str(path),
            mode="r",
            mmap_mode="r",
            dparams={"nthreads": 1},
            deserialize="safe",
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(array, blosc2.NDArray):
        raise HstfError(
            f"{path}: has {type(array).__name__}, expected an array. hstf did not write this file."
        )
    return StoredArray(path, array)


def read_array(path: Path) -> np.ndarray:
    """Read a whole array.

    Raises:
        HstfError: if the file is missing or damaged.
    """
    return open_array(path)[...]  # type: ignore[index]


@cache
def _refuse_unsafe_version(version: str) -> None:
    """Refuse versions of Blosc2 that run code from files.

    Raises:
        HstfError: if the version is older than :data:`SAFE_VERSION`.
    """
    found = tuple(int(number) for number in re.findall(r"\d+", version)[:3])
    if found < SAFE_VERSION:
        safe = ".".join(map(str, SAFE_VERSION))
        raise HstfError(
            f"blosc2 {version} is installed. Versions before {safe} run code that is hidden in an"
            f" array file. Install a newer one: pip install 'blosc2>={safe}'."
        )


def _damaged(
    path: Path,
    error: Exception,
) -> HstfError:
    return HstfError(
        f"{path}: is damaged ({error})."
        " Delete it and the table in the same folder, and run its stage again."
    )
