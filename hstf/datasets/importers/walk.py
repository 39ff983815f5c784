"""Find all files below a folder, and explain each file and folder that is not imported.

Links to folders are followed. A folder that is reached twice is read once.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hstf.imaging.volume_files import SUFFIXES, suffix_of

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
DICOM_ENDINGS = (".dcm", ".ima", ".dicom")
VOXEL_FILES = {
    ".mhd": (".raw", ".zraw", ".img", ".bin", ".dat"),
    ".nhdr": (".raw", ".raw.gz", ".img", ".bin", ".dat"),
    ".hdr": (".img", ".img.gz"),
}
"""Files with the voxels of a header of the same name, which are read with it."""
DOCUMENTS = (
    ".bval",
    ".bvec",
    ".cfg",
    ".csv",
    ".docx",
    ".htm",
    ".html",
    ".ini",
    ".ipynb",
    ".json",
    ".log",
    ".m",
    ".md",
    ".md5",
    ".mrml",
    ".pdf",
    ".py",
    ".r",
    ".rst",
    ".sh",
    ".sha256",
    ".toml",
    ".tsv",
    ".txt",
    ".xls",
    ".xlsx",
    ".xml",
    ".yaml",
    ".yml",
)
"""Endings of files that accompany scans."""
MAXIMUM_HEADERS = 1000
"""Number of files of unknown formats that are opened to recognise DICOM."""


class Note(NamedTuple):
    """A statement about a case or a file."""

    what: str
    why: str


@dataclass
class Found:
    """All entries below a folder."""

    volumes: list[Path] = field(default_factory=list)
    """Files whose format can be read."""
    left_out: list[Note] = field(default_factory=list)
    """Files and folders that are no volumes."""
    problems: list[Note] = field(default_factory=list)
    """Folders and links that may lead to volumes, but cannot be read."""
    others: list[Path] = field(default_factory=list)
    """Files that are no volumes."""


def walk(folder: Path) -> Found:
    """Return what is stored below ``folder``. All that is not a volume has a note."""
    walker = _Walker(folder)
    walker.run()
    found = Found(problems=walker.problems, left_out=walker.left_out)
    headers = _headers(walker.files)
    for path in walker.files:
        if suffix_of(path) and not _is_data_of_header(path, headers):
            found.volumes.append(path)
        elif not _is_data_of_header(path, headers):
            found.others.append(path)
    found.left_out += _describe_others(found.others)
    return found


class _Walker:
    """Collects files and links, real folders first, so that a link is never read before them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.left_out: list[Note] = []
        self.problems: list[Note] = []
        self.hidden: list[Path] = []
        self.links: list[Path] = []
        self.seen: dict[tuple[int, int], Path] = {}

    def run(self) -> None:
        above = {_identity(parent) for parent in self.folder.resolve().parents}
        self._read(self.folder)
        while self.links:
            link = self.links.pop(0)
            identity = _identity(link)
            if identity in above:
                self._leave_out(link, "a link to a folder that contains this one: not followed")
            elif identity in self.seen:
                self._leave_out(link, f"a link to {self._name(self.seen[identity])}: read once")
            else:
                self._read(link)
        if self.hidden:
            example = self._name(self.hidden[0])
            self.left_out.append(
                Note(f"{len(self.hidden)} hidden files and folders", f"for example {example}")
            )

    def _read(self, start: Path) -> None:
        """Read ``start`` and the real folders below it."""
        pending = [start]
        while pending:
            folder = pending.pop()
            try:
                self.seen.setdefault(_identity(folder), folder)
                with os.scandir(folder) as entries:
                    names = sorted(entry.name for entry in entries)
            except OSError as error:
                self._problem(
                    folder,
                    f"the folder cannot be read ({error.strerror}), its files are unknown",
                )
                continue
            for name in names:
                pending += self._sort(folder / name)

    def _sort(self, path: Path) -> list[Path]:
        """Record an entry. Returns it if it is a real folder."""
        if path.name.startswith(".") or path.name == "__MACOSX":
            self.hidden.append(path)
            return []
        try:
            mode = path.stat().st_mode
        except OSError as error:
            self._broken(path, error)
            return []
        if stat.S_ISREG(mode):
            self.files.append(path)
        elif not stat.S_ISDIR(mode):
            self._leave_out(path, "a device, pipe or socket, no file")
        elif path.is_symlink():
            self.links.append(path)
        else:
            return [path]
        return []

    def _broken(self, path: Path, error: OSError) -> None:
        try:
            target = path.readlink()
        except OSError:  # no link, or its folder may not be searched
            self._problem(path, f"cannot be read ({error.strerror})")
            return
        if suffix_of(path) == "" and path.suffix.lower() in DOCUMENTS:
            self._leave_out(path, f"a link to {target}, which is missing")
            return
        advice = "fix or remove the link"
        if "annex" in target.parts:
            advice = "fetch the file with 'datalad get' or 'git annex get'"
        why = "is missing" if isinstance(error, FileNotFoundError) else str(error.strerror)
        self._problem(path, f"a link to {target}, which {why}: {advice}")

    def _leave_out(self, path: Path, why: str) -> None:
        self.left_out.append(Note(self._name(path), why))

    def _problem(self, path: Path, why: str) -> None:
        self.problems.append(Note(str(path), why))

    def _name(self, path: Path) -> str:
        return str(path.relative_to(self.folder))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _headers(files: Iterable[Path]) -> set[tuple[str, str]]:
    """Return the headers among ``files`` that can be read: name without suffix, and suffix."""
    headers = set()
    for path in files:
        suffix = suffix_of(path)
        if suffix in VOXEL_FILES:
            headers.add((str(path)[: -len(suffix)], suffix))
    return headers


def _is_data_of_header(path: Path, headers: set[tuple[str, str]]) -> bool:
    """Return whether a file has the voxels of a header beside it."""
    text = str(path)
    for suffix, endings in VOXEL_FILES.items():
        for ending in endings:
            name = text[: -len(ending)]
            if text.lower().endswith(ending) and (name, suffix) in headers:
                return True
    return False


def _describe_others(files: Sequence[Path]) -> list[Note]:
    """Return one note for all files of a kind."""
    by_kind: dict[tuple[str, str], list[Path]] = defaultdict(list)
    unknown = 0
    for path in files:
        ending = _ending(path)
        unknown += ending not in DOCUMENTS
        may_open = ending not in DOCUMENTS and unknown <= MAXIMUM_HEADERS
        by_kind[_kind(path, ending, may_open)].append(path)
    notes = []
    for (what, why), paths in by_kind.items():
        example = paths[0].name
        if len(paths) > 1:
            example = f"{len(paths)} files {what}, for example {example}"
        notes.append(Note(example, why))
    return notes


def _kind(path: Path, ending: str, may_open: bool) -> tuple[str, str]:
    """Return what files such as ``path`` have in common, and why they are left out.

    Args:
        path: a file that is no volume.
        ending: its suffix.
        may_open: whether its first bytes may be read.
    """
    name = path.name.lower()
    if name.endswith(ARCHIVES):
        return "of archives", "an archive. Unpack it first"
    if name.endswith(DICOM_ENDINGS) or (may_open and is_dicom(path)):
        return (
            "of DICOM",
            "DICOM: convert it with hstf import dicom, or with dcm2niix -z y -o OUTPUT FOLDER",
        )
    if not ending or ending in DOCUMENTS:
        return "without scans", "no format of scans"
    return ending, f"{ending} is not read: convert it to NIfTI ({', '.join(SUFFIXES)} are read)"


def _ending(path: Path) -> str:
    """Return the suffix in lower case, of compressed files with the one before it."""
    name = Path(path.name.lower())
    if name.suffix in COMPRESSED:
        return "".join(name.suffixes[-2:])
    return name.suffix


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM, by its name or first bytes."""
    if path.name.lower().endswith(DICOM_ENDINGS):
        return True
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM"
