"""Text in headers of scans does not reach files that hstf writes, and is found."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.volume_files import OBLIQUE, SHAPE, voxels

from hstf.imaging.header_text import identifying_fields, looks_identifying
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import blank_volume, read_image, write_like

SECRET = b"DOE^JOHN"
KINDS = (nib.Nifti1Image, nib.Nifti2Image)


def scan_with_text(path: Path, kind: type = nib.Nifti1Image) -> Path:
    """Write a scan with text in all places of its header, and return its path."""
    image = kind(voxels(), OBLIQUE)
    names = image.header.template_dtype.names
    for field in ("data_type", "db_name", "descrip", "aux_file", "intent_name", "unused_str"):
        if field in names:
            image.header[field] = SECRET
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", SECRET * 20))
    image.header.extensions.append(nib.nifti1.Nifti1Extension(44, SECRET * 200))
    nib.save(image, path)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["read_image", "blank_volume"])
def test_write_like_copies_no_text_of_the_source(tmp_path: Path, kind: type, source: str) -> None:
    path = scan_with_text(tmp_path / "scan.nii.gz", kind)
    assert SECRET in gzip.decompress(path.read_bytes())
    volume = read_image(path) if source == "read_image" else blank_volume(path)
    target = tmp_path / "label.nii.gz"
    write_like(target, np.ones(SHAPE, np.uint8), volume)
    content = gzip.decompress(target.read_bytes())
    assert SECRET not in content
    written = nib.load(target)
    assert list(written.header.extensions) == []
    assert len(content) == kind.header_class.template_dtype.itemsize + 4 + np.prod(SHAPE)
    np.testing.assert_array_equal(written.affine, nib.load(path).affine)
    np.testing.assert_array_equal(written.dataobj, 1)
    assert identifying_fields(written.header) == ()
    assert volume.header.extensions, "the header of the source stays as it is"


@pytest.mark.parametrize("kind", KINDS)
def test_scan_file_names_fields_with_text_and_stores_none(tmp_path: Path, kind: type) -> None:
    scan = scan_file(scan_with_text(tmp_path / "scan.nii.gz", kind), label=False)
    assert {"descrip", "aux_file", "intent_name", "extension 6", "extension 44"} <= set(
        scan.identifying
    )
    assert SECRET.decode() not in scan.model_dump_json()


def test_scan_file_finds_no_text_in_an_ordinary_header(tmp_path: Path) -> None:
    image = nib.Nifti1Image(voxels(), OBLIQUE)
    image.header["descrip"] = b"TE=3.4;Time=104512.123;phase=1"
    image.header.extensions.append(nib.nifti1.Nifti1Extension(44, bytes(64)))
    nib.save(image, tmp_path / "scan.nii.gz")
    assert scan_file(tmp_path / "scan.nii.gz", label=False).identifying == ()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
def test_scan_file_names_keys_of_itk_headers(tmp_path: Path, suffix: str) -> None:
    image = sitk.GetImageFromArray(voxels())
    sitk.WriteImage(image, str(tmp_path / f"plain{suffix}"))
    assert scan_file(tmp_path / f"plain{suffix}", label=False).identifying == ()
    image.SetMetaData("0010|0010", "Doe")
    image.SetMetaData("comment", "seen on 1961-04-02")
    image.SetMetaData("echo", "3")
    sitk.WriteImage(image, str(tmp_path / f"named{suffix}"))
    found = scan_file(tmp_path / f"named{suffix}", label=False).identifying
    assert set(found) == {"0010|0010", "comment"}


@pytest.mark.parametrize(
    "text",
    ["DOE^JOHN", "PatientName=x", "name: x", "1961-04-02", "19610402", "2.4.1961", "MRN 12 34 567"],
)
def test_looks_identifying_finds_names_dates_and_numbers(text: str) -> None:
    assert looks_identifying(text)


@pytest.mark.parametrize(
    "text",
    ["", "FSL5.0", "6.0.4:ddd0a010", "spm - 3D normalized", "TE=4.37;Time=104512.000", "T1 3 mm"],
)
def test_looks_identifying_accepts_protocols_and_versions(text: str) -> None:
    assert not looks_identifying(text)
