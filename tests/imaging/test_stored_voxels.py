"""Checksums of compressed files are compared wherever all voxels are read."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from hstf.datasets.importers.extract import _write_channels
from hstf.imaging.stored_voxels import stored_voxels
from hstf.imaging.volume_files import open_any
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError

TRAILER_BYTES = 8
"""A gzip file ends with its checksum and its length."""


def voxels() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(12, 14, 16)).astype(np.float32)


def damage(path: Path) -> None:
    """Change the checksum at the end of a gzip file, so that everything else can be read."""
    content = bytearray(path.read_bytes())
    content[-TRAILER_BYTES] ^= 1
    path.write_bytes(content)


def write_volume(folder: Path, suffix: str) -> Path:
    path = folder / f"scan{suffix}"
    kind = nib.MGHImage if suffix == ".mgz" else nib.Nifti1Image
    nib.save(kind(voxels(), np.eye(4)), path)
    return path


@pytest.mark.parametrize("suffix", [".nii.gz", ".mgz"])
def test_read_image_compares_the_checksum(tmp_path: Path, suffix: str) -> None:
    path = write_volume(tmp_path, suffix)
    assert np.array_equal(read_image(path).data, voxels())
    damage(path)
    with pytest.raises(HstfError, match=rf"scan{suffix}: the voxels cannot be read.*CRC check"):
        read_image(path)


def test_read_label_compares_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "label.nii.gz"
    nib.save(nib.Nifti1Image((voxels() > 0).astype(np.uint8), np.eye(4)), path)
    damage(path)
    with pytest.raises(HstfError, match="CRC check"):
        read_label(path)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
def test_stored_voxels_are_scaled_as_nibabel_scales_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    image = nib.Nifti1Image((100 * voxels()).astype(np.int16), np.eye(4))
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, path)
    expected = np.asanyarray(nib.load(path).dataobj)
    assert np.array_equal(stored_voxels(open_any(path)), expected)
    as_float = stored_voxels(open_any(path), np.dtype(np.float32))
    assert as_float.dtype == np.float32
    np.testing.assert_allclose(as_float, expected, rtol=1e-6)


def test_stored_voxels_raises_for_any_flipped_bit_of_the_content(tmp_path: Path) -> None:
    path = write_volume(tmp_path, ".nii.gz")
    content = path.read_bytes()
    first = content.index(b"\0", 10) + 1  # the compressed bytes are behind the name of the file
    for bit in range(8 * first, 8 * len(content), 61):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(flipped)
        with pytest.raises((HstfError, OSError, EOFError, ValueError, zlib.error)):
            stored_voxels(open_any(path))


def test_write_channels_names_damage_of_a_file_with_four_axes(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(np.stack([voxels(), voxels()], axis=3), np.eye(4)), path)
    targets = [(0, tmp_path / "first.nii.gz"), (1, tmp_path / "second.nii.gz")]
    assert _write_channels((path, targets)) == ""
    for _, target in targets:
        target.unlink()
    damage(path)
    assert "CRC check" in _write_channels((path, targets))
    assert not any(target.exists() for _, target in targets)
