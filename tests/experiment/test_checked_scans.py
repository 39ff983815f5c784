"""Scans that were changed after the check are refused, or named if they are test scans."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.damage import flip_bit

from hstf.config.experiment import Config
from hstf.experiment.checked_scans import refuse_unchecked, unchecked, warn_of_unchecked_scans
from hstf.experiment.layout import Layout
from hstf.experiment.scan_tables import CHECK
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


def test_refuse_unchecked_names_a_scan_with_a_flipped_bit(layout: Layout, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii"
    refuse_unchecked(layout, {scan: sha256_file(scan)})
    flip_bit(scan)
    with pytest.raises(HstfError, match=r"Run the check stage(?s:.*)scan\.nii: was changed after"):
        refuse_unchecked(layout, {scan: sha256_file(scan)})


def test_unchecked_accepts_new_scans_only_if_another_experiment_checked(
    layout: Layout, tmp_path: Path
) -> None:
    new = tmp_path / "new.nii"
    new.write_bytes(b"x")
    digests = {new: sha256_file(new)}
    assert unchecked(layout, digests) == [f"{new}: was not there when scans were checked"]
    reusing = replace(layout, root=tmp_path / "other")
    assert unchecked(reusing, digests) == []
    scan = tmp_path / "scan.nii"
    flip_bit(scan)
    digests[scan] = sha256_file(scan)
    assert unchecked(reusing, digests) == [f"{scan}: was changed after it was checked"]


def test_warn_of_unchecked_scans_lets_a_corrected_test_label_pass(
    layout: Layout, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan = tmp_path / "scan.nii"
    warn_of_unchecked_scans(layout, [scan])
    assert capsys.readouterr().err == ""
    scan.write_bytes(b"corrected")
    warn_of_unchecked_scans(layout, [scan])
    assert "scan.nii: was changed after it was checked. It is scored" in capsys.readouterr().err
