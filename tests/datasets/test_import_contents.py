"""Damaged scans have no label values: the importers report them elsewhere."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from support.damage import flip_bit

from hstf.datasets.importers.contents import label_values_of_scan
from hstf.imaging.volume_files import open_nifti

LABEL = np.random.default_rng(0).integers(0, 3, (96, 96, 64)).astype(np.int16)
INTACT_BYTES = 300_000
"""More than gzip reads ahead, less than there are before the middle slice."""
NO_BLOCK = b"\xff" * 64
"""Bytes that begin no block of a gzip stream."""


def test_a_damaged_gzip_stream_has_no_label_values(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    content = nib.Nifti1Image(LABEL, np.eye(4)).to_bytes()
    deflater = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    start = deflater.compress(content[:INTACT_BYTES]) + deflater.flush(zlib.Z_FULL_FLUSH)
    rest = deflater.compress(content[INTACT_BYTES:]) + deflater.flush()
    path.write_bytes(start + rest)
    assert label_values_of_scan(path) == [0, 1, 2]
    path.write_bytes(start + NO_BLOCK + rest[len(NO_BLOCK) :])
    with pytest.raises(zlib.error):
        np.asanyarray(open_nifti(path).dataobj[:, :, 32])
    assert label_values_of_scan(path) == []


@pytest.mark.parametrize("name", ["a.mha", "a.nrrd"])
def test_a_damaged_file_of_itk_has_no_label_values(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    sitk.WriteImage(sitk.GetImageFromArray(LABEL), str(path), True)
    assert label_values_of_scan(path) == [0, 1, 2]
    flip_bit(path)
    assert label_values_of_scan(path) == []
