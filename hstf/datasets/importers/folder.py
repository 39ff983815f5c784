"""Any folder: images and labels matched by name.

``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``; ``<case>.nii.gz`` and ``<case>_label.nii.gz`` side by side; or a
folder for each case, ``<case>/image.nii.gz`` and ``<case>/label.nii.gz``. Several modalities are
``<case>_<modality>.nii.gz``, or ``<case>/<modality>.nii.gz``. What has no label is unlabelled.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from hstf.config.experiment import Modality
from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Image,
    Labels,
    find_volumes,
    modality_of,
    plain_name,
)
from hstf.datasets.importers.options import Options
from hstf.imaging.scan import scan_file
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError

IMAGE_FOLDERS = ("images", "image", "imagestr", "imgs", "scans", "volumes")
LABEL_FOLDERS = ("labels", "label", "labelstr", "masks", "segmentations", "gt", "ground_truth")
"""Upper and lower case are one."""
LABEL_ENDINGS = ("_label", "_labels", "_seg", "_segmentation", "_mask", "_gt")
LABEL_WORD = re.compile(
    r"(?:^|[-_.])(?:label|seg|mask|gt|roi|annot|contour|lesion|tumou?r|manual|truth)", re.IGNORECASE
)
"""What the name of an image does not say, beside that of another."""
AIR_BELOW = -500.0
"""No image but CT has values like this: air is -1000 HU."""


def find(folder: Path, options: Options) -> DataSet:
    """The cases of ``folder``."""
    volumes = find_volumes(folder)
    classes = Labels({"background": 0} | options.labels) if options.labels else numbered_classes
    dataset = DataSet(f"{folder.resolve().name}: images and labels matched by name.", {}, classes)
    columns = list(options.modalities) or ["image"]
    images, labels = _sort(dataset, folder, volumes, columns)
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
    dataset.modalities = {
        column: options.modalities.get(column) or modality_of(column) for column in columns
    }
    if not options.modalities and dataset.cases:
        dataset.modalities["image"] = _guess(dataset)
    return dataset


def _sort(
    dataset: DataSet, folder: Path, volumes: list[Path], columns: Sequence[str]
) -> tuple[dict[Path, str], dict[str, Path]]:
    """Images with their names, and labels by the name of their image."""
    image_folder, label_folder = (
        _subfolder(folder, IMAGE_FOLDERS),
        _subfolder(folder, LABEL_FOLDERS),
    )
    if image_folder is None and label_folder is not None:
        raise HstfError(
            f"{folder}: has {label_folder.name}, but no folder of images: expected {', '.join(IMAGE_FOLDERS)}."
        )
    if image_folder is not None:
        images = {path: stem(path) for path in volumes if path.is_relative_to(image_folder)}
        labels = {
            p: _bare(p)
            for p in volumes
            if label_folder is not None and p.is_relative_to(label_folder)
        }
        for path in sorted(set(volumes) - {*images, *labels}):
            dataset.leave_out(
                path.relative_to(folder), "lies neither with the images nor with the labels"
            )
    elif _is_folder_per_case(folder, volumes, columns):
        labels = {path: _folder_name(folder, path) for path in volumes if _says_label(path)}
        images = {p: _in_folder(folder, p, columns) for p in volumes if p not in labels}
    else:
        labels = {path: _bare(path) for path in volumes if _bare(path) != stem(path)}
        images = {path: stem(path) for path in volumes if path not in labels}
    return images, _one_each(dataset, labels)


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """The folder of ``folder`` that has the first of ``names``, in upper or lower case."""
    there = {
        path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()
    }
    return next((there[name] for name in names if name in there), None)


def _bare(path: Path) -> str:
    """The name of a label's file without what says that it is a label."""
    name = stem(path)
    ending = next((ending for ending in LABEL_ENDINGS if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)]


def _says_label(path: Path) -> bool:
    return f"_{stem(path).lower()}".endswith(LABEL_ENDINGS)


def _is_folder_per_case(folder: Path, volumes: list[Path], columns: Sequence[str]) -> bool:
    """Whether files have the same names in many folders, each of which holds the images of one case and a label at most."""
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in volumes:
        by_folder[path.parent].append(path)
    labels = {place: sum(map(_says_label, paths)) for place, paths in by_folder.items()}
    fits = (
        labels[f] <= 1 and len(paths) - labels[f] <= len(columns) for f, paths in by_folder.items()
    )
    return folder not in by_folder and len({stem(p) for p in volumes}) < len(volumes) and all(fits)


def _folder_name(folder: Path, path: Path) -> str:
    return "_".join(path.parent.relative_to(folder).parts)


def _in_folder(folder: Path, path: Path, columns: Sequence[str]) -> str:
    """The name that an image in the folder of its case would have beside those of others."""
    if len(columns) == 1:
        return _folder_name(folder, path)
    said = (column for column in columns if f"_{stem(path)}".endswith(f"_{column}"))
    return f"{_folder_name(folder, path)}_{max(said, key=len, default=stem(path))}"


def _one_each(dataset: DataSet, labels: dict[Path, str]) -> dict[str, Path]:
    """Labels by the name of their image; two for one are a fault."""
    found: dict[str, Path] = {}
    for path, name in labels.items():
        if name in found:
            dataset.fault(plain_name(name), f"has two labels: {found[name]} and {path}; keep one")
        found[name] = path
    return found


def _by_case(
    dataset: DataSet, images: dict[Path, str], columns: list[str]
) -> dict[str, dict[str, Path]]:
    """Images of each case by modality."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    names = set(images.values())
    for path, name in images.items():
        column = columns[0]
        word = next((m for m in LABEL_WORD.finditer(name) if name[: m.start()] in names), None)
        if word is not None:
            known = ", ".join(LABEL_ENDINGS)
            dataset.fault(
                path,
                f"looks like a label of {name[: word.start()]}; labels end in {known}: rename or remove it",
            )
            continue
        if len(columns) > 1:
            column = max((c for c in columns if name.endswith(f"_{c}")), key=len, default="")
            if not column:
                dataset.fault(
                    path, f"names no modality: expected <case>_ and one of {', '.join(columns)}"
                )
                continue
            name = name.removesuffix(f"_{column}")
        if column in cases[name]:
            dataset.fault(
                plain_name(name), f"is there twice: {cases[name][column]} and {path}; keep one"
            )
        cases[name][column] = path
    return cases


def numbered_classes(values: set[int]) -> Labels:
    """Names for classes of which only the ``values`` are known."""
    return Labels({"background": 0} | {f"class_{value}": value for value in sorted(values - {0})})


def _guess(dataset: DataSet) -> Modality:
    """CT where the first images have values as low as air has in it, MR otherwise."""
    lowest = min(
        scan_file(case.images["image"].path, label=False).minimum for case in dataset.cases[:3]
    )
    kind: Modality = "ct" if lowest < AIR_BELOW else "mr"
    dataset.comments.append(
        f"Taken as {kind.upper()} since the lowest value is {lowest:g}; mr, ct, pet, us and other are known."
    )
    return kind
