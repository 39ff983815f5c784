"""The step that installs the three-dimensional viewer of the audit desk."""

import stat
from pathlib import Path

import pytest

from hstf.audit import vendor
from hstf.runtime.errors import HstfError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Install into an empty folder, with programs of another one."""
    for name in ("VIEWER", "LOCK", "LICENCE"):
        monkeypatch.setattr(vendor, name, tmp_path / "vendor" / getattr(vendor, name).name)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def write_npm(folder: Path, script: str) -> None:
    npm = folder / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)


def test_missing_npm_is_reported_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    assert not vendor.is_installed()
    assert vendor.main() == 1
    message = capsys.readouterr().err
    assert "npm was not found" in message
    assert "python -m hstf.audit.vendor" in message


def test_failing_npm_leaves_nothing(folder: Path) -> None:
    write_npm(folder, "echo 'checksum does not match' >&2; exit 1")
    with pytest.raises(HstfError, match="checksum does not match"):
        vendor.install()
    assert not vendor.is_installed()
    assert not vendor.VIEWER.exists()


def test_viewer_is_installed_once_and_again_after_a_new_lock_file(folder: Path) -> None:
    dist = "node_modules/@niivue/niivue/dist"
    write_npm(
        folder, f"mkdir -p {dist} && echo viewer > {dist}/niivue.umd.js && echo x >> {folder}/calls"
    )
    assert vendor.main() == 0
    assert vendor.main() == 0
    assert vendor.VIEWER.read_text() == "viewer\n"
    assert "BSD 2-Clause" in vendor.LICENCE.read_text()
    vendor.LOCK.write_text("another version")
    assert vendor.main() == 0
    assert (folder / "calls").read_text() == "x\nx\n"
