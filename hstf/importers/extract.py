"""Channels of 4D images as files of their own: everything else reads one 3D volume a file."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hstf.errors import HstfError
from hstf.importers.dataset import DataSet, Image
from hstf.importers.headers import each
from hstf.volumes import Volume, open_any, reason, write_like


class Task(NamedTuple):
    """A channel to write."""

    source: Image
    target: Path


def needs_extraction(dataset: DataSet) -> bool:
    """Whether images of ``dataset`` are channels of 4D files."""
    return any(image.channel is not None for case in dataset.cases for image in case.images.values())


def extract(dataset: DataSet, folder: Path) -> None:
    """Write each channel to ``folder/<case>_<modality>.nii.gz`` and let the cases name these files.

    Voxels keep their type. Files that are newer than their source are there already and stay.

    Raises:
        HstfError: a file cannot be read or written.
    """
    tasks, cases = [], []
    for case in dataset.cases:
        images = {}
        for name, image in case.images.items():
            target = folder / f"{case.case_id}_{name}.nii.gz"
            images[name] = image if image.channel is None else Image(target)
            if image.channel is not None and not _is_there(Task(image, target)):
                tasks.append(Task(image, target))
        cases.append(dataclasses.replace(case, images=images))
    for task, fault in each(_write, tasks, "extract"):
        if fault:
            raise HstfError(f"{task.source.path}: {fault}")
    dataset.cases = cases


def _is_there(task: Task) -> bool:
    return task.target.is_file() and task.target.stat().st_mtime >= task.source.path.stat().st_mtime


def _write(task: Task) -> str:
    """Write a channel; returns why not."""
    try:
        image = open_any(task.source.path)
        data = np.asanyarray(image.dataobj[..., task.source.channel])
        data = data.astype(np.float32) if data.dtype == np.float64 else data
        header = image.header.copy()
        header.set_data_shape(data.shape)
        write_like(task.target, data, Volume(data, np.asarray(image.affine), header))
    except HstfError as error:
        return str(error)
    except Exception as error:  # damaged bytes surface as errors of many kinds
        return f"channel {task.source.channel} cannot be read ({reason(error)})."
    return ""
