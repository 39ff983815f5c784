"""Files that appear whole or not at all, and their fingerprints.

Whatever a stage writes goes through :func:`atomic_path`: written beside the target, flushed to disk, renamed.
"""

import csv
import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hstf.errors import HstfError

CHUNK = 1 << 20


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to; it takes the place of ``target`` when the block ends well.

    The temporary name keeps the suffixes of ``target`` (``nibabel`` and ``blosc2`` go by them). When the block raises,
    the temporary file is removed and ``target`` stays as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{secrets.token_hex(4)}-{target.name}")
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise HstfError(f"{target}: could not be written ({error.strerror or error}).") from error
    finally:
        temporary.unlink(missing_ok=True)


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
    """Write ``text`` only when ``target`` does not hold it already, so that its time stamp tells of real changes."""
    if not target.is_file() or target.read_text(encoding="utf-8") != text:
        write_text(target, text)


def write_json(target: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, atomically. NaN is refused: JSON has none."""
    write_text(target, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file that an earlier stage wrote.

    Raises:
        HstfError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise HstfError(f"{path}: missing. Run the stage that writes it first.") from error
    except json.JSONDecodeError as error:
        raise HstfError(f"{path}: not readable as JSON ({error}). Delete it and rerun its stage.") from error


def write_csv(target: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Write ``rows`` atomically as CSV with exactly ``columns``; floats with six significant digits, None as empty."""
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(columns), lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(row.get(key)) for key in columns})


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def read_csv(path: Path) -> list[dict[str, str]]:
    """All rows of a CSV file as text.

    Raises:
        HstfError: the file is missing.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError as error:
        raise HstfError(f"{path}: missing. Run the stage that writes it first.") from error


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(content: Any) -> str:
    """Hex SHA-256 of ``content`` as canonical JSON: equal configurations have equal fingerprints."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
