"""Volumes in two files: a header, and a file with the voxels, whose content counts as well.

The formats are MetaImage (.mhd), NRRD (.nhdr), and NIfTI or Analyze pairs (.hdr and .img). The name
in a header may lead to any file of the machine. So only a plain name in the folder of the header is
accepted.
"""

import re
from pathlib import Path

HEADERS = (".mhd", ".nhdr", ".hdr")
"""Suffixes of headers whose voxels are in another file."""
MAXIMUM_TEXT_BYTES = 1 << 20
"""Upper bound for the length of a header."""
NAMED_FILE = {
    ".mhd": re.compile(rb"(?m)^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*?)[ \t]*\r?$"),
    ".nhdr": re.compile(rb"(?m)^[ \t]*data[ \t]*file[ \t]*:[ \t]*([^\r\n]*?)[ \t]*\r?$"),
}
"""The line of a header that names the file with the voxels."""
MENTION = {
    ".mhd": re.compile(rb"(?i)elementdatafile"),
    ".nhdr": re.compile(rb"(?im)^[ \t]*data[ \t]*file[ \t]*:"),
}
"""Everything that a reader could take for such a line."""
NO_FILE = re.compile(r"(?i)(?:list\b.*|local)|.*[/\\%\0].*|\.*")
"""What is no plain name: a list or pattern of files, or a path."""


def is_header(path: Path) -> bool:
    """Return whether a file, by its name, is a header without voxels."""
    return path.suffix.lower() in HEADERS


def voxel_file(path: Path) -> Path | None:
    """Return the file with the voxels of a header.

    Returns:
        A file beside the header, or beside the file that a link leads to; None if ``path`` is no
        such header, if it does not name a file in its folder, or if this file does not exist.
    """
    if not is_header(path):
        return None
    suffix = path.suffix
    if suffix.lower() == ".hdr":
        names = [path.with_suffix(".IMG" if suffix.isupper() else ".img").name]
    else:
        names = _named_files(path, suffix.lower())
    for name in names:
        for folder in (path.parent, path.resolve().parent):
            if (folder / name).is_file():
                return folder / name
    return None


def _named_files(path: Path, suffix: str) -> list[str]:
    """Return the name of the file with the voxels in a list, or an empty list."""
    try:
        with path.open("rb") as stream:
            text = stream.read(MAXIMUM_TEXT_BYTES)
    except OSError:
        return []
    # A comment of NRRD may end in a carriage return, as some readers see it.
    mentions = MENTION[suffix].findall(text.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    lines = NAMED_FILE[suffix].findall(text)
    if len(mentions) != 1 or len(lines) != 1:
        return []
    name = lines[0].decode("utf-8", errors="surrogateescape")
    return [] if NO_FILE.fullmatch(name) else [name]
