"""Headers and label values of the files that an importer found.

An import reads only what it needs. ``hstf check`` reads all files completely.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np

from hstf.datasets.importers.contents import label_values_of_scan
from hstf.datasets.importers.dataset import DataSet, FoundCase
from hstf.datasets.importers.slicer import crop_advice
from hstf.imaging.affines import spacing_of
from hstf.imaging.guards import MASK, Level, header_issues
from hstf.imaging.scan import scan_file, scan_header
from hstf.imaging.volumes import open_any, open_nifti
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.processes import ProcessDied, map_processes, worker_count
from hstf.runtime.progress import Progress, track

T = TypeVar("T")
R = TypeVar("R")
FEW_FILES = 16
"""Up to this number of files are read in one process: starting further processes takes longer."""
MAXIMUM_SHOWN = 6
"""Number of label values that a message shows."""
MAXIMUM_VALUE = 255
"""Labels are stored as 8-bit integers."""


@dataclass(frozen=True)
class Grid:
    """Shape and affine of the images of a case."""

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
    """Read the grid of each case.

    Unreadable files, headers without a geometry and files of a case with different shapes are
    recorded as problems. Doubtful headers are recorded as warnings.
    """
    grids = {}
    for case in track(dataset.cases, "headers"):
        try:
            grids[case.case_id] = _read_grid(case)
        except HstfError as error:
            dataset.add_problem(case.case_id, str(error))
            continue
        _check_headers(dataset, case)
    return grids


def _check_headers(dataset: DataSet, case: FoundCase) -> None:
    """Record what is wrong or doubtful in the headers of the images of ``case``."""
    for image in case.images.values():
        if image.channel is not None:
            continue
        scan = scan_header(image.path)
        if scan.problem:
            dataset.add_problem(image.path, scan.problem)
            continue
        for issue in header_issues(scan):
            text = f"{issue.found}; expected {issue.expected}. {issue.what_to_do}".rstrip()
            if issue.level is Level.ERROR:
                dataset.add_problem(image.path, text)
            else:
                dataset.warnings[text].append(image.path)


def find_label_maps(dataset: DataSet) -> None:
    """Record images that look like label maps as problems: a mask must not pass for a scan.

    Modalities of the kind ``mask`` are what they look like.
    """
    paths = []
    for case in dataset.cases:
        for name, image in case.images.items():
            if image.channel is None and dataset.modalities.get(name) != MASK:
                paths.append(image.path)
    for path, values in map_files(label_values_of_scan, paths, "values"):
        if values:
            shown = ", ".join(map(str, values[:MAXIMUM_SHOWN]))
            more = ", …" if len(values) > MAXIMUM_SHOWN else ""
            dataset.add_problem(
                path,
                f"looks like a label map and not like a scan: only the values {shown}{more}."
                " Is it a label (--labels GLOB), a mask as input (--modalities NAME=mask) or a"
                " scan (--accept-few-values)?",
            )


def _read_grid(case: FoundCase) -> Grid:
    first: Grid | None = None
    for path, channels in _channels_by_file(case).items():
        image = _open(path, channels)
        grid = Grid(_shape(image), np.asarray(image.affine, dtype=float))
        first = first or grid
        _check_shape(path, grid.shape, first, case)
    assert first is not None
    for path in case.label_files:
        _check_shape(path, _shape(open_nifti(path)), first, case)
    return first


def _channels_by_file(case: FoundCase) -> dict[Path, list[int | None]]:
    """Return the files of the images, each with the channels that the case uses."""
    channels: dict[Path, list[int | None]] = {}
    for image in case.images.values():
        channels.setdefault(image.path, []).append(image.channel)
    return channels


def _open(path: Path, channels: Sequence[int | None]) -> nib.Nifti1Image:
    """Open an image, and check the number of channels of a 4D image.

    Raises:
        HstfError: if the image has another number of axes or channels.
    """
    if channels == [None]:
        return open_nifti(path)
    image = open_any(path)
    if len(image.shape) != 4 or image.shape[3] != len(channels):
        raise HstfError(
            f"{path}: has shape {tuple(image.shape)}, expected four axes,"
            f" {len(channels)} on the last."
        )
    return image


def _shape(image: nib.Nifti1Image) -> tuple[int, ...]:
    return tuple(int(size) for size in image.shape[:3])


def _check_shape(
    path: Path,
    shape: tuple[int, ...],
    grid: Grid,
    case: FoundCase,
) -> None:
    if shape != grid.shape:
        raise HstfError(
            f"{path}: has shape {shape}, but {case.first_path.name} has {grid.shape};"
            f" all files of a case must have the same grid.{crop_advice(path)}"
        )


def label_values(labels: Sequence[Path]) -> set[int]:
    """Return all values in ``labels``.

    The caller passes the labels of labelled cases only: no other label may be read.

    Raises:
        HstfError: if a label cannot be read, has an invalid value, or if all voxels are 0.
    """
    problems: list[str] = []
    found: set[int] = set()
    for path, values in map_files(_read_values, labels, "labels"):
        if isinstance(values, str):
            problems.append(f"{path}: {values}")
        else:
            found |= values
    if problems:
        raise join_problems(
            "labels cannot be used. Fix them, or remove their cases from the folder.",
            problems,
        )
    if not found - {0}:
        raise HstfError("the labelled cases have no class: their labels are 0 everywhere.")
    return found


def _read_values(path: Path) -> set[int] | str:
    """Return the values of a label, or a description of the problem."""
    scan = scan_file(path, label=True)
    if scan.problem:
        return scan.problem
    invalid = [value for value in scan.values if not _is_valid(value)]
    if invalid:
        return (
            f"label value {', '.join(invalid[:3])},"
            f" expected whole numbers from 0 to {MAXIMUM_VALUE}"
        )
    return {int(value) for value in scan.values}


def _is_valid(value: str) -> bool:
    return value.isdigit() and int(value) <= MAXIMUM_VALUE


def map_files(
    function: Callable[[T], R],
    items: Sequence[T],
    title: str,
) -> list[tuple[T, R]]:
    """Return ``(item, function(item))`` for all ``items``. Many items are computed in parallel.

    Raises:
        HstfError: if a process was killed.
    """
    if len(items) <= FEW_FILES:
        return [(item, function(item)) for item in items]
    results: list[tuple[T, R]] = []
    with Progress(title, len(items)) as progress:
        for item, result in map_processes(function, items, worker_count(0)):
            if isinstance(result, ProcessDied):
                raise HstfError(
                    f"{item}: the process that read it was killed, probably out of memory."
                )
            results.append((item, result))
            progress.advance()
    return results
