"""Channels of 4D images as files of their own: everything else reads one 3D volume a file."""

import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from hstf.datasets.importers.dataset import DataSet, Image
from hstf.datasets.importers.headers import each
from hstf.imaging.volumes import Volume, open_any, reason, write_like
from hstf.runtime.errors import HstfError

Task = tuple[Path, tuple[tuple[int, Path], ...]]
"""A 4D file, and which of its channels to write where."""


def needs_extraction(dataset: DataSet) -> bool:
    """Whether images of ``dataset`` are channels of 4D files."""
    return any(
        image.channel is not None for case in dataset.cases for image in case.images.values()
    )


def extract(dataset: DataSet, folder: Path) -> None:
    """Write each channel to ``folder/<case>_<modality>.nii.gz`` and let the cases name these files.

    Voxels keep their type. Files that are newer than their source are there already and stay.

    Raises:
        HstfError: a file cannot be read or written.
    """
    wanted: dict[Path, list[tuple[int, Path]]] = defaultdict(list)
    cases = []
    for case in dataset.cases:
        images = dict(case.images)
        for name, (path, channel) in case.images.items():
            if channel is not None:
                target = folder / f"{case.case_id}_{name}.nii.gz"
                images[name] = Image(target)
                if not (target.is_file() and target.stat().st_mtime >= path.stat().st_mtime):
                    wanted[path].append((channel, target))
        cases.append(dataclasses.replace(case, images=images))
    tasks: list[Task] = [(path, tuple(targets)) for path, targets in wanted.items()]
    for (path, _), fault in each(_write, tasks, "extract"):
        if fault:
            raise HstfError(f"{path}: {fault}")
    dataset.cases = cases


def _write(task: Task) -> str:
    """Write the channels of a file; returns why not."""
    path, targets = task
    try:
        image = open_any(path)
        voxels = np.asanyarray(image.dataobj)
        voxels = voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels
        header = image.header.copy()
        header.set_data_shape(voxels.shape[:3])
        for channel, target in targets:
            data = np.ascontiguousarray(voxels[..., channel])
            write_like(target, data, Volume(data, np.asarray(image.affine), header))
    except HstfError as error:
        return str(error)
    except Exception as error:  # damaged bytes surface as errors of many kinds
        return f"the voxels cannot be read ({reason(error)})."
    return ""
