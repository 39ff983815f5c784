"""Write the channels of 4D images as separate files, because the workflow reads 3D volumes."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from hstf.datasets.importers.dataset import DataSet, FoundCase, Image
from hstf.datasets.importers.headers import map_files
from hstf.imaging.stored_voxels import stored_voxels
from hstf.imaging.volumes import Volume, error_text, open_any, write_like
from hstf.runtime.errors import HstfError

Target = tuple[int, Path]
"""A channel, and the file to write it to."""
Task = tuple[Path, tuple[Target, ...]]
"""A 4D file, and the channels to write."""


def needs_extraction(dataset: DataSet) -> bool:
    """Return whether images of ``dataset`` are channels of 4D files."""
    for case in dataset.cases:
        for image in case.images.values():
            if image.channel is not None:
                return True
    return False


def extract(dataset: DataSet, folder: Path) -> None:
    """Write each channel to ``folder/<case>_<modality>.nii.gz`` and refer the cases to these files.

    The data type of the voxels stays the same. Files that are newer than their source are kept.

    Raises:
        HstfError: if a file cannot be read or written.
    """
    targets: dict[Path, list[Target]] = defaultdict(list)
    cases = []
    for case in dataset.cases:
        cases.append(_replace_images(case, folder, targets))
    tasks: list[Task] = []
    for path, channels in targets.items():
        tasks.append((path, tuple(channels)))
    for (path, _), problem in map_files(_write_channels, tasks, "extract"):
        if problem:
            raise HstfError(f"{path}: {problem}")
    dataset.cases = cases


def _replace_images(
    case: FoundCase,
    folder: Path,
    targets: dict[Path, list[Target]],
) -> FoundCase:
    """Return ``case`` with one file for each channel. Files to write are added to ``targets``."""
    images = dict(case.images)
    for name, (path, channel) in case.images.items():
        if channel is None:
            continue
        target = folder / f"{case.case_id}_{name}.nii.gz"
        images[name] = Image(target)
        if not _is_newer(target, path):
            targets[path].append((channel, target))
    return dataclasses.replace(case, images=images)


def _is_newer(target: Path, source: Path) -> bool:
    if not target.is_file():
        return False
    return target.stat().st_mtime >= source.stat().st_mtime


def _write_channels(task: Task) -> str:
    """Write the channels of a file. Returns a description of the problem, or ``""``."""
    path, targets = task
    try:
        image = open_any(path)
        voxels = stored_voxels(image)
        if voxels.dtype == np.float64:
            voxels = voxels.astype(np.float32)
        header = image.header.copy()
        header.set_data_shape(voxels.shape[:3])
        affine = np.asarray(image.affine)
        for channel, target in targets:
            data = np.ascontiguousarray(voxels[..., channel])
            write_like(target, data, Volume(data, affine, header))
    except HstfError as error:
        return str(error)
    except Exception as error:  # damaged bytes raise exceptions of many types
        return f"the voxels cannot be read ({error_text(error)})."
    return ""
