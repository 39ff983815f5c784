"""Volumes keep their geometry bit by bit, and damaged files cause messages."""

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel.processing import resample_to_output
from support.volume_files import (
    LAS,
    OBLIQUE,
    SHAPE,
    read_damaged,
    save_nifti,
    voxels,
    write_large_mask,
)

from hstf.imaging.scan import scan_file
from hstf.imaging.volume_files import open_any, open_nifti
from hstf.imaging.volumes import (
    as_nifti1,
    grid_mismatch,
    is_readable_by_itk,
    read_image,
    read_label,
    write_like,
)
from hstf.runtime.errors import HstfError

SHEARED = np.array(
    [
        [1.0, 0.01, 0.0, 5.0],
        [0.0, 1.0, 0.03, -6.0],
        [0.0, 0.0, 2.0, 7.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""A small shear, which is accepted."""
SWAPPED = np.array(
    [
        [0.0, 0.0, 3.0, 1.0],
        [-1.0, 0.0, 0.0, 2.0],
        [0.0, 2.0, 0.0, 3.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
GEOMETRY_FIELDS = (
    "qform_code",
    "sform_code",
    "pixdim",
    "quatern_b",
    "quatern_c",
    "quatern_d",
    "qoffset_x",
    "qoffset_y",
    "qoffset_z",
    "srow_x",
    "srow_y",
    "srow_z",
    "xyzt_units",
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        (LAS, {"qform_code": 1, "sform_code": 1}),
        (LAS, {"qform_code": 2, "sform_code": 0}),
        (OBLIQUE, {"qform_code": 1, "sform_code": 4}),
        (LAS, {"qform_code": 0, "sform_code": 2}),
        (SHEARED, {"qform_code": 1, "sform_code": 2}),
        (SWAPPED, {"qform_code": 3, "sform_code": 0}),
        (LAS, {"qform_code": 0, "sform_code": 0}),
    ],
)
@pytest.mark.parametrize("image_type", [nib.Nifti1Image, nib.Nifti2Image])
def test_write_like_keeps_the_geometry_of_the_source(
    tmp_path: Path,
    affine: np.ndarray,
    codes: dict[str, int],
    image_type: type,
    suffix: str,
) -> None:
    image_path = tmp_path / "image.nii.gz"
    label_path = tmp_path / f"label{suffix}"
    save_nifti(image_path, voxels(), affine, image_type, **codes)
    label = (voxels() > 300).astype(np.uint8)
    write_like(label_path, label, read_image(image_path))
    before = nib.load(image_path)
    after = nib.load(label_path)
    assert type(after) is image_type
    for field in GEOMETRY_FIELDS:
        np.testing.assert_array_equal(after.header[field], before.header[field], err_msg=field)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), label)
    np.testing.assert_array_equal(read_label(label_path).data, label)


@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        (LAS, (0, 0)),
        (LAS, (0, 1)),
        (OBLIQUE, (0, 1)),
        (OBLIQUE, (1, 0)),
        (SHEARED, (0, 2)),
        (SHEARED, (1, 1)),
        (SWAPPED, (0, 4)),
    ],
)
def test_write_like_writes_files_that_itk_opens(
    tmp_path: Path, affine: np.ndarray, codes: tuple[int, int]
) -> None:
    """ITK does not know NIfTI-2."""
    image_path = tmp_path / "image.nii.gz"
    save_nifti(image_path, voxels(), affine, nib.Nifti1Image, *codes)
    source = read_image(image_path)
    label = (voxels() > 300).astype(np.uint8)
    write_like(tmp_path / "label.nii.gz", label, source)
    itk = SimpleITK.ReadImage(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk).T, label)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii.gz").affine, source.affine)
    if any(codes):
        corner = np.array(SHAPE) - 1
        expected = (source.affine @ [*corner, 1])[:3] * (-1, -1, 1)
        np.testing.assert_allclose(
            itk.TransformIndexToPhysicalPoint(corner.tolist()), expected, atol=0.5
        )


@pytest.mark.parametrize("codes", [(0, 1), (1, 1)])
def test_sheared_grids_are_refused_with_the_way_out(tmp_path: Path, codes: tuple[int, int]) -> None:
    affine = SHEARED.copy()
    affine[1, 2] = 0.5  # the gantry of a CT was tilted by 14 degrees
    image = save_nifti(tmp_path / "image.nii.gz", voxels(), affine, nib.Nifti1Image, *codes)
    label = save_nifti(
        tmp_path / "label.nii.gz", (voxels() > 0).astype(np.uint8), affine, nib.Nifti1Image, *codes
    )
    for path, read in ((image, read_image), (label, read_label)):
        with pytest.raises(HstfError, match=r"sheared: .* 76\.0 degrees.*dcm2niix.*Sheared grids"):
            read(path)
        assert "sheared" in scan_file(path, label=False).problem
    # The way out of the documentation.
    for path, order in ((image, 1), (label, 0)):
        old = nib.load(path)
        new = resample_to_output(old, old.header.get_zooms(), order=order, cval=-200)
        nib.save(new, path)
    assert read_image(image).data.shape == read_label(label).data.shape


@pytest.fixture
def big_endian(tmp_path: Path) -> Path:
    """Write big-endian voxels with slope 2 and intercept -1000."""
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(voxels().astype(">i2"), OBLIQUE, header)
    image.header.set_slope_inter(0.5, -10)
    image.to_filename(tmp_path / "raw.nii")
    content = bytearray((tmp_path / "raw.nii").read_bytes())
    assert content[:4] == struct.pack(">i", 348)
    # nibabel divides by the slope when it writes. Store slope and voxels as they are instead.
    content[112:120] = struct.pack(">ff", 2.0, -1000.0)
    content[352:] = voxels().astype(">i2").tobytes("F")
    path = tmp_path / "big.nii"
    path.write_bytes(content)
    return path


def test_read_image_scales_big_endian_voxels(big_endian: Path) -> None:
    source = read_image(big_endian)
    assert source.data.dtype == np.float32
    np.testing.assert_array_equal(source.data, voxels() * 2.0 - 1000)


def test_write_like_resets_the_slope_of_the_source(big_endian: Path, tmp_path: Path) -> None:
    source = read_image(big_endian)
    write_like(tmp_path / "label.nii.gz", np.ones(SHAPE, np.uint8), source)
    label = read_label(tmp_path / "label.nii.gz")
    np.testing.assert_array_equal(label.data, 1)
    np.testing.assert_array_equal(label.affine, source.affine)
    weights = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    write_like(tmp_path / "weights.nii", weights, source)
    np.testing.assert_array_equal(read_image(tmp_path / "weights.nii").data, weights)


def test_write_like_writes_equal_bytes_for_equal_volumes(tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "image.nii.gz", voxels(), OBLIQUE))
    write_like(tmp_path / "a.nii.gz", np.ones(SHAPE, np.uint8), source)
    write_like(tmp_path / "b.nii.gz", np.ones(SHAPE, np.uint8), source)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_write_like_refuses_another_shape(tmp_path: Path) -> None:
    source = read_image(save_nifti(tmp_path / "image.nii.gz", voxels(), LAS))
    with pytest.raises(HstfError, match=r"shape \(7, 6, 4\)"):
        write_like(tmp_path / "label.nii.gz", np.ones((7, 6, 4), np.uint8), source)
    assert not (tmp_path / "label.nii.gz").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_read_label_accepts_any_type_with_whole_values(tmp_path: Path, dtype: type) -> None:
    data = np.random.default_rng(0).integers(0, 5, SHAPE).astype(dtype)
    label = read_label(save_nifti(tmp_path / "label.nii.gz", data, LAS))
    assert label.data.dtype == np.uint8
    np.testing.assert_array_equal(label.data, data)


def test_read_label_rounds_values_that_have_a_slope(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "label.nii", np.full(SHAPE, 255, np.uint8), LAS)
    content = bytearray(path.read_bytes())
    content[112:116] = struct.pack("<f", 3 / 255)
    path.write_bytes(content)
    np.testing.assert_array_equal(read_label(path).data, 3)


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, np.inf])
def test_read_label_refuses_other_values(tmp_path: Path, value: float) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[1, 2, 3] = value
    path = save_nifti(tmp_path / "label.nii.gz", data, LAS)
    with pytest.raises(HstfError, match=f"whole numbers from 0 to 255, found {value:g}"):
        read_label(path)


def test_read_image_drops_a_fourth_axis_of_length_one(tmp_path: Path) -> None:
    volume = read_image(save_nifti(tmp_path / "image.nii.gz", voxels()[..., None], LAS))
    np.testing.assert_array_equal(volume.data, voxels())


def test_read_image_refuses_two_channels(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "two.nii.gz", np.zeros((*SHAPE, 2), np.int16), LAS)
    with pytest.raises(HstfError, match=r"expected three axes\. Split"):
        read_image(path)
    assert open_any(path).shape == (*SHAPE, 2)


def test_read_image_names_damaged_and_misnamed_files(tmp_path: Path) -> None:
    plain = save_nifti(tmp_path / "plain.nii", voxels(), LAS).read_bytes()
    packed = gzip.compress(plain)
    contents = {
        "empty.nii.gz": b"",
        "text.nii.gz": b"not gzip",
        "text.nii": b"not NIfTI at all",
        "plain_named.nii.gz": plain,
        "packed_named.nii": packed,
        "short.nii": plain[:-1],
        "cut.nii.gz": packed[:-40],
        "header.nii.gz": gzip.compress(plain[:200]),
        "image.dcm": plain,
        "rubbish.nii.gz": b"\x1f\x8b" + bytes(range(200)),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HstfError, match=name):
            read_image(tmp_path / name)


def test_read_image_refuses_what_is_not_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder.nii"
    folder.mkdir()
    loop = tmp_path / "loop.nii"
    loop.symlink_to(loop)
    for path in (tmp_path / "absent.nii.gz", folder, loop, Path("/dev/zero")):
        with pytest.raises(HstfError, match=path.name):
            read_image(path)


def test_open_nifti_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(HstfError, match="device"):
        open_nifti(tmp_path / "pipe.nii")


def test_read_image_recommends_dcm2niix_for_dicom(tmp_path: Path) -> None:
    (tmp_path / "IM0001.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(HstfError, match="dcm2niix -z y"):
        read_image(tmp_path / "IM0001.dcm")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_read_image_refuses_complex_and_coloured_voxels(tmp_path: Path, dtype: object) -> None:
    data = np.zeros(SHAPE, dtype)  # type: ignore[call-overload]
    path = save_nifti(tmp_path / "image.nii.gz", data, LAS)
    with pytest.raises(HstfError, match="expected whole or real numbers"):
        read_image(path)


def test_read_image_refuses_a_singular_affine(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "image.nii", voxels(), LAS, sform_code=1)
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)
    path.write_bytes(content)
    with pytest.raises(HstfError, match="singular"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_read_image_allocates_nothing_for_a_huge_claimed_shape(tmp_path: Path, suffix: str) -> None:
    content = bytearray(save_nifti(tmp_path / "small.nii", voxels(), LAS).read_bytes())
    content[40:48] = struct.pack("<4h", 3, 30000, 30000, 30000)
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    tracemalloc.start()
    for read in (read_image, read_label):
        with pytest.raises(HstfError, match=r"the header claims shape \(30000, 30000, 30000\)"):
            read(path)
    assert "claims" in scan_file(path, label=False).problem
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6


@pytest.mark.parametrize("endianness", ["<", ">"])
def test_as_nifti1_keeps_geometry_and_units(tmp_path: Path, endianness: str) -> None:
    """ITK cannot open NIfTI-2."""
    data = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    affine = np.array([[0, 0, 2.5, -71.3], [-0.7, 0, 0, 12.1], [0, 1.1, 0, 3], [0, 0, 0, 1]])
    header = nib.Nifti2Header(endianness=endianness)
    header.set_xyzt_units("mm")
    header.set_qform(affine, code=2)
    header.set_sform(affine, code=4)
    nib.save(nib.Nifti2Image(data, affine, header), tmp_path / "two.nii.gz")
    volume = read_image(tmp_path / "two.nii.gz")
    assert not is_readable_by_itk(volume)
    assert is_readable_by_itk(as_nifti1(volume))
    write_like(tmp_path / "one.nii.gz", volume.data, as_nifti1(volume))
    image = nib.load(tmp_path / "one.nii.gz")
    assert type(image) is nib.Nifti1Image
    assert int(image.header["qform_code"]) == 2
    assert int(image.header["sform_code"]) == 4
    assert image.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(image.affine, affine, rtol=1e-6)
    np.testing.assert_array_equal(image.dataobj, data)
    written = SimpleITK.ReadImage(tmp_path / "one.nii.gz")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(written).T, data)
    np.testing.assert_allclose(written.GetSpacing(), (0.7, 1.1, 2.5), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_read_image_accepts_a_large_mask(tmp_path: Path, suffix: str) -> None:
    """Readers and ``check`` agree: a mask of a large CT is valid, a scan with its voxels is not."""
    path = tmp_path / f"mask{suffix}"
    foreground = write_large_mask(path)
    assert path.stat().st_size < 512 * 512 * 300 / 250
    assert read_image(path, is_mask=True).data.sum() == foreground
    assert scan_file(path, label=False, is_mask=True).problem == ""
    assert scan_file(path, label=True).values["1"] == foreground
    refused = r"almost constant, no scan \(a mask needs the modality mask\)"
    with pytest.raises(HstfError, match=refused):
        read_image(path)
    assert "almost constant, no scan" in scan_file(path, label=False).problem


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 359), st.integers(0, 255)), min_size=1, max_size=6))
@pytest.mark.parametrize("image_type", [nib.Nifti1Image, nib.Nifti2Image])
def test_read_image_survives_random_headers(
    tmp_path_factory: pytest.TempPathFactory,
    image_type: type,
    edits: list[tuple[int, int]],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    intact = save_nifti(folder / "intact.nii", voxels(), OBLIQUE, image_type)
    content = bytearray(intact.read_bytes())
    for position, value in edits:
        content[position] = value
    (folder / "fuzz.nii").write_bytes(content)
    read_damaged(folder / "fuzz.nii")
    (folder / "fuzz.nii.gz").write_bytes(gzip.compress(content, 1))
    read_damaged(folder / "fuzz.nii.gz")


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(data=st.data())
def test_read_image_survives_random_damage_of_a_gzip_file(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    intact = save_nifti(folder / "intact.nii", voxels(), LAS).read_bytes()
    content = bytearray(gzip.compress(intact, mtime=0))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    length = data.draw(st.integers(1, len(content)))
    (folder / "packed.nii.gz").write_bytes(content[:length])
    read_damaged(folder / "packed.nii.gz")


def test_grid_mismatch_describes_shape_and_position(tmp_path: Path) -> None:
    image = read_image(save_nifti(tmp_path / "a.nii", voxels(), LAS, qform_code=1, sform_code=1))
    moved = LAS + 2 * np.eye(4, k=3)
    label = read_image(save_nifti(tmp_path / "b.nii", voxels(), moved, sform_code=1))
    assert grid_mismatch(label, image, tolerance_mm=2.5) is None
    assert "up to 2 mm away" in str(grid_mismatch(label, image, tolerance_mm=1.0))
    label = read_image(save_nifti(tmp_path / "c.nii", voxels()[1:], LAS))
    assert "has shape (6, 6, 5), the image (7, 6, 5)" in str(grid_mismatch(label, image, 2.5))


def test_grid_mismatch_accepts_either_geometry(tmp_path: Path) -> None:
    """What one file uses may be any geometry of the other; two unused ones do not count."""
    two = nib.Nifti1Image(voxels(), LAS)
    two.set_qform(LAS + 5 * np.eye(4, k=3), 1)
    two.set_sform(LAS, 2)
    nib.save(two, tmp_path / "two.nii")
    image = read_image(tmp_path / "two.nii")
    for affine in (LAS, two.get_qform()):
        label = read_image(save_nifti(tmp_path / "a.nii", voxels(), affine, sform_code=1))
        assert grid_mismatch(label, image, tolerance_mm=0.01) is None
        assert grid_mismatch(image, label, tolerance_mm=0.01) is None
    two.set_sform(LAS + 9 * np.eye(4, k=3), 2)
    nib.save(two, tmp_path / "other.nii")
    other = read_image(tmp_path / "other.nii")
    assert grid_mismatch(other, image, tolerance_mm=0.01) is not None
