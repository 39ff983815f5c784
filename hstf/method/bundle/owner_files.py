"""Files of people in the folder of an exported model, which the next export keeps.

``.exported.sha256`` has the SHA-256 of every file that an export wrote, also of the texts that
people may edit. ``SHA256SUMS`` is no such record: it does not list these texts, and Snakemake
deletes it before the workflow exports again.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hstf.method.exported_model import DIGEST_FILE, DIGEST_LINE, MODEL_FILE
from hstf.runtime.errors import join_problems
from hstf.runtime.files import sha256_file, write_text

RECORD = ".exported.sha256"
CARD = "README.md"
TEXTS = ("LICENSE", "docs/README.md")
"""Generated texts that people may edit in the folder."""
EXPORTED = (
    MODEL_FILE,
    "configs/inference.json",
    "configs/metadata.json",
    "members/*.pt",
    "models/model.pt",
    "models/model.pt2",
    "models/model.ts",
)
"""Patterns of the other files of an export, for folders with neither a record nor digests."""
UNKNOWN = ""
"""In place of a SHA-256 that was not recorded."""


@dataclass(frozen=True)
class OwnerFiles:
    """What people changed in an exported folder. Names are relative to it."""

    added: list[str] = field(default_factory=list)
    """Files that the export did not write."""
    edited: list[str] = field(default_factory=list)
    """Texts that people may edit, with another content than the export wrote."""
    changed: list[str] = field(default_factory=list)
    """Other files of the export with another content."""
    unknown: list[str] = field(default_factory=list)
    """Other files of the export whose content was not recorded."""


def read_digests(path: Path) -> dict[str, str]:
    """Return the SHA-256 by name of a file like ``SHA256SUMS``; empty if there is none.

    Lines in another format, and names outside of the folder, are left out.
    """
    if not path.is_file():
        return {}
    digests = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = DIGEST_LINE.fullmatch(line)
        if match and ".." not in Path(match["name"]).parts and not match["name"].startswith("/"):
            digests[match["name"]] = match["sha256"]
    return digests


def write_record(folder: Path) -> None:
    """Write the SHA-256 of all files of a new exported folder."""
    known = read_digests(folder / DIGEST_FILE)
    lines = []
    for name in _files(folder):
        digest = known.get(name) or sha256_file(folder / name)
        lines.append(f"{digest}  {name}\n")
    write_text(folder / RECORD, "".join(lines))


def find_owner_files(folder: Path) -> OwnerFiles:
    """Find the files of an exported folder that people added or changed.

    A deleted file is no change, because Snakemake deletes files before it exports again.

    Args:
        folder: the folder of the last export; it may be missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "NOTES.md").write_text("Validated on 40 scans.")
        >>> find_owner_files(folder).added
        ['NOTES.md']
    """
    found = OwnerFiles()
    written = _written(folder)
    for name in _files(folder):
        digest = written.get(name)
        if name == RECORD or (digest and _has_digest(folder / name, digest)):
            continue
        if name in TEXTS:
            found.edited.append(name)
        elif digest is None:
            found.added.append(name)
        elif digest == UNKNOWN:
            found.unknown.append(name)
        else:
            found.changed.append(name)
    return found


def keep_owner_files(old: Path, new: Path, found: OwnerFiles) -> list[str]:
    """Copy added and edited files of the last export into the new folder.

    Args:
        old: folder of the last export.
        new: the new folder, complete.
        found: the files of ``old`` that people added or changed.

    Returns:
        The edited texts that replace other generated texts.

    Raises:
        HstfError: if the new export has files of the same name as added ones.
    """
    both = [str(old / name) for name in found.added if (new / name).exists()]
    if both:
        raise join_problems(
            f"{old}: has files that the last export did not write and that the new one would"
            " replace. Rename them, or move them away, and export again.",
            both,
        )
    for name in found.added:
        _copy(old / name, new / name)
    edited = [name for name in found.edited if not _is_equal(old / name, new / name)]
    for name in edited:
        _copy(old / name, new / name)
    return edited


def _written(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that the last export wrote, by name."""
    if (folder / RECORD).is_file():
        return read_digests(folder / RECORD)
    digests = read_digests(folder / DIGEST_FILE)
    for pattern in (DIGEST_FILE,) if digests else EXPORTED:
        for path in folder.glob(pattern):
            digests[path.relative_to(folder).as_posix()] = sha256_file(path)
    return digests | {CARD: UNKNOWN}


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of all files and links below a folder."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or path.is_file():
            yield path.relative_to(folder).as_posix()


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256_file(path) == digest


def _is_equal(first: Path, second: Path) -> bool:
    if not (first.is_file() and second.is_file()):
        return False
    return first.read_bytes() == second.read_bytes()


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its time, or a link as a link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)
