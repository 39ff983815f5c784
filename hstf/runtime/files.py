"""Files that appear complete or not at all, and their digests.

Whatever a stage writes goes through :func:`atomic_path`: it is written to a temporary file beside
the target, flushed to disk, and renamed.
"""

import codecs
import csv
import glob
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from hstf.runtime.errors import HstfError, write_error
from hstf.runtime.voxel_files import voxel_file

BLOCK_BYTES = 1 << 20
"""Number of bytes that are hashed at a time."""
SheetRow = tuple[int, dict[str, str]]
"""Number of the line, and its cells by column."""


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it replaces ``target`` when the block succeeds.

    The temporary name keeps the suffixes of ``target``, because ``nibabel`` and ``blosc2`` depend
    on them. If the block raises, the temporary file is removed and ``target`` stays as it was.

    Raises:
        HstfError: if the disk is full, the folder is read-only, or the like; or if the text
            contains the name of a file that is not valid UTF-8.
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
        raise write_error(target, error) from error
    except UnicodeEncodeError as error:
        around = error.object[max(0, error.start - 20) : error.end + 20]
        raise HstfError(
            f"{target}: could not be written, because it would contain {around!a}, which is not"
            " valid UTF-8. Rename the file that has this name."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def complete_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder, which replaces ``target`` when the block ends without an error.

    Raises:
        HstfError: if the folder cannot be written. ``target`` is as it was then.
    """
    make_folder(target.parent)
    mark = secrets.token_hex(4)
    new = target.with_name(f".tmp-{mark}-{target.name}")
    old = target.with_name(f".old-{mark}-{target.name}")
    try:
        new.mkdir()
        yield new
        _replace_folder(target, new, old)
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _replace_folder(target: Path, new: Path, old: Path) -> None:
    """Rename ``new`` to ``target``, and remove what was there. After an error it is there again.

    Raises:
        HstfError: if it cannot be renamed back; the message names the place.
        OSError: if a folder cannot be renamed.
    """
    is_replaced = target.exists()
    if is_replaced:
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if is_replaced:
            _rename_back(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _rename_back(old: Path, target: Path) -> None:
    try:
        old.rename(target)
    except OSError as error:
        raise HstfError(
            f"{target}: could not be replaced ({error.strerror or error}). What was there is now"
            f" {old}: rename it back."
        ) from error


def recover_folder(target: Path) -> None:
    """Complete or take back the replacement of a folder in which a process was killed.

    What was there before is put back if the new folder is missing or has no file. No other process
    may be writing the folder.

    Raises:
        HstfError: if it cannot be renamed.
    """
    mark = "[0-9a-f]" * 8
    name = glob.escape(target.name)
    for new in target.parent.glob(f".tmp-{mark}-{name}"):
        shutil.rmtree(new, ignore_errors=True)
    for old in target.parent.glob(f".old-{mark}-{name}"):
        if not any(path.is_file() for path in target.rglob("*")):
            # Snakemake makes the folders of missing files before it runs a job.
            shutil.rmtree(target, ignore_errors=True)
            _rename_back(old, target)
        shutil.rmtree(old, ignore_errors=True)


def make_folder(folder: Path) -> None:
    """Create a folder, and check before any computation that files can be written there.

    Raises:
        HstfError: if they cannot be written.
    """
    probe = folder / f".tmp-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise write_error(folder, error) from error


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files and folders below ``folder`` that match a pattern, sorted.

    ``Path.glob`` fails if another job renames or removes a folder meanwhile. Here such a folder is
    left out, and so are names that begin with a dot, because files have them while they are
    written. A pattern may name such a folder itself: ``preprocessed/.records/*.json``.

    Args:
        folder: where to search; it need not exist.
        pattern: as for :func:`glob.glob`, relative to ``folder``.
    """
    names = glob.glob(pattern, root_dir=folder)  # noqa: PTH207
    return [folder / name for name in sorted(names)]


def remove_leftovers(target: Path, age: float = 0.0) -> None:
    """Remove temporary files of ``target`` that a killed process left.

    Args:
        target: the file. Without ``age``, no other process may be writing it.
        age: time (s) after which no process is still writing a file.
    """
    pattern = f".tmp-{'[0-9a-f]' * 8}-{glob.escape(target.name)}"
    for leftover in target.parent.glob(pattern):
        if not age or leftover.stat().st_mtime < time.time() - age:
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


def write_text_if_changed(target: Path, text: str) -> None:
    """Write ``text`` unless ``target`` has it already, so that the time stamp stays."""
    if not target.is_file() or target.read_bytes() != text.encode():
        write_text(target, text)


def write_json(target: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NaN is refused, because JSON has none."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that a stage wrote.

    Raises:
        HstfError: if the file is missing, cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:  # not JSON, or not UTF-8
        raise HstfError(
            f"{path}: not readable as JSON ({error}). Delete it and run its stage again."
        ) from error


def write_csv(target: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write ``rows`` atomically as CSV with exactly ``columns``.

    Floats have six significant digits, None is an empty cell, and a carriage return, which CSV
    cannot hold, becomes a space.
    """
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(row.get(name)) for name in columns})


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace("\r", " ")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read a CSV file that :func:`write_csv` wrote, as text.

    Raises:
        HstfError: if the file is missing or cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, csv.Error) as error:
        raise HstfError(f"{path}: not readable as comma-separated UTF-8 text ({error}).") from error


def read_sheet(path: Path, known: Collection[str] = ()) -> tuple[list[str], list[SheetRow]]:
    """Read a table that a person wrote, row by row.

    CSV as spreadsheets save it is accepted: separated by commas, semicolons or tabs, in UTF-8 or
    with the byte order mark of UTF-16, with a first line ``sep=;``, with spaces around cells and
    with empty lines.

    Args:
        path: the table.
        known: columns that are recognised in any letter case.

    Returns:
        The header, and the rows with their line numbers. Cells that a row lacks are empty. Cells
        beyond the header are joined under the name "".

    Raises:
        HstfError: if the file is missing, cannot be read, or is not UTF-8.
    """
    header, lines, rows = _read_cells(path, known)
    return header, [(line, _by_column(header, row)) for line, row in zip(lines, rows, strict=True)]


def read_columns(
    path: Path, known: Collection[str] = ()
) -> tuple[list[str], list[int], dict[str, list[str]]]:
    """Read a table that a person wrote, column by column; faster than :func:`read_sheet`.

    Args:
        path: the table.
        known: as of :func:`read_sheet`.

    Returns:
        The header, the line number of each row, and the cells of each column. The column "" has
        the cells beyond the header.

    Raises:
        HstfError: as :func:`read_sheet`.
    """
    header, lines, rows = _read_cells(path, known)
    width = len(header)
    surplus = [""] * len(rows)
    for number, row in enumerate(rows):
        if len(row) < width:
            row += [""] * (width - len(row))
        elif len(row) > width:
            surplus[number] = " ".join(row[width:]).strip()
            del row[width:]
    cells = list(map(list, zip(*rows, strict=True))) if rows else [[] for _ in header]
    columns = dict(zip(header, cells, strict=True))
    columns[""] = surplus
    return header, lines, columns


def read_text_of_person(path: Path) -> str:
    """Read a text file as an editor or a spreadsheet saves it: UTF-8, or UTF-16 with its mark.

    Raises:
        HstfError: if the file is missing, cannot be read, or has another encoding or zero bytes.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise HstfError(f"{path}: cannot be read ({error.strerror or error}).") from error
    is_utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise HstfError(
            f"{path}: is not UTF-8. Save it as 'CSV UTF-8' in the spreadsheet."
        ) from error
    if "\0" in text:
        raise HstfError(
            f"{path}: has bytes of value 0, which no text has: it is UTF-16 or UTF-32 without its"
            " mark, or damaged. Save it as 'CSV UTF-8' in the spreadsheet."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read_cells(path: Path, known: Collection[str]) -> tuple[list[str], list[int], list[list[str]]]:
    """Return the header, the line number of each row that is not empty, and its cells."""
    lines: list[int] = []
    rows: list[list[str]] = []
    last_line = 0
    text = read_text_of_person(path)
    delimiter, skipped = delimiter_of(text)
    # Strict: otherwise a missing quote could put all following rows into one cell.
    reader = csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            stripped = list(map(str.strip, cells))
            if any(stripped) and reader.line_num > skipped:
                lines.append(reader.line_num)
                rows.append(stripped)
            if len(rows) > 1 and reader.line_num > last_line + 1:
                _refuse_rows_in_a_cell(
                    cells, len(rows[0]), delimiter, f"{path}, line {last_line + 1}"
                )
            last_line = reader.line_num
    except csv.Error as error:
        raise HstfError(
            f"{path}, line {last_line + 1}: not readable as CSV ({error})."
            " Most likely a double quote is missing or surplus there."
        ) from error
    header = _in_known_spelling(rows[0], known) if rows else []
    return header, lines[1:], rows[1:]


def delimiter_of(text: str) -> tuple[str, int]:
    """Return what separates cells, and the number of lines before the header to skip.

    Excel writes ``sep=;`` into the first line to name the separator.
    """
    first, _, _ = text.lstrip().partition("\n")
    named = re.fullmatch(r"sep=([,;\t])[,;\t ]*", first, re.IGNORECASE)
    if named:
        empty_lines = text[: text.index(first)].count("\n")
        return named[1], empty_lines + 1
    return max(",;\t", key=first.count), 0


def _in_known_spelling(header: Sequence[str], known: Collection[str]) -> list[str]:
    """Return the names of columns, with known ones in any letter case spelt as they are known."""
    spelling = {name.casefold(): name for name in known}
    return [name if name in known else spelling.get(name.casefold(), name) for name in header]


def _refuse_rows_in_a_cell(cells: Sequence[str], width: int, delimiter: str, place: str) -> None:
    """Refuse a cell of several lines that are rows themselves.

    Raises:
        HstfError: if a line has as many cells as the header.
    """
    for cell in cells:
        for line in cell.split("\n")[1:]:
            if width > 1 and line.count(delimiter) >= width - 1:
                raise HstfError(
                    f"{place}: one cell contains the row {line!r}."
                    " Most likely a double quote is missing or surplus there."
                )


def _by_column(header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    row = dict(zip_longest(header, cells[: len(header)], fillvalue=""))
    row[""] = " ".join(cells[len(header) :]).strip()
    return row


def _unreadable(path: Path, error: OSError) -> HstfError:
    if isinstance(error, FileNotFoundError):
        return HstfError(f"{path}: missing. Run the stage that writes it first.")
    return HstfError(f"{path}: cannot be read ({error.strerror or error}).")


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    The digest of a volume in two files is that of the header followed by the voxels.

    Raises:
        HstfError: if the file is missing or cannot be read.
    """
    voxels = voxel_file(path)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        if voxels is not None:
            with voxels.open("rb") as stream:
                while block := stream.read(BLOCK_BYTES):
                    digest.update(block)
        return digest.hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def sha256_json(content: Any) -> str:
    """Return the SHA-256 of ``content`` as canonical JSON: the same for equal configurations."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
