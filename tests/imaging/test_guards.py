"""Each kind of wrong or doubtful scan is named, and a usual scan is not."""

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from support.volume_files import LAS, SHAPE, voxels

from hstf.imaging.guards import MASK, Issue, image_issues, spacing_issues
from hstf.imaging.intensity import nonempty_mask
from hstf.imaging.intensity_ranges import IntensityRange, range_issues
from hstf.imaging.scan import Scan, scan_file

DATA = np.abs(voxels())
VOXELS = bytes(range(210))
PIXDIM = 80
"""Position of the voxel sizes in a NIfTI-1 header."""


def write(
    path: Path,
    data: np.ndarray = DATA,
    affine: np.ndarray = LAS,
    codes: tuple[int, int] = (1, 1),
    unit: str = "mm",
) -> Path:
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units(unit)
    nib.save(image, path)
    return path


def issues(path: Path, kind: str = "mr") -> list[str]:
    return sentences(image_issues(scan_file(path, label=False), kind))


def sentences(found: list[Issue]) -> list[str]:
    return [issue.sentence() for issue in found]


def test_image_issues_of_a_usual_scan(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii")
    assert issues(path) == []
    for codes in ((1, 0), (0, 1)):
        assert issues(write(path, codes=codes)) == []
    assert issues(write(path, unit="unknown")) == []


@pytest.mark.parametrize("kind", ["mr", MASK])
def test_image_issues_warns_of_an_unknown_orientation(tmp_path: Path, kind: str) -> None:
    (issue,) = issues(write(tmp_path / "a.nii", codes=(0, 0)), kind)
    assert issue.startswith("warning: found: neither sform nor qform, so left and right may")


@pytest.mark.parametrize(
    ("unit", "size", "level"),
    [("meter", 0.002, "error"), ("micron", 900.0, "error"), ("meter", 1.5, "warning")],
)
def test_image_issues_of_other_units(tmp_path: Path, unit: str, size: float, level: str) -> None:
    affine = np.diag([size, size, size, 1])
    affine[0, 3] = 1
    (issue,) = issues(write(tmp_path / "a.nii", affine=affine, unit=unit))
    assert issue.startswith(f"{level}: found: lengths in {unit}")


@pytest.mark.parametrize("sizes", [(0, 2, 2), (2, 2, float("nan")), (-2, 2, 2)])
def test_image_issues_of_invalid_voxel_sizes(tmp_path: Path, sizes: tuple[float, ...]) -> None:
    for codes, start in (((1, 0), "error: found: "), ((1, 1), "warning: found: voxel sizes ")):
        path = write(tmp_path / "a.nii", codes=codes)
        content = bytearray(path.read_bytes())
        content[PIXDIM : PIXDIM + 12] = struct.pack("<3f", *sizes)
        path.write_bytes(content)
        found = issues(path)
        assert found[0].startswith(start), found


def test_image_issues_warns_of_two_voxel_sizes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", codes=(0, 1))
    content = bytearray(path.read_bytes())
    content[PIXDIM : PIXDIM + 12] = struct.pack("<3f", 1, 1, 1)
    path.write_bytes(content)
    (issue,) = issues(path)
    assert "voxel sizes 1 x 1 x 1 in the header (pixdim), and 2 x 1.5 x 3 in the sform" in issue


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (np.full(SHAPE, 3, np.int16), "error: found: a constant image: every voxel is 3"),
        (np.zeros(SHAPE, np.int16), "error: found: a constant image: every voxel is 0"),
        (np.full(SHAPE, np.nan, np.float32), "error: found: 210 voxels that are NaN"),
        (np.where(DATA.max() == DATA, np.inf, DATA), "error: found: 2 voxels that are NaN"),
        ((DATA > 300).astype(np.uint8), "warning: found: only 2 different values"),
        (voxels() - 1000, "warning: found: values from -1197 to"),
    ],
)
def test_image_issues_of_voxels(tmp_path: Path, data: np.ndarray, found: str) -> None:
    path = write(tmp_path / "a.nii", data)
    (issue,) = issues(path)
    assert issue.startswith(found)


def test_image_issues_warns_of_a_nearly_empty_scan(tmp_path: Path) -> None:
    data = np.zeros((20, 20, 20), np.float32)
    data[10, 10, 10:13] = 0.5, 1.5, 2.5
    (issue,) = issues(write(tmp_path / "a.nii", data))
    assert "a nearly empty image: 99.96% of its voxels are background" in issue


def test_image_issues_accepts_masks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", (DATA > 300).astype(np.uint8))
    assert issues(path, MASK) == issues(path, "other") == []
    (issue,) = issues(write(path, np.zeros(SHAPE, np.uint8)), MASK)
    assert issue.startswith("warning: found: a constant image")


def test_image_issues_warns_of_ct_without_negative_values(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", DATA - 500)
    assert issues(path, "ct") == []
    (issue,) = issues(write(path, DATA), "ct")
    assert "none of them negative; expected: CT values in HU" in issue


def test_image_issues_warns_of_a_default_geometry(tmp_path: Path) -> None:
    (issue,) = issues(write(tmp_path / "a.nii", affine=np.eye(4)))
    assert "voxels of 1 x 1 x 1 mm along the axes of the scanner" in issue


METAIMAGE = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = False\n{}DimSize = 7 6 5\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n"
)
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 7 6 5\nencoding: raw\n{}\n"
MATRIX = "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
SPACING = "ElementSpacing = 2 2 3\n"
RAS = "space: RAS\nspace directions: (2,0,0) (0,2,0) (0,0,3)\n"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (SPACING + MATRIX, []),
        ("AnatomicalOrientation = RAI\n" + SPACING, []),
        (MATRIX, ["error: found: no voxel size in the header"]),
        (SPACING, ["warning: found: no directions of the axes in the header"]),
        (
            "AnatomicalOrientation = LPI\n" + SPACING,
            ["warning: found: no directions of the axes in the header"],
        ),
        ("DistanceUnits = cm\n" + SPACING + MATRIX, ["warning: found: lengths in cm"]),
        ("Modality = MET_MOD_CT\n" + SPACING + MATRIX, ["warning: found: modality CT in the"]),
        ("Modality = MET_MOD_MR\n" + SPACING + MATRIX, []),
        (
            "ElementSpacing = 0 2 3\n" + MATRIX,
            ["error: found: not a readable .mha file (voxel sizes 0 x 2 x 3, expected positive"],
        ),
    ],
)
def test_image_issues_of_metaimage(tmp_path: Path, lines: str, expected: list[str]) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(METAIMAGE.format(lines).encode() + VOXELS)
    found = issues(path)
    assert [issue[: len(text)] for issue, text in zip(found, expected, strict=True)] == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (RAS, []),
        (RAS.replace("RAS", "left-posterior-superior"), []),
        (RAS + 'space units: "mm" "mm" "mm"\n', []),
        (RAS + 'space units: "m" "m" "m"\n', ["warning: found: lengths in meter"]),
        (
            RAS.replace("2", "0.002").replace("3)", "0.003)") + 'space units: "m" "m" "m"\n',
            ["error: found: lengths in meter, and voxels of 0.002 x 0.002 x 0.003"],
        ),
        (RAS + 'space units: "um" "um" "um"\n', ["warning: found: lengths in micron"]),
        (
            RAS.replace("RAS", "scanner-xyz"),
            ["warning: found: no directions of the axes in the header"],
        ),
        ("spacings: 2 2 3\n", ["warning: found: no directions of the axes in the header"]),
        (
            "",
            [
                "error: found: no voxel size in the header",
                "warning: found: no directions of the axes in the header",
            ],
        ),
        (
            "spacings: nan nan nan\n",
            [
                "error: found: no voxel size in the header",
                "warning: found: no directions of the axes in the header",
            ],
        ),
    ],
)
def test_image_issues_of_nrrd(tmp_path: Path, lines: str, expected: list[str]) -> None:
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD.format(lines).encode() + VOXELS)
    found = issues(path)
    assert [issue[: len(text)] for issue, text in zip(found, expected, strict=True)] == expected


def test_spacing_issues_compares_with_the_model(tmp_path: Path) -> None:
    scan = scan_file(write(tmp_path / "a.nii"), label=False)  # 2 x 1.5 x 3 mm
    assert not list(spacing_issues(scan, (1.0, 1.0, 1.0)))
    assert not list(spacing_issues(scan, (0.8, 0.8, 5.0)))
    for planned in ((0.1, 0.1, 0.1), (20.0, 20.0, 20.0)):
        (issue,) = spacing_issues(scan, planned)
        assert issue.found == "voxels of 2 x 1.5 x 3 mm"


# --- intensities of other scans

CT_SCANS = [(-1000, -60, 900), (-990, 20, 700), (-150, 40, 300)]
MR_SCANS = [(3, 200, 900), (10, 500, 2400), (0, 100, 500)]


@pytest.mark.parametrize(
    ("kind", "others", "percentiles", "reason"),
    [
        ("ct", CT_SCANS, (-1005, 0, 1100), ""),
        ("ct", CT_SCANS, (24, 964, 1924), "higher"),
        ("ct", CT_SCANS, (0, 200, 900), ""),
        ("ct", CT_SCANS, (0, 900, 4000), "higher"),
        ("ct", CT_SCANS, (-3000, 0, 900), "lower"),
        ("mr", MR_SCANS, (20, 900, 4000), ""),
        ("mr", MR_SCANS, (-1000, 0, 1000), "negative values"),
        ("mr", MR_SCANS, (0.0, 0.3, 1.0), "a narrower range"),
        ("mr", MR_SCANS, (-2.0, 0.0, 2.5), "a narrower range"),
        ("mr", MR_SCANS, (0, 30_000, 60_000), "a wider range"),
        ("mr", MR_SCANS, (0, 950, 1000), "another distribution"),
        ("mr", [*MR_SCANS, (0, 0.2, 1.0)], (0, 0.002, 0.01), ""),
        ("mr", [*MR_SCANS, (0, 0, 0)], (0, 20_000, 50_000), ""),
        ("pet", [(0, 1, 8)], (0, 5000, 30_000), "a wider range"),
        ("mask", MR_SCANS, (1, 1, 1), ""),
    ],
)
def test_range_issues_compares_scans(
    kind: str,
    others: list[tuple[float, ...]],
    percentiles: tuple[float, ...],
    reason: str,
) -> None:
    found = list(range_issues(Scan(percentiles=percentiles), kind, IntensityRange.of(others)))
    assert bool(found) == bool(reason)
    if reason:
        assert f"unlike those of the training scans: {reason} (" in found[0].found


def test_intensity_range_ignores_a_few_outliers() -> None:
    scans = [(0.0, 50.0 + number, 100.0) for number in range(100)] + [(0.0, 5.0, 1e6)]
    assert IntensityRange.of(scans).upper == (100, 100)
    assert IntensityRange.of(scans[-2:]).upper == (100, 1e6)


def test_scan_file_samples_like_numpy(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = random.normal(500, 100, (64, 64, 80)).astype(np.float32)
    data[:8] = 0
    data[-8:] = 0
    scan = scan_file(write(tmp_path / "a.nii.gz", data), label=False)
    expected = np.percentile(data[data != 0], (0.5, 50, 99.5))
    np.testing.assert_allclose(scan.percentiles, expected, rtol=0.02)
    assert scan.filled == pytest.approx(0.75, abs=0.01)
    assert scan.distinct == 0


def test_scan_file_finds_the_empty_background_of_a_single_slice(tmp_path: Path) -> None:
    """Two of four corners are empty: the same background as in the normalisation."""
    data = np.random.default_rng(0).normal(300, 20, (40, 40, 1)).astype(np.float32)
    data[:30] = 0
    scan = scan_file(write(tmp_path / "a.nii.gz", data), label=False)
    assert scan.filled == nonempty_mask(data).mean() == 0.25
    assert scan.percentiles[0] > 200
