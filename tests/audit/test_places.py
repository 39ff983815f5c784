"""The uncertain places of a pseudo-label, computed in slabs."""

from pathlib import Path

import numpy as np
import pytest
from support.audit_desk import nifti

from hstf.audit.places import uncertain_places

AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
NAMES = {3: "organ"}


def write(folder: Path, label: np.ndarray, weights: np.ndarray) -> tuple[Path, Path]:
    paths = (folder / "label.nii", folder / "weight.nii")
    for path, data in zip(paths, (label, weights), strict=True):
        path.write_bytes(nifti(data, AFFINE))
    return paths


@pytest.fixture
def label() -> np.ndarray:
    """An organ in a volume whose sides are no multiples of a block."""
    data = np.zeros((43, 38, 21), np.uint8)
    data[5:41, 4:36, 2:20] = 3
    return data


def test_the_least_weight_comes_first_and_background_is_left_out(
    tmp_path: Path, label: np.ndarray
) -> None:
    weights = np.full_like(label, 255)
    weights[40, 20, 10] = 0
    weights[8:12, 6:9, 4:6] = 0
    weights[0:4, 0:4, 0:2] = 0  # background
    found = uncertain_places(*write(tmp_path, label, weights), NAMES)
    assert [place["class"] for place in found] == ["organ"]  # a single voxel does not matter
    x, y, z = np.linalg.solve(AFFINE[:3, :3], found[0]["mm"])
    assert 8 <= x < 12 and 6 <= y < 9 and 4 <= z < 6 and found[0]["weight"] == 0


def test_without_doubt_one_place_is_in_the_foreground(tmp_path: Path, label: np.ndarray) -> None:
    (place,) = uncertain_places(*write(tmp_path, label, np.full_like(label, 255)), NAMES)
    voxel = tuple(np.rint(np.linalg.solve(AFFINE[:3, :3], place["mm"])).astype(int))
    assert label[voxel] == 3 and place["weight"] == 1.0
