"""Scans that were changed or damaged after the check are refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.damage import flip_bit

from hstf.config.experiment import Config
from hstf.experiment.checked_scans import refuse_changed_scans
from hstf.experiment.layout import Layout
from hstf.experiment.tables import CHECK
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Return an experiment that has checked a scan without compression, which has no checksum."""
    scan = tmp_path / "scan.nii"
    scan.write_bytes(bytes(5000))
    layout = Layout.of(Config(output=str(tmp_path / "results")))
    rows = [{"case_id": "a", "level": "ok", "file": str(scan), "sha256": sha256_file(scan)}]
    CHECK.write(layout.check, rows)
    return layout


def test_refuse_changed_scans_names_a_scan_with_a_flipped_bit(
    layout: Layout, tmp_path: Path
) -> None:
    scan = tmp_path / "scan.nii"
    refuse_changed_scans(layout, [scan])
    flip_bit(scan)
    with pytest.raises(HstfError, match=r"Run the check stage(?s:.*)scan\.nii: was changed after"):
        refuse_changed_scans(layout, [scan])


def test_refuse_changed_scans_accepts_new_scans_only_if_another_experiment_checked(
    layout: Layout, tmp_path: Path
) -> None:
    new = tmp_path / "new.nii"
    new.write_bytes(b"x")
    with pytest.raises(HstfError, match=r"new\.nii: was not there when scans were checked"):
        refuse_changed_scans(layout, [new])
    reusing = replace(layout, root=tmp_path / "other")
    refuse_changed_scans(reusing, [new])
    flip_bit(tmp_path / "scan.nii")
    with pytest.raises(HstfError, match=r"scan\.nii: was changed"):
        refuse_changed_scans(reusing, [new, tmp_path / "scan.nii"])
