"""Raw data sets of nnU-Net (Isensee et al. 2021), version 1 and 2.

- Images are stored as ``imagesTr/<case>_0000.nii.gz``, with the number of the channel at the end.
- Labels are stored as ``labelsTr/<case>.nii.gz``.
- Test images are stored in ``imagesTs``. Those with a label in ``labelsTs`` are the test set, the
  others are unlabelled.
- Images of further folders, such as ``imagesUn``, are unlabelled.
- ``dataset.json`` describes channels and classes.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    column_names,
    find_volumes,
    modality_of,
    numbered,
    plain_names,
    read_description,
)
from hstf.datasets.importers.names import read_folder_name
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.patients import assign_patients
from hstf.experiment.cases import Split
from hstf.imaging.volume_files import SUFFIXES, stem
from hstf.runtime.errors import HstfError

CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")

Key = TypeVar("Key")
Regions = Mapping[str, tuple[int, ...]]
"""Values of each class or region."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases of ``imagesTr`` and ``imagesTs``."""
    description = read_description(folder)
    source = folder / "dataset.json"
    ending = description.get("file_ending", ".nii.gz")
    if ending not in SUFFIXES:
        raise HstfError(
            f"{source}: file_ending is {ending!r}, expected one of {', '.join(SUFFIXES)}."
        )
    # Version 1 calls the channels "modality".
    channel_names = description.get("channel_names", description.get("modality"))
    names = numbered(channel_names, source, "channel_names")
    columns = column_names(names)
    modalities = {}
    for column, name in zip(columns, names, strict=True):
        modalities[column] = modality_of(name)
    dataset = DataSet(
        f"{description.get('name', folder.name)}, a data set in the layout of nnU-Net.",
        modalities,
        read_labels(description.get("labels"), source),
    )
    volumes = find_volumes(folder, dataset)
    used: set[Path] = set()
    for part in _parts(folder):
        used.update(_add_part(dataset, folder, part, volumes, columns))
    unlabelled = [case for case in dataset.cases if _is_unlabelled_test(case, folder)]
    dataset.note_unlabelled_tests(len(unlabelled))
    assign_patients(dataset, options, {})
    others = [path for path in volumes if path not in used]
    if others:
        dataset.leave_out(
            f"{len(others)} volumes, for example {others[0].relative_to(folder)}",
            "neither in imagesTr, imagesTs, imagesUn nor in a folder of their labels",
        )
    if not dataset.cases and not dataset.problems:
        raise HstfError(f"{folder}: contains no image in imagesTr or imagesTs.")
    return dataset


def _add_part(
    dataset: DataSet,
    folder: Path,
    part: str,
    volumes: list[Path],
    columns: list[str],
) -> list[Path]:
    """Add the cases of ``imagesTr``, for instance, and return the files that were found there."""
    image_paths = []
    labels: dict[str, Path] = {}
    for path in volumes:
        if path.parent == folder / f"images{part}":
            image_paths.append(path)
        elif path.parent == folder / f"labels{part}":
            _keep_first(dataset, labels, stem(path), path, stem(path))
    images = _group_channels(dataset, image_paths)
    for case in labels.keys() - images.keys():
        dataset.add_problem(labels[case], "a label without its image")
    for case, channels in images.items():
        label = labels.get(case)
        problem = _check_channels(case, channels, columns)
        if problem:
            dataset.add_problem(case, problem)
            continue
        ordered = {}
        for channel, column in enumerate(columns):
            ordered[column] = Image(channels[channel])
        found = FoundCase(
            case,
            ordered,
            label,
            official=_official(part, label),
        )
        dataset.add(found)
    return [*image_paths, *labels.values()]


def _is_unlabelled_test(case: FoundCase, folder: Path) -> bool:
    return case.label is None and case.first_path.parent == folder / "imagesTs"


def _parts(folder: Path) -> list[str]:
    """Return the endings of the folders of images: training first, then test and unlabelled."""
    endings = {path.name.removeprefix("images") for path in folder.glob("images*")}
    known = ["Tr", "Ts"]
    return known + sorted(endings - {*known, ""})


def _official(part: str, label: Path | None) -> Split | None:
    if part == "Ts" and label is not None:
        return Split.TEST
    if part not in ("Tr", "Ts"):
        return read_split(part)
    return None


def read_split(part: str) -> Split | None:
    """Return the split of ``imagesUn`` and other folders that nnU-Net itself does not have."""
    split = read_folder_name(f"images{part}").split
    if split == "unlabelled":
        return Split.UNLABELLED
    return None


def _group_channels(
    dataset: DataSet,
    paths: list[Path],
) -> dict[str, dict[int, Path]]:
    """Return the files of each case by channel number."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in paths:
        match = CHANNEL.fullmatch(stem(path))
        if match is None:
            dataset.add_problem(
                path,
                "is not named as in nnU-Net: expected <case>_0000, the channel number last",
            )
            continue
        case = match["case"]
        _keep_first(dataset, cases[case], int(match["channel"]), path, case)
    return cases


def _keep_first(
    dataset: DataSet,
    found: dict[Key, Path],
    key: Key,
    path: Path,
    case: str,
) -> None:
    """Add a file of a case. A second one, such as ``c1.nii`` beside ``c1.nii.gz``, is a problem."""
    first = found.setdefault(key, path)
    if first is not path:
        dataset.add_problem(case, f"exists twice: {first} and {path}; keep one")


def _check_channels(
    case: str,
    channels: Mapping[int, Path],
    columns: list[str],
) -> str:
    """Describe missing or additional channels of a case. Returns ``""`` if there are none."""
    missing = []
    for channel, column in enumerate(columns):
        if channel not in channels:
            missing.append(f"{case}_{channel:04d} ({column})")
    if missing:
        return f"modality {', '.join(missing)} is missing"
    extra = []
    for channel in sorted(channels):
        if channel >= len(columns):
            extra.append(channels[channel].name)
    if extra:
        return f"{', '.join(extra)} belongs to no channel in dataset.json"
    return ""


def read_labels(labels: Any, source: Path) -> Labels:
    """Read the entry ``labels`` of ``dataset.json``.

    Version 2 maps names to values, or to a list of values for a region. Version 1 maps values to
    names. The order in ``regions_class_order``, in which nnU-Net writes regions over each other, is
    not needed: a class is the set of voxels in certain regions and in no other region.

    Raises:
        HstfError: if ``labels`` is not such a mapping, or if two names would become equal.
    """
    if not isinstance(labels, Mapping) or not labels:
        raise HstfError(f"{source}: labels is {labels!r}, expected names and values.")
    if all(str(key).isdigit() for key in labels):
        labels = {name: int(value) for value, name in labels.items()}
    plain = plain_names([str(name) for name in labels], source)
    found: dict[str, tuple[int, ...]] = {}
    try:
        for name, value in labels.items():
            found[plain[str(name)]] = _values(value)
    except (TypeError, ValueError) as error:
        raise HstfError(
            f"{source}: labels contain {error}, expected whole numbers or lists of them."
        ) from error
    if all(len(values) == 1 for values in found.values()):
        return Labels({name: values[0] for name, values in found.items()})
    regions = dict(found)
    regions.pop("background", None)
    regions.pop("ignore", None)
    return Labels(_plain_classes(found), regions)


def _values(value: Any) -> tuple[int, ...]:
    if isinstance(value, list | tuple):
        return tuple(int(item) for item in value)
    return (int(value),)


def _plain_classes(regions: Regions) -> dict[str, int]:
    """Return a class name for each value of overlapping ``regions``.

    A value is named after the region with the fewest values that contains it. If the region has
    further values, the name is ``<region>_rest``: the part that no inner region covers.
    """
    classes: dict[str, int] = {}
    all_values: set[int] = set()
    for values in regions.values():
        all_values.update(values)
    for value in sorted(all_values):
        name = _innermost_region(regions, value)
        if regions[name] != (value,):
            name = f"{name}_rest"
        if name in classes:
            name = f"{name}_{value}"
        classes[name] = value
    return classes


def _innermost_region(regions: Regions, value: int) -> str:
    """Return the first of the regions with the fewest values that contain ``value``."""
    names = [name for name, values in regions.items() if value in values]
    return min(names, key=lambda name: len(regions[name]))
