"""Damage of compressed MetaImage and NRRD files is found, and intact files are read as before."""

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.damage import flip_bit
from support.volume_files import read_damaged

from hstf.imaging import itk_checksums
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError

SHAPE = (12, 14, 16)
DATA = np.random.default_rng(0).normal(0, 100, SHAPE).astype(np.int16)
FORMATS = {"a.mha": "a.mha", "a.mhd": "a.zraw", "a.nrrd": "a.nrrd", "a.nhdr": "a.raw.gz"}
"""Names of volumes, and of the files with their compressed voxels."""
HEADER_ENDS = {
    "a.mha": re.compile(rb"LOCAL\n"),
    "a.mhd": re.compile(b""),
    "a.nrrd": re.compile(rb"\n\n"),
    "a.nhdr": re.compile(b""),
}
"""What the compressed voxels of a file follow."""
VOXELS = bytes(range(210))
SMALL = np.frombuffer(VOXELS, np.uint8).reshape((7, 6, 5), order="F")
ZLIB = zlib.compress(VOXELS)
GZIP = gzip.compress(VOXELS)
METAIMAGE = b"ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementType = MET_UCHAR\n"
COMPRESSED = METAIMAGE + b"BinaryData = True\nCompressedData = True\n"
SIZE = b"CompressedDataSize = %d\n"
LOCAL = b"ElementDataFile = LOCAL\n"
OTHER = b"ElementDataFile = a.zraw\n"
NRRD = b"NRRD0004\ntype: uchar\ndimension: 3\nsizes: 7 6 5\n"


def save(folder: Path, name: str, is_compressed: bool = True) -> Path:
    """Write the voxels with ITK and return the path of the volume."""
    path = folder / name
    image = sitk.GetImageFromArray(DATA.T.copy())
    image.SetSpacing((1.0, 1.0, 2.0))
    image.SetOrigin((3.0, 4.0, 5.0))
    sitk.WriteImage(image, str(path), is_compressed)
    return path


def refuse(path: Path, expected: str) -> None:
    """Check that all readers of a volume report its damage."""
    message = f"{re.escape(str(path))}: the voxels cannot be read; the file is truncated or damaged"
    for read in (read_image, read_label):
        with pytest.raises(HstfError, match=rf"{message} \(.*{expected}"):
            read(path)
    for is_label in (False, True):
        assert re.search(rf"truncated or damaged \(.*{expected}", scan_file(path, is_label).problem)


@pytest.mark.parametrize("is_compressed", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_read_image_reads_intact_files(tmp_path: Path, name: str, is_compressed: bool) -> None:
    path = save(tmp_path, name, is_compressed)
    np.testing.assert_array_equal(read_image(path).data, DATA)
    assert scan_file(path, label=False).problem == ""


@pytest.mark.parametrize(("name", "other"), FORMATS.items())
def test_no_flipped_bit_changes_voxels_silently(tmp_path: Path, name: str, other: str) -> None:
    path = save(tmp_path, name)
    damaged = tmp_path / other
    content = damaged.read_bytes()
    found = []
    end = HEADER_ENDS[name].search(content)
    assert end is not None
    bits = range(8 * end.end(), 8 * len(content), 997)
    for bit in bits:
        flip_bit(damaged, bit)
        if _is_damaged(path):
            assert "truncated or damaged" in scan_file(path, label=False).problem
            found.append(bit)
        damaged.write_bytes(content)
    # Some bits do not count, for instance the time in a gzip file.
    assert len(found) > 0.9 * len(bits)


def _is_damaged(path: Path) -> bool:
    """Return whether a volume cannot be read; its voxels are unchanged if it can."""
    try:
        np.testing.assert_array_equal(read_image(path).data, DATA)
    except HstfError as error:
        assert "truncated or damaged" in str(error)
        return True
    return False


@pytest.mark.parametrize("lost", [1, 5, 400])
@pytest.mark.parametrize(("name", "other"), FORMATS.items())
def test_read_image_raises_for_truncated_voxels(
    tmp_path: Path, name: str, other: str, lost: int
) -> None:
    path = save(tmp_path, name)
    content = (tmp_path / other).read_bytes()
    (tmp_path / other).write_bytes(content[:-lost])
    refuse(path, "")


@pytest.mark.parametrize("name", FORMATS)
def test_checksums_are_compared_in_small_blocks(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path, name)
    monkeypatch.setattr(itk_checksums, "BLOCK_BYTES", 100)
    np.testing.assert_array_equal(read_image(path).data, DATA)
    flip_bit(tmp_path / FORMATS[name], 8 * (tmp_path / FORMATS[name]).stat().st_size - 60)
    refuse(path, "incorrect data check")


def test_read_image_compares_the_checksum_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    save(tmp_path / "target", "a.mhd")
    path = tmp_path / "b.mhd"
    path.symlink_to(tmp_path / "target" / "a.mhd")
    np.testing.assert_array_equal(read_image(path).data, DATA)
    flip_bit(tmp_path / "target" / "a.zraw")
    refuse(path, "compressed voxels")


def test_read_image_compares_the_checksum_of_a_volume_with_four_axes(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(DATA.T.copy())]), str(path), True)
    np.testing.assert_array_equal(read_image(path).data, DATA)
    flip_bit(path)
    refuse(path, "compressed voxels")


@pytest.mark.parametrize(
    ("header", "voxels"),
    [
        (COMPRESSED + SIZE % len(ZLIB) + LOCAL, ZLIB),
        (COMPRESSED + SIZE % len(ZLIB) + LOCAL, ZLIB + b"\0" * 20),
        (COMPRESSED + SIZE % (len(ZLIB) + 20) + LOCAL, ZLIB + b"\0" * 20),
        (COMPRESSED + SIZE % len(GZIP) + LOCAL, GZIP),
        ((COMPRESSED + SIZE % len(ZLIB) + LOCAL).replace(b"\n", b"\r\n"), ZLIB),
        ((COMPRESSED + SIZE % len(ZLIB) + LOCAL).replace(b" = ", b":"), ZLIB),
        (METAIMAGE + b"CompressedData = true\n" + SIZE % len(ZLIB) + LOCAL, ZLIB),
        ((COMPRESSED + b"HeaderSize = 300\n" + SIZE % len(ZLIB) + LOCAL).ljust(300), ZLIB),
        (METAIMAGE + b"BinaryData = True\n" + LOCAL, VOXELS),
    ],
)
def test_read_image_reads_metaimage_of_other_writers(
    tmp_path: Path, header: bytes, voxels: bytes
) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(header.replace(b"ElementDataFile:", b"ElementDataFile = ") + voxels)
    np.testing.assert_array_equal(read_image(path).data, SMALL)
    assert scan_file(path, label=True).problem == ""


@pytest.mark.parametrize(
    ("header", "voxels"),
    [
        (COMPRESSED + OTHER, ZLIB),
        (COMPRESSED + OTHER, ZLIB + b"\0" * 20),
        (COMPRESSED + SIZE % len(ZLIB) + OTHER, ZLIB + b"padding"),
        (COMPRESSED + b"HeaderSize = 5\n" + SIZE % len(ZLIB) + OTHER, b"hello" + ZLIB),
        (
            METAIMAGE + b"BinaryData = False\nCompressedData = True\n" + OTHER,
            b" ".join(b"%d" % value for value in VOXELS) + b"\n",
        ),
    ],
)
def test_read_image_reads_metaimage_headers_of_other_writers(
    tmp_path: Path, header: bytes, voxels: bytes
) -> None:
    (tmp_path / "a.mhd").write_bytes(header)
    (tmp_path / "a.zraw").write_bytes(voxels)
    np.testing.assert_array_equal(read_image(tmp_path / "a.mhd").data, SMALL)


@pytest.mark.parametrize(
    ("fields", "voxels"),
    [
        (b"encoding: gzip\n\n", GZIP),
        (b"encoding: gz\nspace dimension: 3\n# a comment\nkey:=value\n\n", GZIP),
        (b"Encoding: GZIP\n\r\n", GZIP),
        (b"encoding: gzip\n# a comment\rnote:=encoding: raw\n\n", GZIP),
        (b"encoding: gzip\n\n", GZIP + b"\0" * 20),
        (b"encoding: gzip\n\n", GZIP + b"padding"),
        (b"encoding: gzip\n\n", gzip.compress(VOXELS[:90]) + gzip.compress(VOXELS[90:])),
        (b"encoding: gzip\n\n", GZIP + gzip.compress(b"")),
        (b"encoding: gzip\nline skip: 2\n\n", b"one\ntwo\r\n" + GZIP),
        (b"encoding: gzip\nbyteskip: 5\n\n", gzip.compress(b"hello" + VOXELS)),
        (b"encoding: gzip\nbyte skip: -1\n\n", gzip.compress(b"hello" + VOXELS)),
        (b"encoding: raw\n\n", VOXELS),
        (b"encoding: ascii\n\n", b" ".join(b"%d" % value for value in VOXELS)),
        (b"encoding: hex\n\n", VOXELS.hex().encode()),
    ],
)
@pytest.mark.parametrize("name", ["a.nrrd", "a.nhdr"])
def test_read_image_reads_nrrd_of_other_writers(
    tmp_path: Path, name: str, fields: bytes, voxels: bytes
) -> None:
    path = tmp_path / name
    if name == "a.nrrd":
        path.write_bytes(NRRD + fields + voxels)
    else:
        path.write_bytes(NRRD + b"data file: a.raw\n" + fields)
        (tmp_path / "a.raw").write_bytes(voxels)
    np.testing.assert_array_equal(read_image(path).data, SMALL)
    assert scan_file(path, label=True).problem == ""


@pytest.mark.parametrize(
    ("header", "voxels", "expected"),
    [
        (COMPRESSED + LOCAL, ZLIB, "no CompressedDataSize"),
        (COMPRESSED + SIZE % (len(ZLIB) - 4) + LOCAL, ZLIB, "before their last byte"),
        (COMPRESSED + SIZE % len(ZLIB) + LOCAL, b"x" * len(ZLIB), "incorrect header check"),
        (COMPRESSED + SIZE % len(ZLIB) + b"HeaderSize = -1\n" + LOCAL, ZLIB, "negative HeaderSize"),
        (
            COMPRESSED + SIZE % len(zlib.compress(VOXELS[:99])) + LOCAL,
            zlib.compress(VOXELS[:99]),
            "99 bytes, expected 210",
        ),
        (
            COMPRESSED + SIZE % len(zlib.compress(2 * VOXELS)) + LOCAL,
            zlib.compress(2 * VOXELS),
            "more than 210 bytes",
        ),
    ],
)
def test_read_image_refuses_damaged_metaimage(
    tmp_path: Path, header: bytes, voxels: bytes, expected: str
) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(header + voxels)
    refuse(path, expected)


@pytest.mark.parametrize(
    ("fields", "voxels", "expected"),
    [
        (b"", VOXELS, "incorrect header check"),
        (b"", ZLIB, "incorrect header check"),
        (b"", GZIP[:-8] + b"\0" * 8, "incorrect data check"),
        (b"", GZIP[:-1] + b"x", "incorrect length check"),
        (b"", GZIP[:-1], "before their last byte"),
        (b"", gzip.compress(VOXELS[:99]), "before their last byte"),
        (b"", gzip.compress(VOXELS[:99]) + VOXELS[99:], "incorrect header check"),
        (b"", gzip.compress(2 * VOXELS), "more than 210 bytes"),
        (b"byte skip: -1\n", gzip.compress(bytes(1000) + VOXELS), "more than 710 bytes"),
    ],
)
def test_read_image_refuses_damaged_nrrd(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fields: bytes,
    voxels: bytes,
    expected: str,
) -> None:
    monkeypatch.setattr(itk_checksums, "MAXIMUM_EXTRA_BYTES", 500)
    path = tmp_path / "a.nrrd"
    path.write_bytes(NRRD + b"encoding: gzip\n" + fields + b"\n" + voxels)
    refuse(path, expected)


def test_read_image_refuses_skipped_lines_that_are_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(itk_checksums, "MAXIMUM_TEXT_BYTES", 200)
    (tmp_path / "a.raw").write_bytes(b"x" * 300 + b"\n" + GZIP)
    path = tmp_path / "a.nhdr"
    path.write_bytes(NRRD + b"data file: a.raw\nencoding: gzip\nline skip: 1\n")
    refuse(path, "its header skips 1 lines")


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"1e30", b"9" * 400, b"x", b""])
@pytest.mark.parametrize("field", [b"HeaderSize", b"CompressedDataSize"])
def test_read_image_survives_numbers_without_meaning(
    tmp_path: Path, field: bytes, number: bytes
) -> None:
    path = tmp_path / "a.mha"
    path.write_bytes(COMPRESSED + SIZE % len(ZLIB) + field + b" = " + number + b"\n" + LOCAL + ZLIB)
    read_damaged(path)
