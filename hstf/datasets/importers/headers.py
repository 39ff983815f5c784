"""Headers and values of the files that an importer found: what can be known before ``hstf check`` reads everything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np

from hstf.datasets.importers.dataset import DataSet, FoundCase
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import open_any, open_nifti, spacing_of
from hstf.runtime.errors import HstfError, join_faults
from hstf.runtime.processes import ProcessDied, map_processes, worker_count
from hstf.runtime.progress import Progress, track

T = TypeVar("T")
R = TypeVar("R")
FEW = 16
"""So many files are read before processes would have started."""


@dataclass(frozen=True)
class Grid:
    """Shape and affine of a case's images."""

    shape: tuple[int, ...]
    affine: np.ndarray
    """``(4, 4)``, voxel index to mm."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along each array axis."""
        return spacing_of(self.affine)

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³."""
        return float(np.prod(self.spacing))


def read_grids(dataset: DataSet) -> dict[str, Grid]:
    """The grid of each case; unreadable files and files of a case that differ in shape become faults."""
    grids = {}
    for case in track(dataset.cases, "headers"):
        try:
            grids[case.case_id] = _read_grid(case)
        except HstfError as error:
            dataset.fault(case.case_id, str(error))
    return grids


def _read_grid(case: FoundCase) -> Grid:
    first: Grid | None = None
    for path in dict.fromkeys(image.path for image in case.images.values()):
        opened = _open(
            path, [image.channel for image in case.images.values() if image.path == path]
        )
        grid = Grid(tuple(map(int, opened.shape[:3])), np.asarray(opened.affine, dtype=float))
        first = first or grid
        _same_shape(path, grid.shape, first, case)
    assert first is not None
    if case.label is not None:
        _same_shape(case.label, tuple(map(int, open_nifti(case.label).shape[:3])), first, case)
    return first


def _open(path: Path, channels: Sequence[int | None]) -> nib.Nifti1Image:
    """The header of an image; of one with channels, their number is as expected."""
    if channels == [None]:
        return open_nifti(path)
    image = open_any(path)
    if len(image.shape) != 4 or image.shape[3] != len(channels):
        raise HstfError(
            f"{path}: has shape {tuple(image.shape)}, expected four axes, {len(channels)} on the last."
        )
    return image


def _same_shape(path: Path, shape: tuple[int, ...], grid: Grid, case: FoundCase) -> None:
    if shape != grid.shape:
        image = next(iter(case.images.values())).path.name
        raise HstfError(
            f"{path}: has shape {shape}, but {image} has {grid.shape}; they must lie on one grid."
        )


def label_values(labels: Sequence[Path]) -> set[int]:
    """All values in ``labels``, which are those of labelled cases: no other's may be read.

    Raises:
        HstfError: a label cannot be read, or holds values that are none.
    """
    faults: list[str] = []
    found: set[int] = set()
    for path, values in each(_values, labels, "labels"):
        if isinstance(values, str):
            faults.append(f"{path}: {values}")
        else:
            found |= values
    if faults:
        raise join_faults(
            "labels cannot be used. Mend them, or take their cases out of the folder.", faults
        )
    if not found - {0}:
        raise HstfError("the labelled cases show no class: their labels are 0 everywhere.")
    return found


def _values(path: Path) -> set[int] | str:
    """Values of a label, or why there are none."""
    scan = scan_file(path, label=True)
    odd = [value for value in scan.values if not value.isdigit() or int(value) > 255]
    told = f"label value {', '.join(odd[:3])}, expected whole numbers from 0 to 255"
    return scan.fault or (told if odd else set(map(int, scan.values)))


def each(function: Callable[[T], R], items: Sequence[T], title: str) -> list[tuple[T, R]]:
    """``(item, function(item))`` for all ``items``: many of them side by side in processes.

    Raises:
        HstfError: a process was killed.
    """
    if len(items) <= FEW:
        return [(item, function(item)) for item in items]
    results: list[tuple[T, R]] = []
    with Progress(title, len(items)) as progress:
        for item, result in map_processes(function, items, worker_count(0)):
            if isinstance(result, ProcessDied):
                raise HstfError(
                    f"{item}: the process reading it was killed, most likely for lack of memory."
                )
            results.append((item, result))
            progress.advance()
    return results
