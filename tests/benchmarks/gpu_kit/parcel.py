"""Files packed for a way that takes only pieces of limited size: a compressed tar stream, cut, with a manifest of SHA-256.

Runs on a bare Python, without any package.
"""

import gzip
import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

MIB = 2**20


class ParcelError(Exception):
    """What is wrong, in sentences."""


class _Cutter:
    """A stream that is written as files of at most ``limit`` bytes."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self.folder, self.name, self.limit = folder, name, limit
        self.parts: list[dict[str, Any]] = []
        self.file: IO[bytes] | None = None
        self.digest, self.room = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            if self.room == 0:
                self._next()
            piece, view = view[: self.room], view[self.room :]
            assert self.file is not None
            self.file.write(piece)
            self.digest.update(piece)
            self.room -= len(piece)
        return len(data)

    def flush(self) -> None:
        """Asked for by gzip."""

    def _next(self) -> None:
        self.close()
        path = self.folder / f"{self.name}.{len(self.parts)}"
        self.parts.append({"file": path.name})
        self.file, self.digest, self.room = path.open("wb"), hashlib.sha256(), self.limit

    def close(self) -> None:
        if self.file is not None:
            self.parts[-1] |= {"bytes": self.file.tell(), "sha256": self.digest.hexdigest()}
            self.file.close()
            self.file = None


def seal(folder: Path, name: str, files: Mapping[str, Path], part_bytes: int, **facts: Any) -> dict[str, Any]:
    """Pack ``files`` (name in the parcel: where it lies) into ``folder`` as ``name.0``, ``name.1`` ... and ``name.json``.

    Returns the manifest: ``parts``, SHA-256 of each of the ``files``, and ``facts``. It is written last: without it
    there is no parcel.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    for old in folder.glob(f"{name}.[0-9]*"):
        old.unlink()
    cutter = _Cutter(folder, name, part_bytes)
    with (
        gzip.GzipFile(fileobj=cutter, mode="wb", compresslevel=1, mtime=0) as stream,  # type: ignore[call-overload]
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):
        for inside, path in sorted(files.items()):
            tar.add(path.resolve(), inside, recursive=False)
    cutter.close()
    digests = {inside: sha256(path) for inside, path in sorted(files.items())}
    manifest = {"name": name, **facts, "parts": cutter.parts, "files": digests}
    write_json(folder / f"{name}.json", manifest)
    return manifest


def missing_parts(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """A sentence for each part that is not in ``folder`` or is damaged."""
    faults = []
    for part in manifest["parts"]:
        path = folder / part["file"]
        if not path.is_file():
            faults.append(f"{part['file']}: is not here yet")
        elif path.stat().st_size != part["bytes"] or sha256(path) != part["sha256"]:
            faults.append(f"{part['file']}: is damaged (SHA-256 differs); send it again")
    return faults


def unseal(folder: Path, manifest: Mapping[str, Any], into: Path) -> None:
    """Write the files of a parcel below ``into``, over what is there.

    Raises:
        ParcelError: parts are missing or damaged; all are named.
    """
    faults = missing_parts(folder, manifest)
    if faults:
        raise ParcelError("\n".join([f"parcel {manifest['name']}:", *faults]))
    into.mkdir(parents=True, exist_ok=True)
    with (
        _Joined(folder / part["file"] for part in manifest["parts"]) as stream,
        tarfile.open(fileobj=stream, mode="r|gz") as tar,  # type: ignore[call-overload]
    ):
        tar.extractall(into, filter="data")


class _Joined:
    """Files read as one stream."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = iter(paths)
        self.file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            if self.file is None:
                path = next(self.paths, None)
                if path is None:
                    break
                self.file = path.open("rb")
            piece = self.file.read(size - len(data))
            if not piece:
                self.file.close()
                self.file = None
            data += piece
        return data

    def __enter__(self) -> "_Joined":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None:
            self.file.close()


def take_in(source: Path, inbox: Path) -> None:
    """Copy manifests and parts from ``source`` into ``inbox``, where parts of several deliveries gather."""
    inbox.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()) if source.is_dir() else []:
        if path.is_file() and (path.suffix == ".json" or path.suffix[1:].isdigit()):
            temporary = inbox / f".{path.name}"
            shutil.copyfile(path, temporary)
            temporary.replace(inbox / path.name)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path, default: Any = None) -> Any:
    """The content of a JSON file; ``default`` where there is none."""
    return json.loads(path.read_text()) if path.is_file() else default


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)
