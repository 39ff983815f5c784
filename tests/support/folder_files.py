"""Folders of scans as people have them, written from lists of paths."""

import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import SimpleITK as sitk

from hstf.datasets.importers.dataset import DataSet, FoundCase
from hstf.datasets.importers.folder import find
from hstf.datasets.importers.options import Options
from hstf.experiment.cases import Split
from hstf.imaging.volume_files import is_nifti

SHAPE = (10, 10, 6)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
AFFINE[:3, 3] = 7, 8, 9
LABEL = np.zeros(SHAPE, np.uint8)
LABEL[2:5, 2:5, 1:5] = 1
LABEL[5:8, 2:5, 1:5] = 2


class Pair(NamedTuple):
    """Files of a case, relative to the folder."""

    image: str
    label: str = ""
    split: str = ""
    """Split that the folder states."""


def write(path: Path, content: str) -> None:
    """Write an image (``image``), a label (``label``) or the mask of one value (``1``, ``2``)."""
    if content == "image":
        rng = np.random.default_rng(zlib.crc32(str(path).encode()))
        values = rng.integers(0, 900, SHAPE).astype(np.int16)
    elif content == "label":
        values = LABEL
    else:
        values = (int(content) == LABEL).astype(np.uint8)
    write_values(path, values)


def write_values(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_nifti(path):
        nib.save(nib.Nifti1Image(values, AFFINE), path)
        return
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing((1, 1, 2))
    image.SetOrigin((-7, -8, 9))
    sitk.WriteImage(image, str(path))


def write_pairs(folder: Path, pairs: Mapping[str, Pair]) -> None:
    """Write the files of all cases."""
    for pair in pairs.values():
        write(folder / pair.image, "image")
        if pair.label:
            write(folder / pair.label, "label")


def found(folder: Path, options: Options | None = None) -> DataSet:
    """Return what the importer of folders finds, without problems."""
    dataset = find(folder, options or Options())
    assert dataset.problems == []
    return dataset


def pairs_of(folder: Path, cases: Iterable[FoundCase]) -> dict[str, Pair]:
    """Return the files of each case."""
    pairs = {}
    for case in cases:
        label = str(case.label.relative_to(folder)) if case.label else ""
        split = "" if case.official is None else str(Split(case.official))
        image = str(case.first_path.relative_to(folder))
        pairs[case.case_id] = Pair(image, label, split)
    return pairs


def numbered(image: str, label: str = "", split: str = "", name: str = "c{}") -> dict[str, Pair]:
    """Return three cases. ``{}`` stands for the number, in names and in paths."""
    pairs = {}
    for number in (1, 2, 3):
        pairs[name.replace("{}", str(number))] = Pair(
            image.replace("{}", str(number)),
            label.replace("{}", str(number)),
            split,
        )
    return pairs
