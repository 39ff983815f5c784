"""Compressed arrays on disk (``.b2nd``) of which a patch is read without the rest.

One file holds one array in Blosc2's documented format: chunks, each of blocks that are decompressed on their own. Threads
inside Blosc2 are off: many readers and writers run side by side, some of them forked from processes that use torch.
"""

from pathlib import Path

import blosc2
import numpy as np

from hstf.runtime.errors import HstfError
from hstf.runtime.files import atomic_path

LEVEL = 5


class StoredArray:
    """An array on disk; indexing it with slices reads and decompresses only the blocks that they touch."""

    def __init__(self, path: Path, array: blosc2.NDArray) -> None:
        self.path, self._array = path, array
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.dtype: np.dtype = array.dtype

    def __getitem__(self, region: slice | int | tuple[slice | int, ...]) -> np.ndarray:
        """The voxels of ``region``, indexed as in numpy (steps of 1).

        Raises:
            HstfError: the file is damaged there.
        """
        try:
            return np.asarray(self._array[region])
        except (RuntimeError, ValueError) as error:
            raise _damaged(self.path, error) from error


def write_array(path: Path, array: np.ndarray, chunk: int) -> None:
    """Write ``array``, whose last three axes are spatial, in chunks of ``chunk`` voxels an edge; atomically.

    Raises:
        HstfError: the file cannot be written.
    """
    spatial = [max(1, min(chunk, size)) for size in array.shape[-3:]]
    chunks = (1,) * (array.ndim - 3) + tuple(spatial)
    blocks = tuple(-(-edge // 2) for edge in chunks)
    try:
        with atomic_path(path) as temporary:
            blosc2.asarray(
                np.ascontiguousarray(array), urlpath=str(temporary), mode="w", chunks=chunks, blocks=blocks,
                cparams={"codec": blosc2.Codec.ZSTD, "clevel": LEVEL, "nthreads": 1},
            )  # fmt: skip
    except RuntimeError as error:  # how Blosc2 tells of a full disk
        raise HstfError(f"{path}: could not be written ({error}). Is the disk full?") from error


def open_array(path: Path) -> StoredArray:
    """Open an array; its voxels are read when it is indexed.

    Raises:
        HstfError: the file is missing or damaged.
    """
    if not path.is_file():
        raise HstfError(f"{path}: missing. Run the stage that writes it first.")
    try:
        array = blosc2.open(str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    return StoredArray(path, array)


def read_array(path: Path) -> np.ndarray:
    """The whole array of a file.

    Raises:
        HstfError: the file is missing or damaged.
    """
    return open_array(path)[...]  # type: ignore[index]


def _damaged(path: Path, error: Exception) -> HstfError:
    return HstfError(
        f"{path}: is damaged ({error}). Delete it and the table beside it, and rerun its stage."
    )
