"""Any folder: images and labels matched by name.

``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``, or ``<case>.nii.gz`` and ``<case>_label.nii.gz`` side by side.
Several modalities are ``<case>_<modality>.nii.gz``. What has no label is unlabelled.
"""

from collections import defaultdict
from pathlib import Path

from hstf.check.scan import scan_file
from hstf.config.experiment import Modality
from hstf.errors import HstfError
from hstf.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    find_volumes,
    modality_of,
    plain_name,
)
from hstf.importers.options import Options
from hstf.volumes import stem

IMAGE_FOLDERS = ("images", "image", "imagesTr", "scans", "volumes")
LABEL_FOLDERS = ("labels", "label", "labelsTr", "masks", "segmentations")
LABEL_ENDINGS = ("_label", "_labels", "_seg", "_segmentation", "_mask", "_gt")
AIR_BELOW = -500.0
"""No image but CT has values like this: air is -1000 HU."""


def find(folder: Path, options: Options) -> DataSet:
    """The cases of ``folder``."""
    volumes = find_volumes(folder)
    classes = Labels({"background": 0} | options.labels) if options.labels else numbered_classes
    dataset = DataSet(f"{folder.resolve().name}: images and labels matched by name.", {}, classes)
    images, labels = _sort(dataset, folder, volumes)
    columns = list(options.modalities) or ["image"]
    cases = _by_case(dataset, images, columns)
    for name, path in labels.items():
        if name not in cases:
            dataset.fault(path, f"a label without its image {name}")
    for name, files in cases.items():
        missing = [column for column in columns if column not in files]
        if missing:
            dataset.fault(plain_name(name), f"modality {', '.join(missing)} is missing")
        else:
            ordered = {column: Image(files[column]) for column in columns}
            site, patient = options.site_of(name), options.patient_of(name)
            dataset.add(FoundCase(plain_name(name), ordered, labels.get(name), patient, site))
    dataset.modalities = {column: options.modalities.get(column) or modality_of(column) for column in columns}
    if not options.modalities and dataset.cases:
        dataset.modalities["image"] = _guess(dataset)
    return dataset


def _sort(dataset: DataSet, folder: Path, volumes: list[Path]) -> tuple[list[Path], dict[str, Path]]:
    """Images, and labels by the name of their image."""
    image_folder = next((folder / name for name in IMAGE_FOLDERS if (folder / name).is_dir()), None)
    label_folder = next((folder / name for name in LABEL_FOLDERS if (folder / name).is_dir()), None)
    if image_folder is None and label_folder is not None:
        raise HstfError(
            f"{folder}: has {label_folder.name}, but no folder of images: expected {', '.join(IMAGE_FOLDERS)}."
        )
    if image_folder is not None:
        images = [path for path in volumes if path.is_relative_to(image_folder)]
        labels = [path for path in volumes if label_folder is not None and path.is_relative_to(label_folder)]
        for path in sorted(set(volumes) - {*images, *labels}):
            dataset.leave_out(path.relative_to(folder), "lies neither with the images nor with the labels")
    else:
        labels = [path for path in volumes if _bare(path) != stem(path)]
        images = [path for path in volumes if path not in set(labels)]
    return images, {_bare(path): path for path in labels}


def _bare(path: Path) -> str:
    """The name of a label's file without what says that it is a label."""
    name = stem(path)
    ending = next((ending for ending in LABEL_ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _by_case(dataset: DataSet, images: list[Path], columns: list[str]) -> dict[str, dict[str, Path]]:
    """Images of each case by modality."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in images:
        name, column = stem(path), columns[0]
        if len(columns) > 1:
            column = max((c for c in columns if name.endswith(f"_{c}")), key=len, default="")
            if not column:
                dataset.fault(path, f"names no modality: expected <case>_ and one of {', '.join(columns)}")
                continue
            name = name.removesuffix(f"_{column}")
        if column in cases[name]:
            dataset.fault(plain_name(name), f"is there twice: {cases[name][column]} and {path}; keep one")
        cases[name][column] = path
    return cases


def numbered_classes(values: set[int]) -> Labels:
    """Names for classes of which only the ``values`` are known."""
    return Labels({"background": 0} | {f"class_{value}": value for value in sorted(values - {0})})


def _guess(dataset: DataSet) -> Modality:
    """CT where the first images have values as low as air has in it, MR otherwise."""
    lowest = min(scan_file(case.images["image"].path, label=False).minimum for case in dataset.cases[:3])
    kind: Modality = "ct" if lowest < AIR_BELOW else "mr"
    dataset.comments.append(
        f"Taken as {kind.upper()} since the lowest value is {lowest:g}; mr, ct, pet, us and other are known."
    )
    return kind
