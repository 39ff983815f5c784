"""Files that may be lost slices: broken links, empty files, and files that only look like slices.

A series without its last slices is a valid, shorter volume. So a file that may have been a slice is
a problem of the series beside it. Documents, pictures and programs, which a PACS exports with the
series, are none.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hstf.datasets.dicom.headers import Headers
from hstf.datasets.importers.walk import ARCHIVES, DICOM_ENDINGS, DOCUMENTS
from hstf.runtime.errors import few

NO_SLICES = (
    *DOCUMENTS,
    *ARCHIVES,
    ".bat",
    ".bmp",
    ".class",
    ".css",
    ".db",
    ".dll",
    ".exe",
    ".gif",
    ".ico",
    ".inf",
    ".jar",
    ".jpeg",
    ".jpg",
    ".js",
    ".lnk",
    ".png",
    ".so",
    ".url",
)
"""Endings of files that a PACS, its viewer or a person stores beside slices."""
NO_SLICE_NAMES = (
    "CHANGELOG",
    "CHECKSUM",
    "CHECKSUMS",
    "DICOMDIR",
    "LICENCE",
    "LICENSE",
    "LOCKFILE",
    "MD5SUM",
    "MD5SUMS",
    "README",
    "SHA256SUMS",
    "VERSION",
)
"""Names of such files, in upper case."""
LINK = "broken links"
EMPTY = "empty files"
ZEROS = "files of zeros"
UNMARKED = "files without the mark of DICOM (DICM)"
HOLLOW = (LINK, EMPTY, ZEROS)
"""Files without content: only their folder shows what they were."""
START = 4096
"""Bytes that are read to recognise a file of zeros."""
IDENTIFIER = re.compile(r"[0-9A-F-]{8,}")
NUMBER = re.compile(r"[0-9]+(\.[0-9]+)*")
SUFFIX = re.compile(r"\.[A-Z][A-Z0-9]{0,7}")


class Suspect(NamedTuple):
    """A file that may be a lost slice."""

    path: Path
    what: str
    """What is wrong with it."""


class Form(NamedTuple):
    """What the names of the slices of a series have in common."""

    name: str
    """The name without suffix, in which all numbers are equal."""
    suffix: str

    @classmethod
    def of(cls, path: Path) -> "Form":
        """Return the form of the name of a file."""
        name = path.name.upper()
        suffix = path.suffix.upper()
        if SUFFIX.fullmatch(suffix):
            name = name.removesuffix(suffix)
        else:
            suffix = ""  # UIDs end with numbers
        if IDENTIFIER.fullmatch(name):
            return cls("0", suffix)
        return cls(NUMBER.sub("0", name), suffix)


@dataclass
class Suspects:
    """The files that may be lost slices."""

    all: list[Suspect] = field(default_factory=list)
    by_series: dict[str, list[Suspect]] = field(default_factory=lambda: defaultdict(list))
    """Files that may be slices of a series, by SeriesInstanceUID."""

    @classmethod
    def of(cls, headers: Headers) -> "Suspects":
        """Find them among the files without a header."""
        suspects = cls()
        places = _forms(headers)
        forms = {form for place in places.values() for found in place.values() for form in found}
        for suspect in _candidates(headers):
            owners = _owners(suspect, places.get(suspect.path.parent, {}))
            if owners or _is_suspect_elsewhere(suspect, forms):
                suspects.all.append(suspect)
            for uid in owners:
                suspects.by_series[uid].append(suspect)
        return suspects

    @property
    def unmarked(self) -> list[Suspect]:
        """Those that are files, not links."""
        return [suspect for suspect in self.all if suspect.what != LINK]

    def of_series(self, uid: str) -> Sequence[Suspect]:
        """Return the files that may be slices of a series."""
        return self.by_series.get(uid, ())


def describe(suspects: Sequence[Suspect]) -> str:
    """Describe files without their names; an empty text if there are none."""
    if not suspects:
        return ""
    counts = Counter(suspect.what for suspect in suspects)
    found = ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))
    advice = []
    if LINK in counts:
        advice.append("Fetch the targets of links (datalad get, git annex get, or mount the disk)")
    if set(counts) != {LINK}:
        advice.append("Export the series from the PACS again")
    advice.append("Remove files and links that are no slices")
    return f"{found}, which may be lost slices. {'. '.join(advice)}"


def names_of(suspects: Iterable[Suspect]) -> str:
    """Return the names of files as the end of a message; an empty text if there are none."""
    names = few(str(suspect.path) for suspect in suspects)
    names = names.encode(errors="backslashreplace").decode()  # names made by Windows
    return f". Files: {names}" if names else ""


def _forms(headers: Headers) -> Mapping[Path, Mapping[str, set[Form]]]:
    """Return the forms of the names of slices, by folder and by SeriesInstanceUID."""
    places: dict[Path, dict[str, set[Form]]] = defaultdict(lambda: defaultdict(set))
    for uid, files in headers.series.items():
        for header in files:
            places[header.path.parent][uid].add(Form.of(header.path))
    return places


def _candidates(headers: Headers) -> list[Suspect]:
    """Return the files without a header that are not known to be something else."""
    found = [Suspect(path, LINK) for path in sorted(headers.broken)]
    for path in sorted(headers.unmarked):
        if not _is_known(path):
            found.append(Suspect(path, _content(path)))
    return found


def _is_known(path: Path) -> bool:
    """Return whether a file is, by its name, no slice."""
    return path.name.upper() in NO_SLICE_NAMES or path.name.lower().endswith(NO_SLICES)


def _content(path: Path) -> str:
    """Return what is wrong with a file that is no DICOM."""
    try:
        with path.open("rb") as stream:
            start = stream.read(START)
    except OSError:  # removed or changed since its header was read
        return UNMARKED
    if not start:
        return EMPTY
    return UNMARKED if any(start) else ZEROS


def _owners(suspect: Suspect, beside: Mapping[str, set[Form]]) -> list[str]:
    """Return the series in the folder of a file to which it may belong.

    They are those whose slices have names like it, otherwise those with its suffix. A file
    without content may belong to any of them.
    """
    form = Form.of(suspect.path)
    similar = [uid for uid, forms in beside.items() if form in forms]
    if not similar and form.suffix:
        similar = [uid for uid, forms in beside.items() if form.suffix in _suffixes(forms)]
    if not similar and suspect.what in HOLLOW:
        return list(beside)
    return similar


def _suffixes(forms: Iterable[Form]) -> set[str]:
    return {form.suffix for form in forms}


def _is_suspect_elsewhere(suspect: Suspect, forms: set[Form]) -> bool:
    """Return whether a file that is beside no series may belong to one.

    Args:
        suspect: the file.
        forms: forms of the names of all slices.
    """
    if suspect.what == LINK or suspect.path.name.lower().endswith(DICOM_ENDINGS):
        return True
    return suspect.what in HOLLOW and Form.of(suspect.path) in forms
