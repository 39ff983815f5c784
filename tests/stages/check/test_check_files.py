"""``check`` reads the files of all cases, and reports all problems at once without a traceback."""

import gzip
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.check_files import AFFINE, SHAPE, Data
from support.stages import check

from hstf.cli import main
from hstf.experiment.layout import Layout
from hstf.imaging.scan import scan_file
from hstf.runtime.files import read_csv, sha256_file, write_text
from hstf.runtime.processes import ProcessDied
from hstf.stages.check import reading as reading_module


def test_check_accepts_a_valid_data_set(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 errors and 0 warnings in 6 cases." in data.warnings(capsys)
    layout = Layout.of(data.config())
    rows = read_csv(layout.check)
    assert [row["case_id"] for row in rows] == [f"p{i}" for i in range(6) for _ in range(2)]
    assert rows[0] == {
        "case_id": "p0",
        "level": "ok",
        "file": str(data.folder / "p0.nii.gz"),
        "found": "valid",
        "expected": "",
        "what_to_do": "",
        "shape": "9 x 8 x 7",
        "spacing": "1.50333 x 1.50333 x 3",
        "orientation": "LAS",
        "dtype": "int16",
        "sha256": sha256_file(data.folder / "p0.nii.gz"),
    }
    assert not layout.check.with_name("check_failed.csv").exists()


def test_check_reports_all_errors_at_once(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    (data.folder / "p0.nii.gz").unlink()
    broken = data.mask(1)
    broken[0, 0, :3] = 7
    data.image("p1_label.nii.gz", broken)
    (data.folder / "p2.nii.gz").write_bytes((data.folder / "p2.nii.gz").read_bytes()[:-30])
    (data.folder / "p3.nii.gz").write_text("a text")
    nan = data.scan(4).astype(np.float32)
    nan[0, 0, :2] = np.nan, np.inf
    data.image("p4.nii.gz", nan)
    data.image("p5.nii.gz", np.full(SHAPE, 3, np.int16))
    config = data.config()
    write_text(
        data.folder / "config.yaml",
        f"cases: {config.cases}\noutput: {config.output}\ncheck: {{workers: 1}}\n",
    )
    assert main(["check", "--config", str(data.folder / "config.yaml")]) == 1
    message = capsys.readouterr().err
    for sentence in (
        "hstf check: 6 errors and 0 warnings in 6 cases.",
        "p0.nii.gz: found: the file is missing",
        "p1_label.nii.gz: found: label values 7 (3 voxels); expected: only 0 (background), 1 ",
        "p2.nii.gz: found: truncated or damaged",
        "p3.nii.gz: found: is not gzip-compressed",
        "p4.nii.gz: found: 2 voxels that are NaN, infinite or above 3.4e38; expected: finite",
        "p5.nii.gz: found: a constant image: every voxel is 3; expected: an image with contrast.",
    ):
        assert sentence in message
    assert (
        message.index("\np0\n")
        < message.index("p0.nii.gz")
        < message.index("\np1\n")
        < message.index("p1_label")
    )
    layout = Layout.of(config)
    failed = layout.check.with_name("check_failed.csv")
    assert not layout.check.exists()
    rows = read_csv(failed)
    assert {row["case_id"] for row in rows if row["level"] == "error"} == {
        f"p{i}" for i in range(6)
    }
    assert len(rows) == 12


def test_check_keeps_only_the_table_of_the_last_run(data: Data) -> None:
    layout = Layout.of(data.config())
    failed = layout.check.with_name("check_failed.csv")
    valid = (data.folder / "p0.nii.gz").read_bytes()
    for _ in range(2):
        (data.folder / "p0.nii.gz").write_bytes(b"x")
        data.errors()
        assert failed.exists()
        assert not layout.check.exists()
        (data.folder / "p0.nii.gz").write_bytes(valid)
        check(data.config())
        assert layout.check.exists()
        assert not failed.exists()


def test_check_shows_a_warning_about_many_files_once(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(6):
        image = nib.load(data.folder / f"p{number}.nii.gz")
        image.header.set_xyzt_units("meter")
        nib.save(image, image.get_filename())
    message = data.warnings(capsys)
    assert "0 errors and 6 warnings" in message
    assert message.count("lengths in meter") == 1
    assert "warning: 6 files (" in message and "and more): found: lengths in meter" in message
    rows = read_csv(Layout.of(data.config()).check)
    assert [row["found"] for row in rows].count("lengths in meter") == 6


def test_check_finds_a_wrong_checksum(data: Data) -> None:
    """A bit of a stored block is flipped. No byte is missing, so that only the CRC shows it."""
    path = data.folder / "p0.nii.gz"
    packed = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    packed[-200] ^= 4
    path.write_bytes(packed)
    assert "CRC check failed" in data.errors()


def test_scan_file_in_blocks_equals_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hstf.imaging.scan.BLOCK_BYTES", 64)
    values = np.random.default_rng(0).normal(size=SHAPE).astype(">f4")
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii")
    found = scan_file(tmp_path / "a.nii", label=False)
    assert (found.minimum, found.maximum, found.non_finite) == (
        np.nanmin(values),
        np.nanmax(values),
        1,
    )
    assert found.sha256 == sha256_file(tmp_path / "a.nii")
    label = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.int32)
    nib.save(nib.Nifti1Image(label, AFFINE), tmp_path / "b.nii.gz")
    counts = {str(value): int((label == value).sum()) for value in range(4)}
    assert scan_file(tmp_path / "b.nii.gz", label=True).values == counts


def test_scan_file_counts_values_beyond_float32(tmp_path: Path) -> None:
    values = np.ones(SHAPE)
    values[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii")
    assert scan_file(tmp_path / "a.nii", label=False).non_finite == 1


def test_scan_file_does_not_unpack_a_gzip_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hstf.imaging.stored_voxels.MAXIMUM_EXTRA_BYTES", 8 << 20)
    nib.save(nib.Nifti1Image(Data.scan(0), AFFINE), tmp_path / "a.nii")
    bomb = gzip.compress((tmp_path / "a.nii").read_bytes() + bytes(64 << 20), 1)
    (tmp_path / "a.nii.gz").write_bytes(bomb)
    found = scan_file(tmp_path / "a.nii.gz", label=False)
    assert found.extra_bytes <= 16 << 20
    assert found.sha256 == sha256_file(tmp_path / "a.nii.gz")


def test_check_does_not_read_unchanged_files_again(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    first = check(data.config())
    assert "12 files read, 0 unchanged" in capsys.readouterr().out
    assert check(data.config()) == first
    assert "0 files read, 12 unchanged" in capsys.readouterr().out
    data.image("p0.nii.gz", data.scan(77))
    check(data.config())
    assert "1 files read, 11 unchanged" in capsys.readouterr().out
    assert "only 0 (background), 9 (liver)" in data.errors(labels={"liver": 9})  # from the cache
    assert "0 files read, 12 unchanged" in capsys.readouterr().out


def test_check_reads_voxels_in_another_file_again(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sitk.ReadImage(str(data.folder / "p0.nii.gz"))
    sitk.WriteImage(image, str(data.folder / "p0.mhd"))
    data.rows[0]["image"] = "p0.mhd"
    assert "0 errors and 0 warnings" in data.warnings(capsys)
    content = bytearray((data.folder / "p0.raw").read_bytes())
    content[0] ^= 1
    (data.folder / "p0.raw").write_bytes(content)
    assert "1 files read, 11 unchanged" in data.warnings(capsys)
    (data.folder / "p0.raw").unlink()
    assert "it must name one file with the voxels" in data.errors()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"version": 1, "files": {}}', '{"version": 2}']
)
def test_check_ignores_a_damaged_cache(
    data: Data, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first = check(data.config())
    (Layout.of(data.config()).root / ".check_cache.json").write_text(content)
    capsys.readouterr()
    assert check(data.config()) == first
    assert "12 files read" in capsys.readouterr().out


def test_check_reads_files_with_problems_again(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    (data.folder / "p0.nii.gz").unlink()
    data.errors()
    data.errors()
    assert "1 files read, 11 unchanged" in capsys.readouterr().out


def killed_reading(task: tuple[Path, bool]) -> object:
    return ProcessDied() if task[0].name == "p3.nii.gz" else scan_file(*task)


def test_check_reports_a_file_whose_process_was_killed(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "_scan", killed_reading)
    message = data.errors()
    assert (
        "p3.nii.gz: found: the process that read the file was killed, most likely because"
        in message
    )


def run_command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_runs_in_several_processes(tmp_path: Path) -> None:
    """Run the command in a new process with two workers."""
    data = Data(tmp_path)
    (tmp_path / "p5.nii.gz").write_bytes(b"\x1f\x8b nothing")
    config = data.config()
    text = f"cases: {config.cases}\noutput: {config.output}\ncheck: {{workers: 2}}\n"
    write_text(tmp_path / "config.yaml", text)
    done = run_command(["check", "--config", str(tmp_path / "config.yaml")])
    assert done.returncode == 1
    assert "1 errors and 0 warnings in 6 cases" in done.stderr
    assert "Traceback" not in done.stderr
    assert "check: 12/12" in done.stderr
