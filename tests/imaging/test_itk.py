"""MetaImage and NRRD volumes are placed where ITK places them."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.volume_files import SHAPE, read_damaged, voxels

from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import read_image, read_label, write_like
from hstf.runtime.errors import HstfError

SUFFIXES = (".mha", ".nrrd")
SPACING = (1.5, 2.0, 0.75)
ORIGIN = (-5.0, 7.25, 9.5)
DIRECTION = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
"""An orthonormal matrix: ITK has no shear."""
VOXELS = bytes(range(210))
METAIMAGE = (
    b"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    b"CompressedData = False\nDimSize = 7 6 5\nElementType = MET_UCHAR\n"
)
NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 7 6 5\nencoding: raw\n"
DTYPES = [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64]


def save_itk(path: Path, data: np.ndarray, is_compressed: bool = True) -> Path:
    """Write a volume with ITK and return its path."""
    image = sitk.GetImageFromArray(data.T.copy())
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetDirection(DIRECTION.ravel().tolist())
    sitk.WriteImage(image, str(path), is_compressed)
    return path


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_image_places_voxels_as_itk(
    tmp_path: Path,
    suffix: str,
    dtype: type,
    is_compressed: bool,
) -> None:
    data = np.abs(voxels()).astype(dtype)
    path = save_itk(tmp_path / f"scan{suffix}", data, is_compressed)
    volume = read_image(path)
    np.testing.assert_array_equal(volume.data, data.astype(np.float32))
    assert volume.header.get_data_dtype() == dtype
    # x (left) and y (posterior) of ITK are -x and -y of NIfTI.
    lps_axes = DIRECTION @ np.diag(SPACING)
    ras_axes = np.diag([-1, -1, 1]) @ lps_axes
    np.testing.assert_allclose(volume.affine[:3, :3], ras_axes, rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(volume.affine[:3, 3], [5.0, -7.25, 9.5])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scan_file_reads_itk_volumes(tmp_path: Path, suffix: str, dtype: type) -> None:
    data = np.abs(voxels()).astype(dtype)
    scan = scan_file(save_itk(tmp_path / f"scan{suffix}", data), label=False)
    assert scan.problem == ""
    assert scan.unit == "mm"
    assert scan.codes == (1, 1)
    assert scan.shape == SHAPE
    assert scan.minimum == data.min()
    assert scan.maximum == data.max()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scan_file_counts_labels_of_itk_volumes(tmp_path: Path, suffix: str) -> None:
    label = (voxels() > 300).astype(np.int16)
    scan = scan_file(save_itk(tmp_path / f"label{suffix}", label), label=True)
    assert scan.values == {"0": int((label == 0).sum()), "1": int(label.sum())}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_write_like_places_voxels_as_the_itk_source(tmp_path: Path, suffix: str) -> None:
    label = (voxels() > 300).astype(np.int16)
    source = read_label(save_itk(tmp_path / f"label{suffix}", label))
    np.testing.assert_array_equal(source.data, label)
    path = tmp_path / "label.nii.gz"
    write_like(path, source.data, source)
    np.testing.assert_allclose(read_label(path).affine, source.affine, rtol=1e-6)
    by_itk = sitk.ReadImage(str(path))
    np.testing.assert_allclose(by_itk.GetOrigin(), ORIGIN, rtol=1e-6)
    direction = np.reshape(by_itk.GetDirection(), (3, 3))
    np.testing.assert_allclose(direction, DIRECTION, atol=1e-6)


def test_read_image_keeps_the_axes_of_nrrd_in_ras(tmp_path: Path) -> None:
    header = (
        "NRRD0004\n"
        "type: uint8\n"
        "dimension: 3\n"
        "space: right-anterior-superior\n"
        "sizes: 7 6 5\n"
        "encoding: raw\n"
        "space directions: (2,0,0) (0,3,0) (0,0,4)\n"
        "space origin: (10,20,30)\n"
        "endian: little\n\n"
    )
    data = np.arange(210, dtype=np.uint8)
    (tmp_path / "scan.nrrd").write_bytes(header.encode() + data.tobytes())
    volume = read_image(tmp_path / "scan.nrrd")
    affine = [[2, 0, 0, 10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(volume.affine, affine)
    np.testing.assert_array_equal(volume.data, data.reshape(SHAPE, order="F"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_read_image_names_damaged_itk_files(tmp_path: Path, suffix: str) -> None:
    intact = save_itk(tmp_path / f"scan{suffix}", voxels()).read_bytes()
    colours = sitk.GetImageFromArray(np.zeros((5, 6, 7, 3), np.uint8), isVector=True)
    sitk.WriteImage(colours, str(tmp_path / f"rgb{suffix}"))
    series = sitk.JoinSeries([sitk.Image(7, 6, 5, sitk.sitkUInt8)] * 2)
    sitk.WriteImage(series, str(tmp_path / f"series{suffix}"))
    (tmp_path / f"cut{suffix}").write_bytes(intact[:-40])
    (tmp_path / f"rubbish{suffix}").write_bytes(b"hello")
    (tmp_path / f"empty{suffix}").write_bytes(b"")
    for name in ("rgb", "series", "cut", "rubbish", "empty", "absent"):
        path = tmp_path / f"{name}{suffix}"
        with pytest.raises(HstfError, match=name) as refused:
            read_image(path)
        assert "0x" not in str(refused.value), "no addresses in memory"
        read_damaged(path)
        assert scan_file(path, label=False).problem


@pytest.mark.parametrize(
    "lines",
    [
        b"ElementDataFile = /etc/hostname\n",
        b"ElementDataFile = secret.txt\n",
        b"ElementDataFile = ../secret.txt\n",
        b"ElementDataFile:secret.txt\nElementDataFile = LOCAL\n",
        b"elementdatafile = secret.txt\nElementDataFile = LOCAL\n",
        b"ElementDataFile = LIST\nsecret.txt\n",
        b"ElementDataFile = secret%03d.txt 1 5 1\n",
        b"Comment = \nElementDataFile = LOCAL\nElementDataFile = secret.txt\n",
    ],
)
def test_read_image_refuses_metaimage_with_voxels_in_other_files(
    tmp_path: Path, lines: bytes
) -> None:
    (tmp_path / "secret.txt").write_bytes(VOXELS)
    path = tmp_path / "scan.mha"
    path.write_bytes(METAIMAGE + lines + VOXELS)
    with pytest.raises(HstfError, match=r"names another file with the voxels.*Convert the volume"):
        read_image(path)
    assert "names another file" in scan_file(path, label=True).problem


@pytest.mark.parametrize(
    "lines",
    [
        b"data file: /etc/hostname\n",
        b"datafile: secret.txt\n\n",
        b"Data File: secret.txt\n\n",
        b"data file: LIST\nsecret.txt\n",
        b"data file: secret%03d.txt 1 5 1\n\n",
        b"# a comment\rdata file: secret.txt\n\n",
        b"\r\ndata file: secret.txt\n",
        b" \ndata file: secret.txt\n",
    ],
)
def test_read_image_refuses_nrrd_with_voxels_in_other_files(tmp_path: Path, lines: bytes) -> None:
    (tmp_path / "secret.txt").write_bytes(VOXELS)
    path = tmp_path / "scan.nrrd"
    path.write_bytes(NRRD + lines + VOXELS)
    with pytest.raises(HstfError, match=r"names another file with the voxels.*Convert the volume"):
        read_image(path)
    assert "names another file" in scan_file(path, label=True).problem


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("scan.mha", METAIMAGE + b"Comment = x\nElementDataFile = LOCAL\n"),
        ("scan.mha", METAIMAGE + b"0008|0060 = CT\n  ElementDataFile=LOCAL\r\n"),
        ("scan.nrrd", NRRD + b"\n"),
        ("scan.nrrd", NRRD.replace(b"\n", b"\r\n") + b"\r\n"),
        ("scan.nrrd", NRRD + b"content: the data file: none\nnote:=data file: x\n\n"),
    ],
)
def test_read_image_reads_voxels_in_the_file_itself(
    tmp_path: Path, name: str, header: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(header + VOXELS)
    data = np.frombuffer(VOXELS, np.uint8).reshape(SHAPE, order="F")
    np.testing.assert_array_equal(read_image(path).data, data)


@pytest.mark.parametrize("name", ["scan.mhd", "scan.nhdr"])
def test_read_image_names_the_way_to_convert_detached_headers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(NRRD)
    with pytest.raises(HstfError, match=r"must name one file with the voxels.*WriteImage"):
        read_image(tmp_path / name)
