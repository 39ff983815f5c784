"""``dicom.csv``: from case to DICOM series, so that results can go back.

Names of cases are keyed hashes (HMAC) of identifiers. The key is the column ``salt``: without the
file nobody can find a patient by trying all numbers, and with it every scan has the same
name in a second import. The file is readable by its owner only.
"""

import hmac
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hstf.experiment.scan_tables import DICOM_SERIES
from hstf.runtime.errors import HstfError
from hstf.runtime.files import make_folder

FILE = "dicom.csv"
PRIVATE = 0o600
PATIENT_DIGITS = 12
"""Hexadecimal digits of the name of a patient."""
SERIES_DIGITS = 8
"""Hexadecimal digits of the name of a series; only those of one patient must differ."""

Row = dict[str, Any]


@dataclass
class SeriesTable:
    """The rows of ``dicom.csv``."""

    salt: str = field(default_factory=lambda: secrets.token_hex(16))
    """Key of the names, 128 random bits."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Row of each series by SeriesInstanceUID."""

    @classmethod
    def read(cls, path: Path) -> "SeriesTable":
        """Read the file.

        Raises:
            HstfError: if it is missing, or damaged.
        """
        if not path.is_file():
            raise HstfError(
                f"{path}: is missing. hstf import dicom writes it; without it, no result can go"
                " back to its series."
            )
        rows = DICOM_SERIES.records(path)
        salts = {row["salt"] for row in rows}
        if len(salts) != 1 or not all(salts):
            raise HstfError(
                f"{path}: the column 'salt' has {len(salts)} values, expected one in all rows."
                " Restore the file from a copy. In another import without it, scans have other"
                " names."
            )
        return cls(salts.pop(), {row["series_uid"]: row for row in rows})

    @classmethod
    def opened(cls, path: Path) -> "SeriesTable":
        """Read the file if it exists, otherwise return a table with a new key."""
        return cls.read(path) if path.is_file() else cls()

    def write(self, path: Path) -> None:
        """Write the file, which only its owner can read at any time."""
        make_folder(path.parent)
        mask = os.umask(0o777 & ~PRIVATE)
        try:
            DICOM_SERIES.write(path, [row | {"salt": self.salt} for row in self.rows.values()])
        finally:
            os.umask(mask)

    def by_case(self) -> dict[str, Row]:
        """Return the rows of imported series by case."""
        return {row["case_id"]: row for row in self.rows.values() if row["case_id"]}

    def patient(self, identifier: str) -> str:
        """Return the name of a patient: ``p`` and a hash of the PatientID."""
        return f"p{self._hash('patient', identifier)[:PATIENT_DIGITS]}"

    def series(self, uid: str) -> str:
        """Return the name of a series: ``s`` and a hash of the SeriesInstanceUID."""
        return f"s{self._hash('series', uid)[:SERIES_DIGITS]}"

    def _hash(self, kind: str, text: str) -> str:
        return hmac.digest(bytes.fromhex(self.salt), f"{kind}:{text}".encode(), "sha256").hex()


def folders_of(rows: Iterable[Row]) -> list[Path]:
    """Return the folders of series, each once."""
    return sorted({Path(row["folder"]) for row in rows})
