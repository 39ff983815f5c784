"""Every fault of every case is found in one go, named, and costs nobody a traceback."""

import gzip
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.check_files import AFFINE, SHAPE, Data
from support.stages import check

from hstf.cli import main
from hstf.experiment.layout import Layout
from hstf.imaging.affines import corner_distance
from hstf.imaging.scan import scan_file
from hstf.runtime.files import read_csv, sha256_file, write_text
from hstf.runtime.processes import ProcessDied
from hstf.stages.check import reading as reading_module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """The data set; scans run in this process, which is quicker than starting another."""

    def in_process(function, items, workers):  # type: ignore[no-untyped-def]
        return ((item, function(item)) for item in items)

    monkeypatch.setattr(reading_module, "map_processes", in_process)
    return Data(tmp_path)


def test_a_sound_data_set(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    assert "0 errors and 0 warnings in 6 cases." in data.warnings(capsys)
    layout = Layout.of(data.config())
    rows = read_csv(layout.check)
    assert [row["case_id"] for row in rows] == [f"p{i}" for i in range(6) for _ in range(2)]
    assert rows[0] == {
        "case_id": "p0", "level": "ok", "file": str(data.folder / "p0.nii.gz"), "found": "sound", "expected": "",
        "what_to_do": "", "shape": "9 x 8 x 7", "spacing": "1.50333 x 1.50333 x 3", "orientation": "LAS",
        "dtype": "int16", "sha256": sha256_file(data.folder / "p0.nii.gz"),
    }  # fmt: skip
    assert not layout.check.with_name("check_failed.csv").exists()


def test_all_faults_in_one_report(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
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
    told = capsys.readouterr().err
    for sentence in (
        "hstf check: 6 errors and 0 warnings in 6 cases.",
        "p0.nii.gz: found: the file is missing",
        "p1_label.nii.gz: found: label values 7 (3 voxels); expected: only 0 (background), 1 (foreground).",
        "p2.nii.gz: found: truncated or damaged",
        "p3.nii.gz: found: is not gzip-compressed",
        "p4.nii.gz: found: 2 voxels that are NaN or infinite; expected: finite values.",
        "p5.nii.gz: found: a constant image: every voxel is 3; expected: a scan with contrast.",
    ):
        assert sentence in told
    assert (
        told.index("\np0\n")
        < told.index("p0.nii.gz")
        < told.index("\np1\n")
        < told.index("p1_label")
    )
    layout = Layout.of(config)
    failed = layout.check.with_name("check_failed.csv")
    assert not layout.check.exists()
    rows = read_csv(failed)
    assert {row["case_id"] for row in rows if row["level"] == "error"} == {
        f"p{i}" for i in range(6)
    }
    assert len(rows) == 12


def test_a_success_removes_the_failure_and_the_other_way_round(data: Data) -> None:
    layout = Layout.of(data.config())
    failed = layout.check.with_name("check_failed.csv")
    sound = (data.folder / "p0.nii.gz").read_bytes()
    for content, there, gone in ((b"x", failed, layout.check), (sound, layout.check, failed)) * 2:
        (data.folder / "p0.nii.gz").write_bytes(content)
        if there is failed:
            data.faults()
        else:
            check(data.config())
        assert there.exists()
        assert not gone.exists()


def test_geometry_of_the_label(data: Data) -> None:
    data.image("p0_label.nii.gz", data.mask(0)[:-1])
    moved = AFFINE.copy()
    moved[2, 3] += 0.5
    data.image("p1_label.nii.gz", data.mask(1), moved)
    nearly = AFFINE.copy()
    nearly[0, 0] += 0.001  # 8 voxels on: 0.008 mm
    data.image("p2_label.nii.gz", data.mask(2), nearly)
    told = data.faults()
    assert (
        "p0_label.nii.gz: found: shape 8 x 8 x 7; expected: shape 9 x 8 x 7 as in p0.nii.gz (image)."
        in told
    )
    assert (
        "up to 0.5 mm away from those of p1.nii.gz (image); expected: at most 0.01 mm (check.affine_tol"
        in told
    )
    assert "2 errors" in told
    assert "3 errors" in data.faults(check={"workers": 1, "affine_tolerance_mm": 0.005})


def test_channels_of_different_grids(data: Data) -> None:
    for number, row in enumerate(data.rows):
        row["flair"] = f"flair{number}.nii.gz"
        data.image(row["flair"], data.scan(number + 50))
    data.image("flair3.nii.gz", data.scan(53)[:, :, :4])
    told = data.faults(modalities={"image": "mr", "flair": "mr"})
    assert "1 errors" in told
    assert (
        "flair3.nii.gz: found: shape 9 x 8 x 4; expected: shape 9 x 8 x 7 as in p3.nii.gz (image)"
        in told
    )


def test_corner_distance_of_a_rotation() -> None:
    """A turn by t about z moves the far corner at radius r by 2 r sin(t/2)."""
    turn = 0.01
    rotated = np.eye(4)
    rotated[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    distance = corner_distance(np.eye(4), rotated, (101, 101, 5))
    assert distance == pytest.approx(2 * np.hypot(100, 100) * np.sin(turn / 2))


def test_four_dimensions_and_singular_affines(data: Data) -> None:
    data.image("p0.nii.gz", np.stack([data.scan(0)] * 2, axis=-1))
    content = bytearray(gzip.decompress((data.folder / "p1.nii.gz").read_bytes()))
    content[280:296] = bytes(16)
    (data.folder / "p1.nii.gz").write_bytes(gzip.compress(content))
    told = data.faults()
    assert "p0.nii.gz: found: has shape (9, 8, 7, 2), expected three axes" in told
    assert "p1.nii.gz: found: the affine is singular" in told


def test_patients_on_both_sides(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.rows[0]["group"] = data.rows[2]["group"] = "anna"
    told = data.warnings(capsys)
    assert "2 warnings" in told
    assert "patient anna is labelled here and elsewhere in p2 (unlabelled)" in told
    data.rows[4]["group"] = "anna"
    assert "patient anna is labelled (p0) and unlabelled (p2) and test (p4)" in data.faults()


def test_the_same_file_twice(data: Data) -> None:
    data.rows[5]["image"] = "./p0.nii.gz"
    recompressed = gzip.compress(
        gzip.decompress((data.folder / "p1.nii.gz").read_bytes()), 9, mtime=1
    )
    (data.folder / "p2.nii.gz").write_bytes(recompressed)
    told = data.faults()
    assert f"the same file as in p5 (image: {data.folder / 'p0.nii.gz'})" in told
    assert (
        f"p2.nii.gz: found: the same voxels as in p1 (image: {data.folder / 'p1.nii.gz'})" in told
    )
    assert "4 errors" in told


def test_labels_may_agree_when_empty_and_by_chance(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("p2_label.nii.gz", "p3_label.nii.gz"):
        data.image(name, np.zeros(SHAPE, np.uint8))
    assert "0 warnings" in data.warnings(capsys)
    data.image("p5_label.nii.gz", data.mask(4))
    assert "2 warnings" in data.warnings(capsys)
    data.rows[5]["label"] = "p4_label.nii.gz"
    assert "the same file as in p4 (label" in data.faults()


def test_the_label_in_place_of_the_image(data: Data) -> None:
    data.rows[0]["image"] = data.rows[0]["label"]
    assert "the same file as in p0 (label: " in data.faults()


def test_labels(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.image("p0_label.nii.gz", np.zeros(SHAPE, np.uint8))
    data.image(
        "p1_label.nii.gz", data.mask(1).astype(np.float64)
    )  # whole numbers of any type will do
    data.image("p4_label.nii.gz", np.zeros(SHAPE, np.uint8))  # a test case may be empty
    told = data.warnings(capsys)
    assert "0 errors and 1 warnings" in told
    assert "p0_label.nii.gz: found: an empty label in a labelled case" in told
    odd = data.mask(2).astype(np.float32)
    odd[0, 0, :5] = [0.5, -1, np.nan, 255, 300]
    data.image("p2_label.nii.gz", odd)
    each = ", ".join(f"{value} (1 voxels)" for value in ("-1", "0.5", "255", "300", "nan"))
    assert f"label values {each}; expected: only 0 (background), 1 (foreground)" in data.faults()
    odd[0, 0, :5] = 255
    data.image("p2_label.nii.gz", odd)
    check(data.config(labels={"foreground": 1, "ignore": 255}))
    data.image("p2_label.nii.gz", data.scan(9).astype(np.float32) + 0.25)
    assert "and perhaps more" in data.faults()


def test_scribbles(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"labels": {"foreground": 1, "rim": 2, "ignore": 255}}
    for number in (0, 1):
        scribbles = np.full(SHAPE, 255, np.uint8)
        scribbles[2, 3 + number, 1:4] = 1
        data.image(f"p{number}_label.nii.gz", scribbles)
    check(data.config(**config))
    told = capsys.readouterr().out
    assert "0 errors and 2 warnings" in told
    assert "no labelled case with a voxel of background (0)" in told
    assert "no labelled case with a voxel of rim (2)" in told
    data.image("p1_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    data.image("p4_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    faults = data.faults(**config)
    assert (
        faults.count("a label in which every voxel is to be ignored") == 2 and "2 errors" in faults
    )


def header_edit(path: Path, place: int, content: bytes) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[place : place + len(content)] = content
    path.write_bytes(gzip.compress(raw))


def test_odd_geometry(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    thick = np.diag([1, 1, 25, 1])
    for name, array in (("p0.nii.gz", data.scan(0)), ("p0_label.nii.gz", data.mask(0))):
        data.image(name, array, thick)
    for name, array in (("p1.nii.gz", data.scan(1)), ("p1_label.nii.gz", data.mask(1))):
        data.image(name, array[:, :, :3])
    header_edit(data.folder / "p2.nii.gz", 80, struct.pack("<3f", -1, 0, 1))
    header_edit(data.folder / "p3.nii.gz", 123, b"\x01")  # metres
    header_edit(data.folder / "p4.nii.gz", 352 + 2 * int(np.prod(SHAPE)), b"tail")
    told = data.warnings(capsys)
    for sentence in (
        "p0.nii.gz: found: spacing 1 x 1 x 25 mm; expected: at most 20 mm.",
        "p1.nii.gz: found: shape 9 x 8 x 3; expected: at least 4 voxels along each axis.",
        "p2.nii.gz: found: voxel sizes -1 x 0 x 1 in the header (pixdim); expected: positive voxel sizes.",
        "p3.nii.gz: found: lengths in meter; expected: mm.",
        "p4.nii.gz: found: 4 bytes behind the last voxel; expected: no more than shape 9 x 8 x 7 needs.",
    ):
        assert sentence in told
    header_edit(data.folder / "p2.nii.gz", 252, struct.pack("<2h", 0, 0))
    told = data.faults()
    assert "There is no sform that could stand in" in told
    assert "neither sform nor qform" in told


def test_too_few_cases(data: Data) -> None:
    data.rows = data.rows[:1]
    told = data.faults()
    assert "labelled cases of 1 patients; expected: at least 2" in told
    assert "1 errors and 2 warnings" in told


def test_the_ceiling_of_a_benchmark_is_told(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    check(data.config(method="full"))
    told = capsys.readouterr().out
    assert "the withheld labels of the unlabelled cases are learned from" in told
    assert "unlabelled cases of 0 patients" in told


def test_a_damaged_checksum_is_found(data: Data) -> None:
    """The voxels of a stored block are flipped: all bytes are there, only the CRC tells."""
    path = data.folder / "p0.nii.gz"
    packed = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    packed[-200] ^= 4
    path.write_bytes(packed)
    assert "CRC check failed" in data.faults()


def test_scan_in_blocks_agrees_with_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_values_that_float32_cannot_hold(tmp_path: Path) -> None:
    values = np.ones(SHAPE)
    values[0, 0, 0] = 1e300
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "a.nii")
    assert scan_file(tmp_path / "a.nii", label=False).non_finite == 1


def test_a_gzip_bomb_behind_the_voxels_is_left_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hstf.imaging.scan.MAXIMUM_EXTRA_BYTES", 8 << 20)
    nib.save(nib.Nifti1Image(Data.scan(0), AFFINE), tmp_path / "a.nii")
    bomb = gzip.compress((tmp_path / "a.nii").read_bytes() + bytes(64 << 20), 1)
    (tmp_path / "a.nii.gz").write_bytes(bomb)
    found = scan_file(tmp_path / "a.nii.gz", label=False)
    assert found.extra_bytes <= 16 << 20
    assert found.sha256 == sha256_file(tmp_path / "a.nii.gz")


def test_unchanged_files_are_not_read_again(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    first = check(data.config())
    assert "12 files read, 0 unchanged" in capsys.readouterr().out
    assert check(data.config()) == first
    assert "0 files read, 12 unchanged" in capsys.readouterr().out
    data.image("p0.nii.gz", data.scan(77))
    check(data.config())
    assert "1 files read, 11 unchanged" in capsys.readouterr().out
    assert "only 0 (background), 9 (liver)" in data.faults(labels={"liver": 9})  # from what is kept
    assert "0 files read, 12 unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", '{"version": 1, "files": {}}', '{"version": 2}']
)
def test_a_torn_cache_is_none(data: Data, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    first = check(data.config())
    (Layout.of(data.config()).root / ".check_cache.json").write_text(content)
    capsys.readouterr()
    assert check(data.config()) == first
    assert "12 files read" in capsys.readouterr().out


def test_faulty_files_are_read_again(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    (data.folder / "p0.nii.gz").unlink()
    data.faults()
    data.faults()
    assert "1 files read, 11 unchanged" in capsys.readouterr().out


# --- processes -------------------------------------------------------------------------------------


def killed_reading(task: tuple[Path, bool]) -> object:
    return ProcessDied() if task[0].name == "p3.nii.gz" else scan_file(*task)


def test_a_file_whose_reading_was_killed_is_a_fault(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_module, "_scan", killed_reading)
    told = data.faults()
    assert (
        "p3.nii.gz: found: that the process reading it was killed, most likely for lack of memory"
        in told
    )


def test_the_command_in_processes(tmp_path: Path) -> None:
    """The real thing: a new Python, two workers, no traceback."""
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


def run_command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
