"""Raw data sets of nnU-Net (Isensee et al. 2021), version 2 and 1.

``imagesTr/<case>_0000.nii.gz`` (a number for each channel), ``labelsTr/<case>.nii.gz``, ``imagesTs`` and
``dataset.json``. Test images with labels (``labelsTs``) are the test set, those without are unlabelled.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    column_names,
    find_volumes,
    modality_of,
    numbered,
    plain_name,
    read_description,
)
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import SUFFIXES, stem
from hstf.runtime.errors import HstfError

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def find(folder: Path, options: Options) -> DataSet:
    """The cases of ``imagesTr`` and ``imagesTs``."""
    description, source = read_description(folder), folder / "dataset.json"
    ending = description.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise HstfError(
            f"{source}: file_ending is {ending!r}, expected one of {', '.join(SUFFIXES)}."
        )
    volumes = find_volumes(folder)
    names = numbered(
        description.get("channel_names", description.get("modality")), source, "channel_names"
    )
    columns = column_names(names)
    dataset = DataSet(
        f"{description.get('name', folder.name)}, a data set in the form of nnU-Net.",
        {column: modality_of(name) for column, name in zip(columns, names, strict=True)},
        read_labels(description.get("labels"), source),
    )
    for part in ("Tr", "Ts"):
        images = _channels(
            dataset, [path for path in volumes if path.parent == folder / f"images{part}"]
        )
        labels = {stem(path): path for path in volumes if path.parent == folder / f"labels{part}"}
        for case in labels.keys() - images.keys():
            dataset.fault(labels[case], "a label without its image")
        for case, channels in images.items():
            _add(dataset, case, channels, columns, labels.get(case), test=part == "Ts")
    if not dataset.cases and not dataset.faults:
        raise HstfError(f"{folder}: no image in imagesTr or imagesTs.")
    return dataset


def _channels(dataset: DataSet, paths: list[Path]) -> dict[str, dict[int, Path]]:
    """Files of each case by the number of their channel."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in paths:
        match = CHANNEL.fullmatch(stem(path))
        if match:
            found[match["case"]][int(match["channel"])] = path
        else:
            dataset.fault(
                path, "is no name of nnU-Net: expected <case>_0000, the number of the channel last"
            )
    return found


def _add(
    dataset: DataSet,
    case: str,
    channels: dict[int, Path],
    columns: list[str],
    label: Path | None,
    test: bool,
) -> None:
    expected = set(range(len(columns)))
    if channels.keys() != expected:
        missing = ", ".join(
            f"{case}_{k:04d} ({columns[k]})" for k in sorted(expected - channels.keys())
        )
        extra = ", ".join(channels[k].name for k in sorted(channels.keys() - expected))
        told = (
            f"modality {missing} is missing"
            if missing
            else f"{extra} is of no channel in dataset.json"
        )
        dataset.fault(case, told)
    else:
        images = {column: Image(channels[k]) for k, column in enumerate(columns)}
        dataset.add(FoundCase(case, images, label, test=test and label is not None))


def read_labels(labels: Any, source: Path) -> Labels:
    """Classes from ``labels``: names to values (version 2, a list of values is a region) or values to names (1).

    A value that lies in regions alone is named after the smallest of them: ``whole_tumor_rest`` is what no smaller
    region of the whole tumour holds. ``regions_class_order``, in which nnU-Net writes one region over the other, is not
    needed: a class is what lies in its regions and in no other.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise HstfError(f"{source}: labels is {labels!r}, expected names and values.")
    if all(str(key).isdigit() for key in labels):
        labels = {name: int(value) for value, name in labels.items()}
    try:
        found = {
            plain_name(str(name)): tuple(map(int, value))
            if isinstance(value, list | tuple)
            else (int(value),)
            for name, value in labels.items()
        }
    except (TypeError, ValueError) as error:
        raise HstfError(
            f"{source}: labels hold {error}, expected whole numbers or lists of them."
        ) from error
    regions = {
        name: values for name, values in found.items() if name not in ("background", "ignore")
    }
    if all(len(values) == 1 for values in found.values()):
        return Labels({name: values[0] for name, values in found.items()})
    return Labels(_plain_classes(found), regions)


def _plain_classes(regions: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """A name for each value of overlapping ``regions``."""
    classes: dict[str, int] = {}
    for value in sorted({value for values in regions.values() for value in values}):
        name, values = min(
            ((name, values) for name, values in regions.items() if value in values),
            key=lambda r: len(r[1]),
        )
        rest = name if values == (value,) else f"{name}_rest"
        classes[f"{rest}_{value}" if rest in classes else rest] = value
    return classes
