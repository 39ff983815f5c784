"""Any folder: images and labels are matched by their names.

Three layouts are known:

- ``images/<case>.nii.gz`` and ``labels/<case>.nii.gz``;
- ``<case>.nii.gz`` and ``<case>_label.nii.gz`` in the same folder;
- a folder for each case: ``<case>/image.nii.gz`` and ``<case>/label.nii.gz``.

Several modalities are ``<case>_<modality>.nii.gz`` or ``<case>/<modality>.nii.gz``. Cases without a
label are unlabelled.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
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

IMAGE_FOLDERS = (
    "images",
    "image",
    "imagestr",
    "imgs",
    "scans",
    "volumes",
)
LABEL_FOLDERS = (
    "labels",
    "label",
    "labelstr",
    "masks",
    "segmentations",
    "gt",
    "ground_truth",
)
"""Names of folders in lower case. The letter case of a folder does not matter."""
LABEL_ENDINGS = (
    "_label",
    "_labels",
    "_seg",
    "_segmentation",
    "_mask",
    "_gt",
)
LABEL_WORD = re.compile(
    r"(?:^|[-_.])"
    r"(?:label|seg|mask|gt|roi|annot|contour|lesion|tumou?r|manual|truth)",
    re.IGNORECASE,
)
"""A file named like an image followed by such a word is probably a label, not another image."""
AIR_BELOW = -500.0
"""Only CT images have values below this one: air is -1000 HU."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases of ``folder``."""
    volumes = find_volumes(folder)
    dataset = DataSet(
        f"{folder.resolve().name}: images and labels matched by name.",
        {},
        numbered_classes,
    )
    if options.labels:
        dataset.labels = Labels({"background": 0} | options.labels)
    columns = list(options.modalities) or ["image"]
    images, label_names = _split_volumes(dataset, folder, volumes, columns)
    labels = _invert_labels(dataset, label_names)
    cases = _group_by_case(dataset, images, columns)
    for name, path in labels.items():
        if name not in cases:
            dataset.add_problem(path, f"a label without its image {name}")
    for name, files in cases.items():
        missing = [column for column in columns if column not in files]
        if missing:
            dataset.add_problem(
                plain_name(name),
                f"modality {', '.join(missing)} is missing",
            )
            continue
        case = FoundCase(
            plain_name(name),
            {column: Image(files[column]) for column in columns},
            labels.get(name),
            group=options.patient_of(name),
            site=options.site_of(name),
        )
        dataset.add(case)
    for column in columns:
        dataset.modalities[column] = options.modalities.get(column) or modality_of(column)
    if not options.modalities and dataset.cases:
        dataset.modalities["image"] = _guess_modality(dataset)
    return dataset


def _split_volumes(
    dataset: DataSet,
    folder: Path,
    volumes: list[Path],
    columns: Sequence[str],
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return images and labels, each with the name of its image."""
    image_folder = _subfolder(folder, IMAGE_FOLDERS)
    label_folder = _subfolder(folder, LABEL_FOLDERS)
    if image_folder is not None:
        return _split_by_folder(dataset, folder, volumes, image_folder, label_folder)
    if label_folder is not None:
        raise HstfError(
            f"{folder}: has {label_folder.name}, but no folder of images:"
            f" expected {', '.join(IMAGE_FOLDERS)}."
        )
    images: dict[Path, str] = {}
    labels: dict[Path, str] = {}
    folder_per_case = _is_folder_per_case(folder, volumes, columns)
    for path in volumes:
        if folder_per_case and _is_label(path):
            labels[path] = _folder_name(folder, path)
        elif folder_per_case:
            images[path] = _name_in_folder(folder, path, columns)
        elif _image_name(path) != stem(path):
            labels[path] = _image_name(path)
        else:
            images[path] = stem(path)
    return images, labels


def _split_by_folder(
    dataset: DataSet,
    folder: Path,
    volumes: list[Path],
    image_folder: Path,
    label_folder: Path | None,
) -> tuple[dict[Path, str], dict[Path, str]]:
    """Return images and labels of separate folders, each with the name of its image."""
    images: dict[Path, str] = {}
    labels: dict[Path, str] = {}
    others = []
    for path in volumes:
        is_image = path.is_relative_to(image_folder)
        is_label = label_folder is not None and path.is_relative_to(label_folder)
        if is_image:
            images[path] = stem(path)
        if is_label:
            labels[path] = _image_name(path)
        if not is_image and not is_label:
            others.append(path)
    for path in sorted(others):
        dataset.leave_out(
            path.relative_to(folder),
            "is neither in the folder of images nor in the folder of labels",
        )
    return images, labels


def _subfolder(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the subfolder with the first of ``names`` that exists, in upper or lower case."""
    subfolders = {}
    for path in sorted(folder.iterdir(), reverse=True):
        if path.is_dir():
            subfolders[path.name.lower()] = path
    for name in names:
        if name in subfolders:
            return subfolders[name]
    return None


def _image_name(path: Path) -> str:
    """Return the name of a label file without the ending that marks it as a label."""
    name = stem(path)
    for ending in LABEL_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _is_label(path: Path) -> bool:
    name = f"_{stem(path).lower()}"
    return name.endswith(LABEL_ENDINGS)


def _is_folder_per_case(
    folder: Path,
    volumes: list[Path],
    columns: Sequence[str],
) -> bool:
    """Return whether each folder contains the images of one case and at most one label.

    The names of the files must repeat, and no file may be stored directly in ``folder``.
    """
    by_folder: dict[Path, list[Path]] = defaultdict(list)
    for path in volumes:
        by_folder[path.parent].append(path)
    names = {stem(path) for path in volumes}
    if folder in by_folder or len(names) == len(volumes):
        return False
    for paths in by_folder.values():
        labels = sum(_is_label(path) for path in paths)
        images = len(paths) - labels
        if labels > 1 or images > len(columns):
            return False
    return True


def _folder_name(folder: Path, path: Path) -> str:
    parts = path.parent.relative_to(folder).parts
    return "_".join(parts)


def _name_in_folder(
    folder: Path,
    path: Path,
    columns: Sequence[str],
) -> str:
    """Return the name ``<case>`` or ``<case>_<modality>`` of an image in the folder of its case."""
    case = _folder_name(folder, path)
    if len(columns) == 1:
        return case
    column = _column_at_end(f"_{stem(path)}", columns) or stem(path)
    return f"{case}_{column}"


def _column_at_end(name: str, columns: Iterable[str]) -> str:
    """Return the longest column that ``name`` ends with after ``_``, or ``""``."""
    matches = [column for column in columns if name.endswith(f"_{column}")]
    return max(matches, key=len, default="")


def _invert_labels(
    dataset: DataSet,
    labels: Mapping[Path, str],
) -> dict[str, Path]:
    """Return the label of each image. Two labels of an image are recorded as a problem."""
    found: dict[str, Path] = {}
    for path, name in labels.items():
        if name in found:
            dataset.add_problem(
                plain_name(name),
                f"has two labels: {found[name]} and {path}; keep one",
            )
        found[name] = path
    return found


def _group_by_case(
    dataset: DataSet,
    images: Mapping[Path, str],
    columns: list[str],
) -> dict[str, dict[str, Path]]:
    """Return the images of each case by modality."""
    cases: dict[str, dict[str, Path]] = defaultdict(dict)
    names = set(images.values())
    for path, name in images.items():
        other = _labelled_image(name, names)
        if other is not None:
            dataset.add_problem(
                path,
                f"looks like a label of {other}; names of labels end in"
                f" {', '.join(LABEL_ENDINGS)}: rename or remove it",
            )
            continue
        column = columns[0]
        case = name
        if len(columns) > 1:
            column = _column_at_end(name, columns)
            if not column:
                dataset.add_problem(
                    path,
                    "has no modality in its name:"
                    f" expected <case>_ and one of {', '.join(columns)}",
                )
                continue
            case = name.removesuffix(f"_{column}")
        files = cases[case]
        if column in files:
            dataset.add_problem(
                plain_name(case),
                f"exists twice: {files[column]} and {path}; keep one",
            )
        files[column] = path
    return cases


def _labelled_image(name: str, names: set[str]) -> str | None:
    """Return the image of which ``name`` seems to be the label."""
    for match in LABEL_WORD.finditer(name):
        start = name[: match.start()]
        if start in names:
            return start
    return None


def numbered_classes(values: set[int]) -> Labels:
    """Return classes ``class_<value>`` for ``values`` whose meaning is unknown."""
    classes = {"background": 0}
    for value in sorted(values - {0}):
        classes[f"class_{value}"] = value
    return Labels(classes)


def _guess_modality(dataset: DataSet) -> Modality:
    """Return CT if the first images have values as low as air, and MR otherwise."""
    minimum = min(scan_file(case.first_path, label=False).minimum for case in dataset.cases[:3])
    modality: Modality = "ct" if minimum < AIR_BELOW else "mr"
    dataset.comments.append(
        f"Assumed to be {modality.upper()}, because the minimum value is {minimum:g}."
        " Known modalities are mr, ct, pet, us and other."
    )
    return modality
