"""Text in the header of a scan, which may identify a patient.

Scanners and converters write names, numbers and dates of patients into free text. Nothing that hstf
writes has such text. No text is stored or shown either, only the names of the fields that have it.
"""

import io
import re
from pathlib import Path

import nibabel as nib

TEXT_FIELDS = ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str")
"""Fields for free text, in NIfTI-1 or NIfTI-2."""
EXTENSION_PREFIX = 8
"""Bytes of size and code before the content of an extension."""
GZIP_MAGIC = b"\x1f\x8b"
GZIP_START = 4
"""Bytes of the header of a compressed file up to its flags."""
GZIP_TEXT_FLAGS = 0x04 | 0x08 | 0x10
"""Flags of an extra field, of a file name and of a comment."""
READABLE = re.compile(rb"[\x20-\x7e\xa0-\xff]{4,}")
"""Some characters in a row; less is no text."""
HARMLESS = re.compile(
    r"\b(?:TE|TR|TI|FA|Time|phase|mb|dwell)=[\d.]+|\bFSL[\d.:a-f]*|\bSPM\d*|\bITK[\d.]*",
    re.IGNORECASE,
)
"""What converters and programs write: protocol, time of the day, version."""
IDENTIFYING = re.compile(
    r"\w\^\w"  # Doe^John, as in DICOM
    r"|patient|\b(?:name|birth|dob|born|mrn|ssn|accession|physician|subject)\b"
    r"|\b(?:19|20)\d\d[-./]?[01]\d[-./]?[0-3]\d"  # a date
    r"|\b[0-3]?\d[-./][01]?\d[-./](?:19|20)\d\d\b"
    r"|(?:\d[ -]?){6,}",  # a number of a patient
    re.IGNORECASE,
)


def remove_text(header: nib.Nifti1Header) -> None:
    """Blank the text fields of a header and remove its extensions, in place."""
    for field in _text_fields(header):
        header[field] = b""
    header.extensions.clear()
    header.set_data_offset(0)


def has_text(header: nib.Nifti1Header) -> bool:
    """Return whether a header has any text or extension."""
    if header.extensions:
        return True
    return any(bytes(header[field].item()).strip(b"\0 ") for field in _text_fields(header))


def has_gzip_text(path: Path) -> bool:
    """Return whether the header of a compressed file has a name, a comment or another field.

    ``gzip`` stores the name that a file had when it was compressed (RFC 1952).
    """
    with path.open("rb") as stream:
        start = stream.read(GZIP_START)
    is_compressed = len(start) == GZIP_START and start[:2] == GZIP_MAGIC
    return is_compressed and bool(start[3] & GZIP_TEXT_FLAGS)


def identifying_fields(header: nib.Nifti1Header) -> tuple[str, ...]:
    """Return the fields and extensions of a header whose text may identify a patient.

    Extensions and ``db_name`` with any text count, other fields only if the text looks like a name,
    a date or the number of a patient.
    """
    found = []
    for field in _text_fields(header):
        text = bytes(header[field].item()).decode(errors="replace").strip("\0 ")
        if text and (field == "db_name" or looks_identifying(text)):
            found.append(field)
    for extension in header.extensions:
        if READABLE.search(_content(extension)):
            found.append(f"extension {extension.get_code()}")
    return tuple(dict.fromkeys(found))


def looks_identifying(text: str) -> bool:
    """Return whether a text has something like a name, a date or the number of a patient.

    Example:
        >>> looks_identifying("TE=3.4;Time=104512.000;phase=1")
        False
        >>> looks_identifying("DOE^JOHN 1961-04-02")
        True
    """
    return IDENTIFYING.search(HARMLESS.sub("", text)) is not None


def _text_fields(header: nib.Nifti1Header) -> list[str]:
    names = header.template_dtype.names or ()
    return [field for field in TEXT_FIELDS if field in names]


def _content(extension: nib.nifti1.Nifti1Extension) -> bytes:
    """Return the bytes of an extension as they are in the file."""
    stream = io.BytesIO()
    extension.write_to(stream, byteswap=False)
    return stream.getvalue()[EXTENSION_PREFIX:]
