"""The stage ``check`` reports all problems of all cases at once, without a traceback."""

import gzip
import struct
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
from support.volume_files import lower_bound_of_scans

from hstf.cli import main
from hstf.experiment.layout import Layout
from hstf.imaging.affines import corner_distance
from hstf.imaging.scan import scan_file
from hstf.runtime.files import read_csv, sha256_file, write_text
from hstf.runtime.processes import ProcessDied
from hstf.stages.check import reading as reading_module


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Return a valid data set, whose files are read in this process because that is faster."""

    def in_process(function, items, workers):  # type: ignore[no-untyped-def]
        return ((item, function(item)) for item in items)

    monkeypatch.setattr(reading_module, "map_processes", in_process)
    return Data(tmp_path)


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


def test_check_compares_label_and_image_grid(data: Data) -> None:
    data.image("p0_label.nii.gz", data.mask(0)[:-1])
    moved = AFFINE.copy()
    moved[2, 3] += 0.5
    data.image("p1_label.nii.gz", data.mask(1), moved)
    nearly = AFFINE.copy()
    nearly[0, 0] += 0.001  # 8 voxels on: 0.008 mm
    data.image("p2_label.nii.gz", data.mask(2), nearly)
    message = data.errors()
    assert (
        "label.nii.gz: found: shape 8 x 8 x 7; expected: shape 9 x 8 x 7 as in p0.nii.gz (image)."
        in message
    )
    assert (
        "up to 0.5 mm away from those of p1.nii.gz (image); expected: at most 0.01 mm (check."
        in message
    )
    assert "2 errors" in message
    assert "3 errors" in data.errors(check={"workers": 1, "affine_tolerance_mm": 0.005})


def test_check_compares_the_grids_of_channels(data: Data) -> None:
    for number, row in enumerate(data.rows):
        row["flair"] = f"flair{number}.nii.gz"
        data.image(row["flair"], data.scan(number + 50))
    data.image("flair3.nii.gz", data.scan(53)[:, :, :4])
    message = data.errors(modalities={"image": "mr", "flair": "mr"})
    assert "1 errors" in message
    assert (
        "flair3.nii.gz: found: shape 9 x 8 x 4; expected: shape 9 x 8 x 7 as in p3.nii.gz (image)"
        in message
    )


def two_geometries(path: Path, qform: np.ndarray) -> None:
    image = nib.load(path)
    image.set_qform(qform, 1)
    image.set_sform(image.affine, 2)
    nib.save(image, path)


def test_check_accepts_a_label_with_either_geometry(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs of ITK write the qform of the image into the label, others the sform."""
    qform = AFFINE.copy()
    qform[:3, 3] += 10, -5, 3
    two_geometries(data.folder / "p0.nii.gz", qform)
    two_geometries(data.folder / "p1.nii.gz", qform)
    q_only = nib.load(data.folder / "p0.nii.gz").get_qform()
    data.image("p0_label.nii.gz", data.mask(0), q_only)
    message = data.warnings(capsys)
    assert "0 errors and 2 warnings" in message
    for name in ("p0.nii.gz", "p1.nii.gz"):
        found = f"{name}: found: two geometries: sform and qform place corner voxels up to 11.5"
        assert found in message
    assert "The sform is used." in message
    elsewhere = AFFINE.copy()
    elsewhere[:3, 3] -= 10, -5, 3
    data.image("p0_label.nii.gz", data.mask(0), elsewhere)
    assert "1 errors" in data.errors()


def test_check_names_two_geometries_with_other_directions(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    two_geometries(data.folder / "p0.nii.gz", AFFINE @ np.diag([-1, 1, 1, 1]))
    assert "mm apart (LAS and RAS)" in data.warnings(capsys)
    nearly = AFFINE.copy()
    nearly[0, 3] += 0.05
    two_geometries(data.folder / "p0.nii.gz", nearly)
    assert "0 warnings" in data.warnings(capsys)


@pytest.mark.parametrize(
    ("affine", "advice"),
    [
        (np.eye(4), "Its geometry seems to be lost. If the voxels correspond one to one, copy"),
        (np.diag([-1, -1, 1, 1.0]), "Its geometry seems to be lost."),
        (AFFINE + np.eye(4, k=3) * 7, "one to one, copy the geometry of"),
    ],
)
def test_check_does_not_advise_to_resample_a_label_of_the_same_shape(
    data: Data, affine: np.ndarray, advice: str
) -> None:
    data.image("p0_label.nii.gz", data.mask(0), affine)
    message = data.errors()
    assert advice in message
    assert "esample" not in message


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_check_names_a_label_with_other_axes(data: Data, axes: tuple[int, ...]) -> None:
    """Such a file is what a program writes that stores all volumes in one orientation."""
    label = nib.load(data.folder / "p0_label.nii.gz")
    order = np.array([(axis, -1 if axis == 0 else 1) for axis in axes])
    nib.save(label.as_reoriented(order), data.folder / "p0_label.nii.gz")
    message = data.errors()
    assert "It has the same voxels with the axes" in message
    assert "Reorder the axes as in" in message and "esample" not in message


def test_corner_distance_of_a_rotation() -> None:
    """A turn by t about z moves the far corner at radius r by 2 r sin(t/2)."""
    turn = 0.01
    rotated = np.eye(4)
    rotated[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    distance = corner_distance(np.eye(4), rotated, (101, 101, 5))
    assert distance == pytest.approx(2 * np.hypot(100, 100) * np.sin(turn / 2))


def test_check_refuses_four_dimensions_and_singular_affines(data: Data) -> None:
    data.image("p0.nii.gz", np.stack([data.scan(0)] * 2, axis=-1))
    content = bytearray(gzip.decompress((data.folder / "p1.nii.gz").read_bytes()))
    content[280:296] = bytes(16)
    (data.folder / "p1.nii.gz").write_bytes(gzip.compress(content))
    message = data.errors()
    assert "p0.nii.gz: found: has shape (9, 8, 7, 2), expected three axes" in message
    assert "p1.nii.gz: found: the affine is singular" in message


def test_check_finds_patients_in_two_splits(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.rows[0]["group"] = data.rows[2]["group"] = "anna"
    message = data.warnings(capsys)
    assert "2 warnings" in message
    assert "patient anna is labelled here and has another split in p2 (unlabelled)" in message
    data.rows[4]["group"] = "anna"
    assert "patient anna is labelled (p0) and unlabelled (p2) and test (p4)" in data.errors()


def test_check_finds_duplicate_files_and_voxels(data: Data) -> None:
    data.rows[5]["image"] = "./p0.nii.gz"
    recompressed = gzip.compress(
        gzip.decompress((data.folder / "p1.nii.gz").read_bytes()), 9, mtime=1
    )
    (data.folder / "p2.nii.gz").write_bytes(recompressed)
    message = data.errors()
    assert f"the same file as in p5 (image: {data.folder / 'p0.nii.gz'})" in message
    assert (
        f"p2.nii.gz: found: the same voxels as in p1 (image: {data.folder / 'p1.nii.gz'})"
        in message
    )
    assert "4 errors" in message


def test_check_accepts_equal_empty_labels(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("p2_label.nii.gz", "p3_label.nii.gz"):
        data.image(name, np.zeros(SHAPE, np.uint8))
    assert "0 warnings" in data.warnings(capsys)
    data.image("p5_label.nii.gz", data.mask(4))
    assert "2 warnings" in data.warnings(capsys)
    data.rows[5]["label"] = "p4_label.nii.gz"
    assert "the same file as in p4 (label" in data.errors()


def test_check_accepts_equal_masks(data: Data) -> None:
    """Clicks are absent in many cases, and registered scans may have one atlas."""
    for number, row in enumerate(data.rows):
        row["prior"] = f"p{number}_prior.nii.gz"
        data.image(row["prior"], np.zeros(SHAPE, np.uint8))
    modalities = {"image": "mr", "prior": "mask"}
    findings = check(data.config(modalities=modalities))
    assert not [finding for finding in findings if "the same" in finding.found]
    atlas = np.zeros(SHAPE, np.uint8)
    atlas[1:8, 1:7, 1:6] = 1
    for number in (1, 2):
        data.image(f"p{number}_prior.nii.gz", atlas)
    findings = check(data.config(modalities=modalities))
    equal = [finding for finding in findings if "the same voxels as in" in finding.found]
    assert [(finding.level, finding.case_id) for finding in equal] == [
        ("warning", "p1"),
        ("warning", "p2"),
    ]
    data.image("p1_prior.nii.gz", data.mask(1))
    assert "the same voxels as in p1 (label: " in data.errors(modalities=modalities)


def test_check_finds_a_label_used_as_image(data: Data) -> None:
    data.rows[0]["image"] = data.rows[0]["label"]
    assert "the same file as in p0 (label: " in data.errors()


def test_check_finds_invalid_label_values(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    data.image("p0_label.nii.gz", np.zeros(SHAPE, np.uint8))
    data.image(
        "p1_label.nii.gz", data.mask(1).astype(np.float64)
    )  # whole numbers of any type will do
    data.image("p4_label.nii.gz", np.zeros(SHAPE, np.uint8))  # a test case may be empty
    message = data.warnings(capsys)
    assert "0 errors and 1 warnings" in message
    assert "p0_label.nii.gz: found: an empty label in a labelled case" in message
    odd = data.mask(2).astype(np.float32)
    odd[0, 0, :5] = [0.5, -1, np.nan, 255, 300]
    data.image("p2_label.nii.gz", odd)
    each = ", ".join(f"{value} (1 voxels)" for value in ("-1", "0.5", "255", "300", "nan"))
    assert f"label values {each}; expected: only 0 (background), 1 (foreground)" in data.errors()
    odd[0, 0, :5] = 255
    data.image("p2_label.nii.gz", odd)
    check(data.config(labels={"foreground": 1, "ignore": 255}))
    data.image("p2_label.nii.gz", data.scan(9).astype(np.float32) + 0.25)
    assert "and perhaps more" in data.errors()


@pytest.mark.parametrize("value", [256, 1001, -1, 2.5])
def test_check_does_not_advise_to_add_values_that_labels_cannot_have(
    data: Data, value: float
) -> None:
    mask = data.mask(0).astype(np.float32)
    mask[0, 0, 0] = value
    data.image("p0_label.nii.gz", mask)
    message = data.errors()
    assert f"found: label values {value:g} (1 voxels)" in message
    assert "Number the classes of the file anew" in message and "Add the values" not in message


def test_check_finds_ct_without_the_offset_of_hounsfield_units(data: Data) -> None:
    for number in range(6):
        scan = data.scan(number)
        scan[:, 4:] -= 1100  # air
        data.image(f"p{number}.nii.gz", scan + 1024 * (number == 3))
    findings = check(data.config(modalities={"image": "ct"}))
    shifted = [finding.case_id for finding in findings if "1024 above" in finding.found]
    assert shifted == ["p3"]
    findings = check(data.config(modalities={"image": "other"}))
    assert not [finding for finding in findings if "1024 above" in finding.found]


def test_check_finds_scans_unlike_the_others(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        data.rows.append(data.rows[2] | {"case_id": f"q{number}", "label": ""})
        data.rows[-1]["image"] = f"q{number}.nii.gz"
        data.image(f"q{number}.nii.gz", data.scan(20 + number))
    data.image("p5.nii.gz", (data.scan(5) / 1000).astype(np.float32))  # a test case
    data.image("q3.nii.gz", data.scan(23) - 400)
    message = data.warnings(capsys)
    assert "2 warnings" in message
    assert "p5.nii.gz: found: intensities unlike those of the training scans: a narrower" in message
    assert "q3.nii.gz: found: intensities unlike those of the training scans: negative" in message


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


def test_check_finds_classes_without_scribbles(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"labels": {"foreground": 1, "rim": 2, "ignore": 255}}
    for number in (0, 1):
        scribbles = np.full(SHAPE, 255, np.uint8)
        scribbles[2, 3 + number, 1:4] = 1
        data.image(f"p{number}_label.nii.gz", scribbles)
    check(data.config(**config))
    message = capsys.readouterr().out
    assert "0 errors and 2 warnings" in message
    assert "no labelled case with a voxel of background (0)" in message
    assert "no labelled case with a voxel of rim (2)" in message
    data.image("p1_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    data.image("p4_label.nii.gz", np.full(SHAPE, 255, np.uint8))
    errors = data.errors(**config)
    assert errors.count("a label in which every voxel is ignored") == 2
    assert "2 errors" in errors


def header_edit(path: Path, place: int, content: bytes) -> None:
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[place : place + len(content)] = content
    path.write_bytes(gzip.compress(raw))


def test_check_warns_about_unusual_headers(data: Data, capsys: pytest.CaptureFixture[str]) -> None:
    thick = np.diag([1, 1, 25, 1])
    for name, array in (("p0.nii.gz", data.scan(0)), ("p0_label.nii.gz", data.mask(0))):
        data.image(name, array, thick)
    for name, array in (("p1.nii.gz", data.scan(1)), ("p1_label.nii.gz", data.mask(1))):
        data.image(name, array[:, :, :3])
    header_edit(data.folder / "p2.nii.gz", 80, struct.pack("<3f", -1, 0, 1))
    header_edit(data.folder / "p3.nii.gz", 123, b"\x01")  # metres
    header_edit(data.folder / "p4.nii.gz", 352 + 2 * int(np.prod(SHAPE)), b"tail")
    message = data.warnings(capsys)
    for sentence in (
        "p0.nii.gz: found: spacing 1 x 1 x 25 mm; expected: at most 20 mm.",
        "p1.nii.gz: found: shape 9 x 8 x 3; expected: at least 4 voxels along each axis.",
        "p2.nii.gz: found: voxel sizes -1 x 0 x 1 in the header (pixdim); expected: positive",
        "p3.nii.gz: found: lengths in meter; expected: mm.",
        "p4.nii.gz: found: 4 bytes after the last voxel; expected: only the voxels of shape",
    ):
        assert sentence in message
    header_edit(data.folder / "p2.nii.gz", 252, struct.pack("<2h", 0, 0))
    message = data.errors()
    assert "There is no sform that could be used instead" in message
    assert "neither sform nor qform" in message


def test_check_accepts_what_compresses_well_only_as_a_mask(
    data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bound_of_scans(monkeypatch)
    for number, row in enumerate(data.rows):
        row["prior"] = f"p{number}_prior.nii.gz"
        data.image(row["prior"], 1 - data.mask(number))
    message = data.errors(modalities={"image": "mr", "prior": "other"})
    assert message.count("_prior.nii.gz: found: ") == 6
    assert message.count("almost constant, no scan (a mask needs the modality mask)") == 6
    findings = check(data.config(modalities={"image": "mr", "prior": "mask"}))
    assert {finding.level for finding in findings} == {"ok"}


def test_check_requires_two_labelled_patients(data: Data) -> None:
    data.rows = data.rows[:1]
    message = data.errors()
    assert "1 labelled cases of 1 patients; expected: at least 2 patients" in message
    assert "1 errors and 2 warnings" in message


def test_check_warns_about_a_single_labelled_patient(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, row in enumerate(data.rows):
        row["group"] = "a" if row["split"] == "labelled" else f"b{number}"
    message = data.warnings(capsys)
    assert "labelled cases of 1 patients; expected: at least 2 patients" in message
    assert "weights of external teachers are too optimistic" in message


def test_check_warns_if_withheld_labels_are_used(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    check(data.config(method="full"))
    message = capsys.readouterr().out
    assert "the model learns from the withheld labels of the unlabelled cases" in message
    assert "unlabelled cases of 0 patients" in message


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


# --- processes


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


def run_command(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hstf", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_warns_of_text_in_headers_without_repeating_it(
    data: Data, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data.folder / "p1.nii.gz"
    image = nib.load(path)
    image.header["descrip"] = b"DOE^JOHN 1961-04-02"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"born in Springfield"))
    nib.save(image, path)
    printed = data.warnings(capsys)
    assert "0 errors and 1 warnings" in printed
    assert "text in the header of 1 files that may identify a patient: p1" in printed
    assert "descrip, extension 6)" in printed
    cache = Layout.of(data.config()).root / ".check_cache.json"
    written = Layout.of(data.config()).check.read_text() + cache.read_text()
    for secret in ("DOE", "1961", "Springfield"):
        assert secret not in printed + written
