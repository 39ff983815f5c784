"""Tasks of the Medical Segmentation Decathlon (Antonelli et al. 2022).

``dataset.json`` names the files of ``imagesTr``, ``labelsTr`` and ``imagesTs``. Tasks 1 and 5 have 4D images, a channel
for each modality; the images in ``imagesTs`` have no labels.
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
    plain_name,
    read_description,
)
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import stem
from hstf.runtime.errors import HstfError


def find(folder: Path, options: Options) -> DataSet:
    """The cases that ``dataset.json`` names."""
    description, source = read_description(folder), folder / "dataset.json"
    volumes = find_volumes(folder)
    names = numbered(description.get("modality"), source, "modality")
    columns = column_names(names)
    labels = numbered(description.get("labels"), source, "labels")
    dataset = DataSet(
        f"{description.get('name', folder.name)}: {description.get('description', 'Medical Segmentation Decathlon')}",
        {column: modality_of(name) for column, name in zip(columns, names, strict=True)},
        Labels({plain_name(name): value for value, name in enumerate(labels)}),
    )
    named = {
        path
        for entry in _entries(description, source)
        for path in _find(folder, entry, columns, dataset)
    }
    _find_unnamed(dataset, folder, [path for path in volumes if path.resolve() not in named])
    return dataset


def _entries(description: dict, source: Path) -> list[tuple[str, str | None]]:
    """Image and label of each case, as ``dataset.json`` has them."""
    entries: list[tuple[str, str | None]] = []
    for entry in [*description.get("training", []), *description.get("test", [])]:
        image, label = _files(entry)
        if not isinstance(image, str):
            raise HstfError(f"{source}: {entry!r} names no image.")
        entries.append((image, label))
    if not entries:
        raise HstfError(f"{source}: 'training' names no case.")
    return entries


def _files(entry: Any) -> tuple[Any, Any]:
    return (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (entry, None)


def _find(
    folder: Path, entry: tuple[str, str | None], columns: list[str], dataset: DataSet
) -> list[Path]:
    """Add a case; returns its files."""
    image = folder / entry[0]
    label = folder / entry[1] if entry[1] else None
    files = [path for path in (image, label) if path is not None]
    missing = [path for path in files if not path.is_file()]
    if missing:
        dataset.fault(missing[0], "dataset.json names it, but it is missing")
    elif label and stem(label) != stem(image):
        dataset.fault(image, f"two cases mixed: dataset.json gives it the label {label.name}")
    else:
        several = len(columns) > 1
        channels = {
            column: Image(image, k if several else None) for k, column in enumerate(columns)
        }
        dataset.add(FoundCase(stem(image), channels, label))
    return [path.resolve() for path in files]


def _find_unnamed(dataset: DataSet, folder: Path, paths: list[Path]) -> None:
    """Files that ``dataset.json`` does not name: images are left out, a label has lost its image."""
    for path in paths:
        if path.parent.name.startswith("labels"):
            dataset.fault(path, "a label without its image: dataset.json does not name it")
        else:
            dataset.leave_out(path.relative_to(folder), "dataset.json does not name it")
