"""Images of a case are read according to their modality."""

from pathlib import Path

import numpy as np
import pytest
from support.volume_files import LAS, lower_bound_of_scans, save_nifti

from hstf.imaging.preparation import read_images
from hstf.runtime.errors import HstfError


def test_read_images_accepts_a_compressible_mask_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bound_of_scans(monkeypatch)
    scan = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    mask = np.zeros((16, 16, 16), np.uint8)
    mask[4:9, 5:10, 3:8] = 1
    paths = [
        save_nifti(tmp_path / "scan.nii.gz", scan, LAS),
        save_nifti(tmp_path / "mask.nii.gz", mask, LAS),
    ]
    volumes = read_images(paths, {"t1": "mr", "prior": "mask"})
    np.testing.assert_array_equal(volumes[0].data, scan)
    np.testing.assert_array_equal(volumes[1].data, mask)
    with pytest.raises(HstfError, match=r"mask\.nii\.gz: .* almost constant, no scan"):
        read_images(paths, {"t1": "mr", "prior": "other"})
