"""Volumes in two files, FreeSurfer and Analyze volumes are read like NIfTI."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.volume_files import LAS, OBLIQUE, read_damaged, voxels

from hstf.imaging.scan import scan_file, scan_header
from hstf.imaging.volume_files import open_nifti
from hstf.imaging.volumes import read_image, write_like
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file
from hstf.runtime.stamps import sha256_once, stamp_of

DATA = voxels()
FORMATS = ["a.mhd", "a.nhdr", "a.hdr", "a.mgz", "a.mgh", "A.MHD", "A.HDR"]
TWO_FILES = {"a.mhd": "a.raw", "a.nhdr": "a.raw", "a.hdr": "a.img"}


def save(path: Path, data: np.ndarray = DATA) -> Path:
    """Write a volume in the format of its name, without shear, and return its path."""
    nib.save(nib.Nifti1Image(data, LAS), path.parent / "nifti.nii")
    match path.suffix.lower():
        case ".hdr":
            nib.save(nib.Nifti1Pair(data, LAS), path.with_suffix(".hdr"))
        case ".mgz" | ".mgh":
            nib.save(nib.MGHImage(data.astype(np.int32), LAS), path)
        case _:
            image = sitk.ReadImage(str(path.parent / "nifti.nii"))
            sitk.WriteImage(image, str(path.with_suffix(path.suffix.lower())))
    if path.suffix.isupper():
        path.with_suffix(path.suffix.lower()).rename(path)
        if path.suffix == ".HDR":
            path.with_suffix(".img").rename(path.with_suffix(".IMG"))
    return path


@pytest.mark.parametrize("name", FORMATS)
def test_read_image_reads_other_formats_like_nifti(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.data, DATA)
    np.testing.assert_allclose(volume.affine, LAS, atol=1e-5)
    write_like(tmp_path / "out.nii.gz", volume.data, volume)
    np.testing.assert_allclose(nib.load(tmp_path / "out.nii.gz").affine, LAS, atol=1e-5)
    scan = scan_file(path, label=False)
    assert (scan.problem, scan.minimum, scan.maximum) == ("", DATA.min(), DATA.max())
    assert scan.has_spacing and scan.has_orientation
    assert scan.sha256 == sha256_file(path) == sha256_once(path)
    np.testing.assert_allclose(scan_header(path).matrix, LAS, atol=1e-5)


@pytest.mark.parametrize(("name", "other"), TWO_FILES.items())
def test_sha256_covers_the_voxels_of_a_header(tmp_path: Path, name: str, other: str) -> None:
    path = save(tmp_path / name)
    before = sha256_file(path), stamp_of(path)
    content = bytearray((tmp_path / other).read_bytes())
    content[-1] ^= 1
    (tmp_path / other).write_bytes(content)
    after = sha256_file(path), stamp_of(path)
    assert before[0] != after[0]
    assert before[1] != after[1]


@pytest.mark.parametrize(("name", "other"), TWO_FILES.items())
def test_read_image_names_a_header_without_its_voxels(
    tmp_path: Path, name: str, other: str
) -> None:
    path = save(tmp_path / name)
    (tmp_path / other).unlink()
    with pytest.raises(HstfError, match="must name one file with the voxels"):
        read_image(path)
    read_damaged(path)


@pytest.mark.parametrize("name", TWO_FILES)
def test_read_image_follows_a_link_to_a_header(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    (tmp_path / "in").mkdir()
    link = tmp_path / "in" / f"link{path.suffix}"
    link.symlink_to(path)
    if name != "a.hdr":
        np.testing.assert_array_equal(read_image(link).data, DATA)
    same = tmp_path / "in" / name
    same.symlink_to(path)
    np.testing.assert_array_equal(read_image(same).data, DATA)
    assert scan_file(same, label=False).sha256 == sha256_file(path)


@pytest.mark.parametrize(
    "line",
    [
        "ElementDataFile = /etc/hostname",
        "ElementDataFile = ../a.raw",
        "ElementDataFile = sub/a.raw",
        "ElementDataFile = LIST\na.raw",
        "ElementDataFile = a%03d.raw 1 5 1",
        "ElementDataFile = LOCAL",
        "ElementDataFile = a.raw\nElementDataFile = ../secret.raw",
        "elementdatafile = ../secret.raw\nElementDataFile = a.raw",
        "Comment = \nElementDataFile = ../secret.raw",
        "",
    ],
)
def test_read_image_refuses_headers_of_other_files(tmp_path: Path, line: str) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    path = save(tmp_path / "in" / "a.mhd")
    for copy in ("secret.raw", "a.raw", "in/sub/a.raw"):
        (tmp_path / copy).write_bytes((tmp_path / "in" / "a.raw").read_bytes())
    text = path.read_text().replace("ElementDataFile = a.raw", line)
    path.write_text(text)
    with pytest.raises(HstfError, match="must name one file with the voxels, in the same folder"):
        read_image(path)
    read_damaged(path)


@pytest.mark.parametrize("name", ["data file: /etc/hostname", "data file: LIST\na.raw"])
def test_read_image_refuses_nrrd_headers_of_other_files(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "a.nhdr")
    path.write_text(path.read_text().replace("data file: a.raw", name))
    with pytest.raises(HstfError, match="must name one file"):
        read_image(path)


def test_open_nifti_names_the_header_of_voxels(tmp_path: Path) -> None:
    save(tmp_path / "a.hdr")
    with pytest.raises(HstfError, match=r"Name the header instead: a.hdr"):
        open_nifti(tmp_path / "a.img")


def test_scan_header_knows_that_analyze_has_no_orientation(tmp_path: Path) -> None:
    nib.save(nib.AnalyzeImage(DATA, np.diag([2, 1.5, 3, 1])), tmp_path / "a.hdr")
    scan = scan_header(tmp_path / "a.hdr")
    assert scan.problem == ""
    assert not scan.has_orientation
    assert scan.spacing == (2.0, 1.5, 3.0)


def test_write_like_keeps_both_geometries_of_a_pair(tmp_path: Path) -> None:
    pair = nib.Nifti1Pair(DATA, LAS)
    pair.set_qform(LAS, 1)
    pair.set_sform(OBLIQUE, 2)
    nib.save(pair, tmp_path / "a.hdr")
    volume = read_image(tmp_path / "a.hdr")
    write_like(tmp_path / "out.nii.gz", volume.data, volume)
    header = nib.load(tmp_path / "out.nii.gz").header
    np.testing.assert_allclose(header.get_qform(), LAS, atol=1e-5)
    np.testing.assert_allclose(header.get_sform(), OBLIQUE, atol=1e-5)


@pytest.mark.parametrize("name", ["a.hdr", "a.mgz", "a.mgh", "a.mhd"])
def test_read_image_survives_cut_files(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / name)
    content = path.read_bytes()
    for length in (0, 3, 60, len(content) - 40):
        path.write_bytes(content[: max(0, length)])
        read_damaged(path)
