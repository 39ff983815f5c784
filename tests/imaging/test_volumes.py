"""Volumes keep their geometry bit by bit, and damaged bytes are sentences."""

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hstf.imaging.affines import affine_problem
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import open_nifti, read_image, read_label, write_like
from hstf.runtime.errors import HstfError

SHAPE = (7, 6, 5)
LAS = np.diag([-2.0, 1.5, 3.0, 1.0])
OBLIQUE = np.array(
    [[1.9, -0.31, 0.12, -91.2], [0.28, 1.92, -0.4, 40.7], [-0.05, 0.37, 2.9, 12.5], [0, 0, 0, 1]],
    dtype=float,
)
SHEARED = np.array([[1, 0.4, 0, 5], [0, 1, 0.3, -6], [0, 0, 2, 7], [0, 0, 0, 1]], dtype=float)
SWAPPED = np.array([[0, 0, 3, 1], [-1, 0, 0, 2], [0, 2, 0, 3], [0, 0, 0, 1]], dtype=float)
GEOMETRY = ("qform_code", "sform_code", "pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
            "qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units")  # fmt: skip


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 900, SHAPE).astype(np.int16)


def save(
    path: Path, data: np.ndarray, affine: np.ndarray, kind: type = nib.Nifti1Image, **codes: int
) -> Path:
    image = kind(data, affine)
    if "qform_code" in codes:
        image.set_qform(affine, codes["qform_code"])
    if "sform_code" in codes:
        image.set_sform(affine, codes["sform_code"])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(
    ("affine", "codes"),
    [
        (LAS, {"qform_code": 1, "sform_code": 1}),
        (LAS, {"qform_code": 2, "sform_code": 0}),
        (OBLIQUE, {"qform_code": 1, "sform_code": 4}),
        (SHEARED, {"qform_code": 0, "sform_code": 2}),
        (SWAPPED, {"qform_code": 3, "sform_code": 0}),
        (LAS, {"qform_code": 0, "sform_code": 0}),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_written_volume_has_the_geometry_of_its_source(
    tmp_path: Path, affine: np.ndarray, codes: dict[str, int], kind: type, suffix: str
) -> None:
    source = read_image(save(tmp_path / "image.nii.gz", voxels(), affine, kind, **codes))
    label = (voxels() > 300).astype(np.uint8)
    write_like(tmp_path / f"label{suffix}", label, source)
    before, after = nib.load(tmp_path / "image.nii.gz"), nib.load(tmp_path / f"label{suffix}")
    assert type(after) is kind
    for key in GEOMETRY:
        np.testing.assert_array_equal(after.header[key], before.header[key], err_msg=key)
    np.testing.assert_array_equal(after.affine, before.affine)
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asanyarray(after.dataobj), label)
    np.testing.assert_array_equal(read_label(tmp_path / f"label{suffix}").data, label)


def test_big_endian_and_scaled_voxels(tmp_path: Path) -> None:
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nib.Nifti1Image(voxels().astype(">i2"), OBLIQUE, header)
    image.header.set_slope_inter(0.5, -10)
    image.to_filename(tmp_path / "raw.nii")  # nibabel unscales on writing: the values stay
    content = bytearray((tmp_path / "raw.nii").read_bytes())
    assert content[:4] == struct.pack(">i", 348)
    content[112:120] = struct.pack(">ff", 2.0, -1000.0)
    content[352:] = voxels().astype(">i2").tobytes("F")
    (tmp_path / "big.nii").write_bytes(content)
    source = read_image(tmp_path / "big.nii")
    assert source.data.dtype == np.float32
    np.testing.assert_array_equal(source.data, voxels() * 2.0 - 1000)
    write_like(tmp_path / "label.nii.gz", np.ones(SHAPE, np.uint8), source)
    label = read_label(tmp_path / "label.nii.gz")  # the slope of the source is gone
    np.testing.assert_array_equal(label.data, 1)
    np.testing.assert_array_equal(label.affine, source.affine)
    weights = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    write_like(tmp_path / "weights.nii", weights, source)
    np.testing.assert_array_equal(read_image(tmp_path / "weights.nii").data, weights)


def test_equal_volumes_are_equal_files(tmp_path: Path) -> None:
    source = read_image(save(tmp_path / "image.nii.gz", voxels(), OBLIQUE))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_like(tmp_path / name, np.ones(SHAPE, np.uint8), source)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_another_shape_is_not_written(tmp_path: Path) -> None:
    source = read_image(save(tmp_path / "image.nii.gz", voxels(), LAS))
    with pytest.raises(HstfError, match=r"shape \(7, 6, 4\)"):
        write_like(tmp_path / "label.nii.gz", np.ones((7, 6, 4), np.uint8), source)
    assert not (tmp_path / "label.nii.gz").exists()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_labels_of_any_type_with_whole_values(tmp_path: Path, dtype: type) -> None:
    data = np.random.default_rng(0).integers(0, 5, SHAPE).astype(dtype)
    label = read_label(save(tmp_path / "label.nii.gz", data, LAS))
    assert label.data.dtype == np.uint8
    np.testing.assert_array_equal(label.data, data)


def test_labels_that_were_stored_with_a_slope(tmp_path: Path) -> None:
    save(tmp_path / "label.nii", np.full(SHAPE, 255, np.uint8), LAS)
    content = bytearray((tmp_path / "label.nii").read_bytes())
    content[112:116] = struct.pack("<f", 3 / 255)
    (tmp_path / "label.nii").write_bytes(content)
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii").data, 3)


@pytest.mark.parametrize("value", [0.5, -1, 256, np.nan, np.inf])
def test_values_that_are_no_label(tmp_path: Path, value: float) -> None:
    data = np.zeros(SHAPE, np.float32)
    data[1, 2, 3] = value
    with pytest.raises(HstfError, match=f"whole numbers from 0 to 255, found {value:g}"):
        read_label(save(tmp_path / "label.nii.gz", data, LAS))


def test_a_fourth_axis_of_one(tmp_path: Path) -> None:
    volume = read_image(save(tmp_path / "image.nii.gz", voxels()[..., None], LAS))
    np.testing.assert_array_equal(volume.data, voxels())
    with pytest.raises(HstfError, match=r"expected three axes\. Split"):
        read_image(save(tmp_path / "two.nii.gz", np.zeros((*SHAPE, 2), np.int16), LAS))


def test_what_is_no_volume(tmp_path: Path) -> None:
    plain = save(tmp_path / "plain.nii", voxels(), LAS).read_bytes()
    files = {
        "empty.nii.gz": b"",
        "text.nii.gz": b"not gzip",
        "text.nii": b"not NIfTI at all",
        "plain_named.nii.gz": plain,
        "packed_named.nii": gzip.compress(plain),
        "short.nii": plain[:-1],
        "cut.nii.gz": gzip.compress(plain)[:-40],
        "header.nii.gz": gzip.compress(plain[:200]),
        "image.dcm": plain,
        "rubbish.nii.gz": b"\x1f\x8b" + bytes(range(200)),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(HstfError, match=name):
            read_image(tmp_path / name)
    for path in (
        tmp_path / "absent.nii.gz",
        tmp_path / "folder.nii",
        Path("/dev/zero"),
        tmp_path / "loop.nii",
    ):
        if path.name == "folder.nii":
            path.mkdir()
        if path.name == "loop.nii":
            path.symlink_to(path)
        with pytest.raises(HstfError, match=path.name):
            read_image(path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    with pytest.raises(HstfError, match="device"):
        open_nifti(tmp_path / "pipe.nii")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_numbers(tmp_path: Path, dtype: object) -> None:
    path = save(tmp_path / "image.nii.gz", np.zeros(SHAPE, dtype), LAS)  # type: ignore[call-overload]
    with pytest.raises(HstfError, match="expected whole or real numbers"):
        read_image(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_claims_gigabytes_takes_no_memory(tmp_path: Path, suffix: str) -> None:
    content = bytearray(save(tmp_path / "small.nii", voxels(), LAS).read_bytes())
    content[40:48] = struct.pack("<4h", 3, 30000, 30000, 30000)
    path = tmp_path / f"huge{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    tracemalloc.start()
    for reading in (read_image, read_label):
        with pytest.raises(HstfError, match="the header claims shape \\(30000, 30000, 30000\\)"):
            reading(path)
    assert "claims" in scan_file(path, label=False).problem
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_affines_that_place_nothing(tmp_path: Path) -> None:
    assert affine_problem(OBLIQUE) == affine_problem(np.diag([1e-3, 1e-3, 1e-3, 1])) == ""
    assert "finite" in affine_problem(np.diag([1, np.nan, 1, 1]))
    assert "singular" in affine_problem(np.diag([1, 0, 1, 1]))
    flat = OBLIQUE.copy()
    flat[:, 1] = flat[:, 0]
    assert "singular" in affine_problem(flat)
    content = bytearray(save(tmp_path / "image.nii", voxels(), LAS, sform_code=1).read_bytes())
    content[280:328] = bytes(48)
    (tmp_path / "image.nii").write_bytes(content)
    with pytest.raises(HstfError, match="singular"):
        read_image(tmp_path / "image.nii")


def damaged(path: Path) -> None:
    """Every way of reading ends in a result or a sentence, in bounded memory."""
    for reading in (read_image, read_label):
        try:
            reading(path)
        except HstfError as error:
            assert str(error).startswith(str(path))
    for label in (False, True):
        assert scan_file(path, label).problem is not None


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(edits=st.lists(st.tuples(st.integers(0, 359), st.integers(0, 255)), min_size=1, max_size=6))
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_random_headers(
    tmp_path_factory: pytest.TempPathFactory, kind: type, edits: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    content = bytearray(save(folder / "sound.nii", voxels(), OBLIQUE, kind).read_bytes())
    for place, value in edits:
        content[place] = value
    (folder / "fuzz.nii").write_bytes(content)
    damaged(folder / "fuzz.nii")
    (folder / "fuzz.nii.gz").write_bytes(gzip.compress(content, 1))
    damaged(folder / "fuzz.nii.gz")


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(data=st.data())
def test_random_damage_of_the_packed_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "packed.nii.gz"
    content = bytearray(
        gzip.compress(save(path.with_name("sound.nii"), voxels(), LAS).read_bytes(), mtime=0)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    damaged(path)


ITK_SUFFIXES = (".mha", ".nrrd")
TURN = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""Orthonormal: ITK knows no shear."""


def save_itk(path: Path, data: np.ndarray, packed: bool = True) -> Path:
    image = sitk.GetImageFromArray(data.T.copy())
    image.SetSpacing((1.5, 2.0, 0.75))
    image.SetOrigin((-5.0, 7.25, 9.5))
    image.SetDirection(TURN.ravel().tolist())
    sitk.WriteImage(image, str(path), packed)
    return path


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_itk_formats_lie_where_itk_puts_them(
    tmp_path: Path, suffix: str, dtype: type, packed: bool
) -> None:
    data = np.abs(voxels()).astype(dtype)
    volume = read_image(save_itk(tmp_path / f"scan{suffix}", data, packed))
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.header.get_data_dtype() == dtype
    # x (left) and y (posterior) of ITK are -x and -y of NIfTI
    lps = TURN @ np.diag([1.5, 2.0, 0.75])
    np.testing.assert_allclose(
        volume.affine[:3, :3], np.diag([-1, -1, 1]) @ lps, rtol=1e-14, atol=1e-15
    )
    np.testing.assert_array_equal(volume.affine[:3, 3], [5.0, -7.25, 9.5])
    scan = scan_file(tmp_path / f"scan{suffix}", label=False)
    assert (scan.problem, scan.unit, scan.codes, scan.shape) == ("", "mm", (1, 1), SHAPE)
    assert (scan.minimum, scan.maximum) == (data.min(), data.max())


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_a_label_of_an_itk_volume_lies_on_it(tmp_path: Path, suffix: str) -> None:
    label = (voxels() > 300).astype(np.int16)
    source = read_label(save_itk(tmp_path / f"label{suffix}", label))
    np.testing.assert_array_equal(source.data, label)
    assert scan_file(tmp_path / f"label{suffix}", label=True).values == {
        "0": int((label == 0).sum()),
        "1": int(label.sum()),
    }
    write_like(tmp_path / "label.nii.gz", source.data, source)
    np.testing.assert_allclose(
        read_label(tmp_path / "label.nii.gz").affine, source.affine, rtol=1e-6
    )
    by_itk = sitk.ReadImage(str(tmp_path / "label.nii.gz"))  # ITK's own word on where it lies
    np.testing.assert_allclose(by_itk.GetOrigin(), (-5.0, 7.25, 9.5), rtol=1e-6)
    np.testing.assert_allclose(np.reshape(by_itk.GetDirection(), (3, 3)), TURN, atol=1e-6)


def test_nrrd_in_ras_is_left_as_it_is(tmp_path: Path) -> None:
    header = (
        "NRRD0004\ntype: uint8\ndimension: 3\nspace: right-anterior-superior\nsizes: 7 6 5\nencoding: raw\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\nspace origin: (10,20,30)\nendian: little\n\n"
    )
    data = np.arange(210, dtype=np.uint8)
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + data.tobytes())
    volume = read_image(tmp_path / "scan.nrrd")
    np.testing.assert_array_equal(
        volume.affine, [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(volume.data, data.reshape(SHAPE, order="F"))


@pytest.mark.parametrize("suffix", ITK_SUFFIXES)
def test_damaged_itk_files(tmp_path: Path, suffix: str) -> None:
    whole = save_itk(tmp_path / f"scan{suffix}", voxels()).read_bytes()
    rgb = sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(rgb, str(tmp_path / f"rgb{suffix}"))
    series = sitk.JoinSeries([sitk.Image(7, 6, 5, sitk.sitkUInt8)] * 2)
    sitk.WriteImage(series, str(tmp_path / f"series{suffix}"))
    (tmp_path / f"cut{suffix}").write_bytes(whole[:-40])
    (tmp_path / f"rubbish{suffix}").write_bytes(b"hello")
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    for name in ("rgb", "series", "cut", "rubbish", "empty", "absent"):
        path = tmp_path / f"{name}{suffix}"
        with pytest.raises(HstfError, match=name) as refused:
            read_image(path)
        assert "0x" not in str(refused.value)
        damaged(path)
        assert scan_file(path, label=False).problem


def test_dicom_is_pointed_to_dcm2niix(tmp_path: Path) -> None:
    (tmp_path / "IM0001.dcm").write_bytes(bytes(128) + b"DICM")
    with pytest.raises(HstfError, match="dcm2niix -z y"):
        read_image(tmp_path / "IM0001.dcm")
