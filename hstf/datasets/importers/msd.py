"""Tasks of the Medical Segmentation Decathlon (Antonelli et al. 2022).

``dataset.json`` names the files in ``imagesTr``, ``labelsTr`` and ``imagesTs``. Images in
``imagesTs`` have no labels. Tasks 1 and 5 have 4D images with a channel for each modality.
"""

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
    plain_names,
    read_description,
)
from hstf.datasets.importers.options import Options
from hstf.datasets.importers.patients import assign_patients
from hstf.imaging.volume_files import stem
from hstf.runtime.errors import HstfError

Entry = tuple[str, str | None]
"""Image and label of a case, as ``dataset.json`` names them."""


def find(folder: Path, options: Options) -> DataSet:
    """Find the cases that ``dataset.json`` names."""
    description = read_description(folder)
    source = folder / "dataset.json"
    names = numbered(description.get("modality"), source, "modality")
    columns = column_names(names)
    classes = numbered(description.get("labels"), source, "labels")
    name = description.get("name", folder.name)
    text = description.get("description", "Medical Segmentation Decathlon")
    modalities = {}
    for column, modality in zip(columns, names, strict=True):
        modalities[column] = modality_of(modality)
    plain = plain_names(classes, source)
    values = {}
    for value, class_name in enumerate(classes):
        values[plain[class_name]] = value
    dataset = DataSet(f"{name}: {text}", modalities, Labels(values))
    volumes = find_volumes(folder, dataset)
    used: set[Path] = set()
    for entry in _entries(description, source):
        used.update(_add(dataset, folder, entry, columns))
    dataset.note_unlabelled_tests(sum(case.label is None for case in dataset.cases))
    assign_patients(dataset, options, {})
    unused = [path for path in volumes if path.resolve() not in used]
    _record_unused(dataset, folder, unused)
    return dataset


def _entries(description: dict, source: Path) -> list[Entry]:
    """Return image and label of each case in ``dataset.json``."""
    entries: list[Entry] = []
    training = description.get("training", [])
    test = description.get("test", [])
    for entry in [*training, *test]:
        image, label = _files(entry)
        if not isinstance(image, str):
            raise HstfError(f"{source}: {entry!r} names no image.")
        entries.append((image, label))
    if not entries:
        raise HstfError(f"{source}: 'training' names no case.")
    return entries


def _files(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, dict):
        return entry.get("image"), entry.get("label")
    return entry, None


def _add(
    dataset: DataSet,
    folder: Path,
    entry: Entry,
    columns: list[str],
) -> list[Path]:
    """Add the case of ``entry`` and return its files."""
    image = folder / entry[0]
    files = [image]
    label = None
    if entry[1]:
        label = folder / entry[1]
        files.append(label)
    missing = [path for path in files if not path.is_file()]
    if missing:
        dataset.add_problem(missing[0], "dataset.json names it, but it is missing")
    elif label and stem(label) != stem(image):
        dataset.add_problem(
            image,
            f"two cases mixed: dataset.json assigns it the label {label.name}",
        )
    else:
        case = FoundCase(stem(image), _channels(image, columns), label)
        dataset.add(case)
    return [path.resolve() for path in files]


def _channels(path: Path, columns: list[str]) -> dict[str, Image]:
    """Return the image of each column: the file, or its channels if there are several columns."""
    if len(columns) == 1:
        return {columns[0]: Image(path)}
    images = {}
    for channel, column in enumerate(columns):
        images[column] = Image(path, channel)
    return images


def _record_unused(dataset: DataSet, folder: Path, paths: list[Path]) -> None:
    """Leave out images that ``dataset.json`` does not name, and record such labels as problems."""
    for path in paths:
        if path.parent.name.startswith("labels"):
            dataset.add_problem(
                path,
                "a label without its image: dataset.json does not name it",
            )
        else:
            dataset.leave_out(
                path.relative_to(folder),
                "dataset.json does not name it",
            )
