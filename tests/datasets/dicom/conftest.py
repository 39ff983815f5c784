"""A folder of DICOM files for each test."""

from pathlib import Path

import pytest
from support.dicom_series import FOLDER_WITH_NAME


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return an empty folder of DICOM files, whose subfolder has the name of a patient."""
    folder = tmp_path / "scans" / FOLDER_WITH_NAME
    folder.mkdir(parents=True)
    return folder
