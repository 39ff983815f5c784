"""Imports of DICOM series, and what they have written."""

import csv
import gzip
from pathlib import Path

import nibabel as nib
import pytest

from hstf.cli import main
from hstf.experiment.scan_tables import DICOM_SERIES
from support.dicom_series import SECRETS, Scan

Capture = pytest.CaptureFixture[str]


def import_dicom(source: Path, *options: str, code: int = 0) -> Path:
    """Import the folder of a fixture and return the folder of the images."""
    target = source.parents[1] / "converted"
    arguments = ["import", "dicom", str(source.parent), "--extract", str(target), *options]
    assert main(arguments) == code
    return target


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def image_of(target: Path, scan: Scan) -> nib.Nifti1Image:
    rows = {row["series_uid"]: row for row in DICOM_SERIES.records(target / "dicom.csv")}
    return nib.load(target / "images" / f"{rows[scan.series_uid]['case_id']}.nii.gz")


def assert_nothing_identifies(text: str, folder: Path, scans: list[Scan]) -> None:
    """Check all bytes of messages and files; only the mapping may identify a patient."""
    uids = [uid for scan in scans for uid in (scan.series_uid, scan.study_uid)]
    contents = {"messages": text.encode()}
    for path in folder.rglob("*"):
        contents[f"name of {path}"] = str(path.relative_to(folder)).encode()
        if path.is_file() and path.name != "dicom.csv":
            content = path.read_bytes()
            contents[str(path)] = content
            if path.name.endswith(".gz"):
                contents[f"{path} unpacked"] = gzip.decompress(content)
    for place, content in contents.items():
        for secret in (*SECRETS, *uids):
            assert secret.encode() not in content.lower(), f"{secret} in {place}"
