"""Files that appear whole or not at all, and their fingerprints.

Whatever a stage writes goes through :func:`atomic_path`: written beside the target, flushed to disk, renamed.
"""

import csv
import glob
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hstf.runtime.errors import HstfError


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; it takes the place of ``target`` when the block ends well.

    The temporary name keeps the suffixes of ``target`` (``nibabel`` and ``blosc2`` go by them). When the block raises,
    the temporary file is removed and ``target`` stays as it was.

    Raises:
        HstfError: the disk is full, the folder is read-only, or the like.
    """
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        with suppress(OSError):  # some network disks cannot flush a folder
            _flush(target.parent)
    except OSError as error:
        raise HstfError(f"{target}: could not be written ({error.strerror or error}).") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_leftovers(target: Path) -> None:
    """Remove what a process that was killed while it wrote ``target`` has left; nobody else may be writing it."""
    for leftover in target.parent.glob(f".tmp-{'[0-9a-f]' * 8}-{glob.escape(target.name)}"):
        leftover.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: Path, text: str) -> None:
    """Write UTF-8 ``text`` atomically."""
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def write_torch(target: Path, content: Any) -> None:
    """Write tensors and plain values with ``torch.save``, atomically."""
    import torch

    with atomic_path(target) as path, path.open("wb") as stream:
        try:
            torch.save(content, stream)
        except (
            RuntimeError
        ) as error:  # on a full disk torch hides the reason behind its own end of the file
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def write_text_if_changed(target: Path, text: str) -> None:
    """Write ``text`` only when ``target`` does not hold it already, so that its time stamp tells of real changes."""
    if not target.is_file() or target.read_bytes() != text.encode():
        write_text(target, text)


def write_json(target: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Raises:
        HstfError: the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise HstfError(
            f"{path}: not readable as JSON ({error}). Delete it and rerun its stage."
        ) from error


def write_csv(target: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write ``rows`` atomically as CSV with exactly ``columns``.

    Floats have six significant digits, None is empty, and carriage returns, which CSV cannot carry, are spaces.
    """
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(row.get(key)) for key in columns})


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace("\r", " ")


def read_csv(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file that :func:`write_csv` wrote, as text.

    Raises:
        HstfError: the file is missing or cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, csv.Error) as error:
        raise HstfError(f"{path}: not readable as comma-separated UTF-8 text ({error}).") from error


def read_sheet(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a table that a person wrote, and its rows with their line numbers.

    CSV as spreadsheets save it is understood: separated by commas, semicolons or tabs, with or without a byte order
    mark, spaces around cells, empty lines. Cells that a row lacks are empty; those beyond the header are under "".

    Raises:
        HstfError: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.reader(
            io.StringIO(text), delimiter=max(",;\t", key=text.partition("\n")[0].count)
        )
        header = [cell.strip() for cell in next(reader, [])]
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except OSError as error:
        raise _unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise HstfError(
            f"{path}: is not UTF-8. Save it as 'CSV UTF-8' in the spreadsheet."
        ) from error
    except csv.Error as error:
        raise HstfError(f"{path}: not readable as CSV ({error}).") from error
    return header, [(line, _cells(header, cells)) for line, cells in rows if any(cells)]


def _cells(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    named = zip_longest(header, cells[: len(header)], fillvalue="")
    return dict(named) | {"": " ".join(cells[len(header) :]).strip()}


def _unreadable(path: Path, error: OSError) -> HstfError:
    if isinstance(error, FileNotFoundError):
        return HstfError(f"{path}: missing. Run the stage that writes it first.")
    return HstfError(f"{path}: cannot be read ({error.strerror or error}).")


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes.

    Raises:
        HstfError: the file is missing or cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def sha256_json(content: Any) -> str:
    """Hex SHA-256 of ``content`` as canonical JSON: equal configurations have equal fingerprints."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
