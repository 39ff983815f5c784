"""What the case sheet has of a case: its files, and the other cases of its patient."""

from pathlib import Path

from hstf.runtime.files import read_sheet
from hstf.runtime.home import at_home
from hstf.runtime.voxel_files import voxel_file

NO_SCANS = ("split", "group", "site")
"""Columns of the case sheet with neither an id nor a file."""


def scans_in_sheet(sheet: Path, case: str) -> list[Path]:
    """Return the files in the row of a case of the sheet, with those of the voxels of headers."""
    scans = []
    for row in _sheet_rows(sheet):
        if row.get("case_id") != case:
            continue
        for column, cell in row.items():
            path = sheet.parent / at_home(cell)
            if column not in ("case_id", *NO_SCANS, "") and path.is_file():
                voxels = voxel_file(path)
                scans += [path] if voxels is None else [path, voxels]
    return scans


def _sheet_rows(sheet: Path) -> list[dict[str, str]]:
    if not sheet.is_file():
        return []
    return [row for _, row in read_sheet(sheet, ("case_id", *NO_SCANS))[1]]


def others_of_patient(sheet: Path, case: str) -> list[str]:
    """Return the other cases with the group of the case; a case without one is its own group."""
    rows = _sheet_rows(sheet)
    groups = {
        row["case_id"]: row.get("group") or row["case_id"] for row in rows if "case_id" in row
    }
    if case not in groups:
        return []
    return [other for other in groups if other != case and groups[other] == groups[case]]
