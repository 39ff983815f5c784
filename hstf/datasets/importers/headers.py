"""Headers and label values of the files that an importer found.

An import reads only what it needs. ``hstf check`` reads all files completely.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes, apply_orientation, ornt_transform

from hstf.config.check import CheckConfig
from hstf.datasets.importers.contents import label_values_of_scan
from hstf.datasets.importers.dataset import DataSet, FoundCase, Note
from hstf.datasets.importers.slicer import crop_advice
from hstf.imaging.affines import affine_problem, is_reordered, orientation_of, spacing_of
from hstf.imaging.guards import MASK, Level, header_issues
from hstf.imaging.scan import scan_file, scan_header
from hstf.imaging.volume_files import open_any, open_nifti
from hstf.imaging.volumes import Volume, blank_volume, grid_mismatch
from hstf.runtime.errors import HstfError, few, join_problems
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
TOLERANCE_MM = CheckConfig().affine_tolerance_mm
"""Maximum distance (mm) of the corners of a mask and its image: that of ``hstf check``."""


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

    Unreadable files, headers without a geometry, files of a case with different shapes and masks
    with another geometry than their image are recorded as problems. Doubtful headers are recorded
    as warnings.
    """
    grids = {}
    reordered: list[str] = []
    for case in track(dataset.cases, "headers"):
        try:
            grids[case.case_id] = _read_grid(case)
        except HstfError as error:
            dataset.add_problem(case.case_id, str(error))
            continue
        _check_headers(dataset, case)
        if case.masks:
            reordered += _check_masks(dataset, case)
    _note_reordered(dataset, reordered)
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
    if case.label is not None:
        _check_shape(case.label, _shape(open_nifti(case.label)), first, case)
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


# --- masks of structures


def in_order_of(image: Volume, mask: Volume) -> np.ndarray:
    """Return the voxels of a mask on the grid of its image, see :func:`read_grids`.

    Axes may have another order or direction. No voxel is interpolated.
    """
    if grid_mismatch(mask, image, TOLERANCE_MM) is None:
        return mask.data
    transform = ornt_transform(orientation_of(mask.affine), orientation_of(image.affine))
    return np.ascontiguousarray(apply_orientation(mask.data, transform))


def _check_masks(dataset: DataSet, case: FoundCase) -> list[str]:
    """Record masks that are not on the grid of their image as problems.

    Returns:
        Description of each mask whose axes have another order or direction.
    """
    reordered: list[str] = []
    image = blank_volume(case.first_path)
    if affine_problem(image.affine):  # recorded by _check_headers
        return reordered
    for path in case.masks.values():
        try:
            order = _order_of_mask(path, image, case)
        except HstfError as error:
            dataset.add_problem(case.case_id, str(error))
            continue
        if order:
            reordered.append(f"{path} ({order})")
    return reordered


def _order_of_mask(path: Path, image: Volume, case: FoundCase) -> str:
    """Return how the axes of a mask differ from those of its image; empty if they do not.

    Raises:
        HstfError: if the mask has other voxels than the image.
    """
    mask = blank_volume(path)
    problem = affine_problem(mask.affine)
    if problem:
        raise HstfError(f"{path}: {problem}. Restore the geometry of the file from its source.")
    mismatch = grid_mismatch(mask, image, TOLERANCE_MM)
    if mismatch is None:
        return ""
    unplaced = _without_orientation([path, case.first_path])
    if not unplaced and _is_reordered(mask, image):
        return f"{_axes(mask)} instead of {_axes(image)}"
    advice = _advice_on_mask(path, mask, image, case)
    raise HstfError(
        f"{path}: {mismatch} ({case.first_path.name}); expected the grid of the image, within"
        f" {TOLERANCE_MM:g} mm, because masks are combined voxel by voxel.{unplaced}{advice}"
    )


def _advice_on_mask(path: Path, mask: Volume, image: Volume, case: FoundCase) -> str:
    """Return what to do about a mask that has other voxels than its image."""
    if mask.data.shape != image.data.shape:
        return crop_advice(path) or " Draw or export the mask again on this image."
    return (
        f" If the voxels correspond one to one, copy the geometry of {case.first_path} to the mask."
        " Otherwise, draw or export the mask again on this image."
    )


def _is_reordered(mask: Volume, image: Volume) -> bool:
    return is_reordered(
        mask.affine,
        mask.data.shape,
        image.affine,
        image.data.shape,
        TOLERANCE_MM,
    )


def _without_orientation(paths: Sequence[Path]) -> str:
    """Return a sentence about the files whose header does not state the directions of the axes."""
    names = [path.name for path in paths if not scan_header(path).has_orientation]
    if not names:
        return ""
    return f" The header of {' and of '.join(names)} does not place the voxels in space."


def _axes(volume: Volume) -> str:
    """Return the direction in which each array axis grows, for instance RAS."""
    return "".join(aff2axcodes(volume.affine))


def _note_reordered(dataset: DataSet, reordered: Sequence[str]) -> None:
    """Name the masks whose axes are reordered."""
    if not reordered:
        return
    text = (
        f"{len(reordered)} masks are stored with their axes in another order or direction than"
        " their image, and are reordered to the grid of the image, without interpolation:"
        f" {few(reordered)}"
    )
    dataset.rules.append(Note("axes of masks", text))
    dataset.comments.append(f"{text}.")


# --- label values


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
    return list(each_file(function, items, title))


def each_file(
    function: Callable[[T], R],
    items: Sequence[T],
    title: str,
) -> Iterator[tuple[T, R]]:
    """Yield what :func:`map_files` returns, each result as soon as it is there.

    Raises:
        HstfError: if a process was killed.
    """
    if len(items) <= FEW_FILES:
        yield from ((item, function(item)) for item in items)
        return
    with Progress(title, len(items)) as progress:
        for item, result in map_processes(function, items, worker_count(0)):
            if isinstance(result, ProcessDied):
                raise HstfError(
                    f"{item}: the process that read it was killed, probably out of memory."
                )
            yield item, result
            progress.advance()
