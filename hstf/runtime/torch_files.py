"""Files of tensors with a SHA-256 of their own, so that no damaged file is used.

A file of ``torch.save`` is a ZIP archive. The SHA-256 of all bytes before it is stored at its end,
in the comment of the archive, which ``torch.load`` ignores.
"""

import hashlib
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch

from hstf.runtime.errors import is_memory_error
from hstf.runtime.files import atomic_path, sha256_file

MARK = b"hstf-sha256:"
COMMENT_BYTES = len(MARK) + 64


class DamagedFile(Exception):
    """What is wrong with a file, without its name."""


def write_torch(target: Path, content: Any) -> None:
    """Write tensors and plain values, atomically and with their SHA-256.

    Raises:
        HstfError: if the file cannot be written.
    """
    with atomic_path(target) as path:
        with path.open("wb") as stream:
            _save(stream, content)
        _add_sha256(path)


def read_torch(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file of :func:`write_torch` after comparing it with its SHA-256.

    A file that an earlier version of hstf wrote has none. Its checksums of the ZIP archive are
    compared.

    Raises:
        OSError: if the file is missing or cannot be read.
        DamagedFile: if the file is damaged or of another kind.
        MemoryError, RuntimeError: if the memory is not enough. The file may be whole.
    """
    content = path.read_bytes()
    _check(content)
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types of errors for files of another kind
        if isinstance(error, MemoryError | RuntimeError) and is_memory_error(error):
            raise
        raise DamagedFile(f"{type(error).__name__}: {error}") from error


def _save(stream: io.BufferedWriter, content: Any) -> None:
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        # On a full disk torch raises an error of its own instead of the one of the disk.
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else error from None


def _add_sha256(path: Path) -> None:
    """Append the SHA-256 of a ZIP archive to it as its comment."""
    with path.open("r+b") as stream:
        # The last two bytes of an archive are the length of its comment.
        stream.seek(-2, io.SEEK_END)
        stream.write(struct.pack("<H", COMMENT_BYTES))
    digest = sha256_file(path)
    with path.open("ab") as stream:
        stream.write(MARK + digest.encode())


def _check(content: bytes) -> None:
    """Compare the bytes of a file with the SHA-256 or the checksums in it."""
    body = memoryview(content)[:-COMMENT_BYTES]
    comment = content[-COMMENT_BYTES:]
    if not comment.startswith(MARK):
        _check_archive(content)
    elif comment != MARK + hashlib.sha256(body).hexdigest().encode():
        raise DamagedFile("its SHA-256 has changed")


def _check_archive(content: bytes) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except MemoryError:
        raise
    except Exception as error:  # zipfile raises many types of errors for damaged files
        raise DamagedFile(f"{type(error).__name__}: {error}") from error
    if damaged is not None:
        raise DamagedFile(f"the checksum of {damaged} has changed")
