"""Small volumes, written as NIfTI files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import read_image, read_label
from hstf.runtime.errors import HstfError

SHAPE = (7, 6, 5)
LAS = np.diag([-2.0, 1.5, 3.0, 1.0])
"""Affine whose first axis points to the left."""
OBLIQUE = np.array(
    [
        [1.9, -0.31, 0.12, -91.2],
        [0.28, 1.92, -0.4, 40.7],
        [-0.05, 0.37, 2.9, 12.5],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def voxels() -> np.ndarray:
    """Return random voxels of :data:`SHAPE`."""
    return np.random.default_rng(0).integers(-200, 900, SHAPE).astype(np.int16)


def save_nifti(
    path: Path,
    data: np.ndarray,
    affine: np.ndarray,
    image_type: type = nib.Nifti1Image,
    qform_code: int | None = None,
    sform_code: int | None = None,
) -> Path:
    """Write a NIfTI file and return its path."""
    image = image_type(data, affine)
    if qform_code is not None:
        image.set_qform(affine, qform_code)
    if sform_code is not None:
        image.set_sform(affine, sform_code)
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, path)
    return path


def write_large_mask(path: Path) -> int:
    """Write a mask of a CT of 512 x 512 x 300 voxels with one ellipsoid, compressed by ITK.

    Returns:
        Number of voxels of the ellipsoid.
    """
    z, y, x = np.ogrid[-1:1:80j, -1:1:150j, -1:1:200j]
    ellipsoid = x**2 + y**2 + z**2 < 1
    mask = np.zeros((300, 512, 512), np.uint8)
    mask[100:180, 200:350, 150:350] = ellipsoid
    image = sitk.GetImageFromArray(mask)
    image.SetSpacing((0.8, 0.8, 1.0))
    sitk.WriteImage(image, path, True, 6)
    return int(ellipsoid.sum())


def lower_bound_of_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small masks be refused as scans."""
    monkeypatch.setattr("hstf.imaging.volume_files.LARGE_SCAN", 100)
    monkeypatch.setattr("hstf.imaging.volume_files.MAXIMUM_LARGE_RATIO", 3)


def read_damaged(path: Path) -> None:
    """Read a damaged file in all ways: each of them returns a result or raises an HstfError."""
    for read in (read_image, read_label):
        try:
            read(path)
        except HstfError as error:
            assert str(error).startswith(str(path))
    for label in (False, True):
        assert isinstance(scan_file(path, label).problem, str)
