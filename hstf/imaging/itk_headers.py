"""What the text of a MetaImage or NRRD header states about size, orientation, unit and modality.

ITK replaces what is missing by defaults: 1 mm, axes along LPS, millimetres. It does not report it.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MAXIMUM_TEXT_BYTES = 1 << 20
"""Upper bound for the text before the voxels of a file."""
UNITS = {
    "mm": ("mm", "millimeter", "millimeters", "millimetre", "millimetres"),
    "cm": ("cm", "centimeter", "centimeters"),
    "meter": ("m", "meter", "meters", "metre", "metres"),
    "micron": ("um", "µm", "micron", "microns", "micrometer", "micrometers"),
}
"""Names of units, by the name that NIfTI has for them."""
NRRD_SPACES = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")
"""Spaces whose axes ITK converts; it takes any other space for the first one."""
NRRD_SHORT_SPACES = {"lps": NRRD_SPACES[0], "ras": NRRD_SPACES[1], "las": NRRD_SPACES[2]}
METAIMAGE_MODALITIES = {
    "MET_MOD_CT": "ct",
    "MET_MOD_MR": "mr",
    "MET_MOD_US": "us",
    "MET_MOD_NM": "pet",
}
METAIMAGE_DEFAULT = "RAI"
"""Anatomical orientation of axes along LPS, as MetaImage names it."""
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class ItkHeader:
    """What a header states, and what it leaves out."""

    unit: str
    """``mm``, ``cm``, ``meter`` or ``micron``; another text as it is. Mm if it is missing."""
    has_spacing: bool
    """Whether it states voxel sizes."""
    has_orientation: bool
    """Whether it states the directions of the axes in the patient."""
    modality: str = ""
    """``ct``, ``mr``, ``us``, ``pet``, or empty if it is not stated."""


def read_itk_header(path: Path) -> ItkHeader:
    """Read the text of a MetaImage (.mha, .mhd) or NRRD (.nrrd, .nhdr) header.

    Raises:
        OSError: if the file cannot be read.
    """
    with path.open("rb") as stream:
        text = stream.read(MAXIMUM_TEXT_BYTES).decode("latin-1")
    if path.suffix.lower() in (".nrrd", ".nhdr"):
        return _nrrd_header(text)
    return _metaimage_header(text)


def _nrrd_header(text: str) -> ItkHeader:
    header = re.split(r"\r?\n\r?\n", text, maxsplit=1)[0]
    fields = _fields(header.splitlines(), ":")
    space = fields.get("space", "").lower()
    space = NRRD_SHORT_SPACES.get(space, space).removesuffix("-time")
    directions = fields.get("space directions", "")
    stated = directions or fields.get("spacings", "")
    units = re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", "")))
    return ItkHeader(
        unit=_unit(units),
        has_spacing=any(math.isfinite(value) and value for value in _numbers(stated)),
        has_orientation=space in NRRD_SPACES and bool(directions),
        modality=_nrrd_modality(fields),
    )


def _nrrd_modality(fields: dict[str, str]) -> str:
    """Return the modality that DICOM converters copy into key-value pairs (``key:=value``)."""
    for name, value in fields.items():
        if name.startswith(("modality", "dicom.modality", "0008|0060", "dicom_0008_0060")):
            return _dicom_modality(value.lstrip("="))
    return ""


def _dicom_modality(text: str) -> str:
    kind = text.strip().lower()
    return {"pt": "pet", "nm": "pet"}.get(kind, kind if kind in ("ct", "mr", "us", "pet") else "")


def _metaimage_header(text: str) -> ItkHeader:
    header = text.split("ElementDataFile", 1)[0]
    fields = _fields(header.splitlines(), "=")
    named = fields.get("anatomicalorientation", METAIMAGE_DEFAULT).upper()
    has_matrix = any(name in fields for name in ("transformmatrix", "orientation", "rotation"))
    is_default = "anatomicalorientation" in fields and named == METAIMAGE_DEFAULT
    unit = fields.get("distanceunits", "")
    return ItkHeader(
        unit=_unit([unit]),
        has_spacing="elementspacing" in fields or "elementsize" in fields,
        has_orientation=has_matrix or is_default,
        modality=METAIMAGE_MODALITIES.get(fields.get("modality", "").upper(), ""),
    )


def _fields(lines: Iterable[str], separator: str) -> dict[str, str]:
    """Return the values of a header by their names in small letters."""
    fields = {}
    for line in lines:
        name, found, value = line.partition(separator)
        if found:
            fields[name.strip().lower()] = value.strip()
    return fields


def _numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


def _unit(names: Iterable[str]) -> str:
    for name in names:
        stated = name.strip()
        for unit, spellings in UNITS.items():
            if stated.lower() in spellings:
                return unit
        if stated and stated != "?":
            return stated[:20]
    return "mm"
