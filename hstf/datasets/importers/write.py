"""The case sheet and the configuration of an import."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
import yaml

from hstf.config.experiment import BACKGROUND, IGNORE, Config
from hstf.config.load import resolve_config
from hstf.config.regions import region_faults
from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.headers import Grid
from hstf.experiment.cases import Split
from hstf.runtime.errors import join_faults
from hstf.runtime.files import write_csv

ORDER = (Split.LABELLED, Split.UNLABELLED, Split.TEST)
SCHEMA = "workflow/schemas/config.schema.json"
EDIT = "Edit it freely: config/README.md explains every key; keys that are not here have their defaults."
LESION = re.compile(r"lesion|tumou?r|cancer|metasta|nodule|carcinoma|polyp|plaque", re.IGNORECASE)
"""Classes so called are lesions: any number in a case, or none."""
THICK = 3.0
"""Slices so many times thicker than their voxels are wide are not rotated out of their plane."""


def sheet_path(output: Path) -> Path:
    """Where the case sheet of the configuration ``output`` lies."""
    return output.with_suffix("") / "cases.csv"


def write_sheet(path: Path, dataset: DataSet, splits: Mapping[str, Split]) -> None:
    """Write the case sheet: labelled, then unlabelled, then test cases.

    The label of an unlabelled case stays in the sheet: only ``check`` and ``evaluate`` read it.
    """
    cases = [case for split in ORDER for case in dataset.cases if splits.get(case.case_id) is split]
    optional = [name for name in ("group", "site") if any(getattr(case, name) for case in cases)]
    rows = [_row(case, splits[case.case_id], path.parent) for case in cases]
    write_csv(path, rows, ["case_id", *dataset.modalities, "label", "split", *optional])


def _row(case: FoundCase, split: Split, folder: Path) -> dict[str, str]:
    images = {name: _cell(image.path, folder) for name, image in case.images.items()}
    label = _cell(case.label, folder) if case.label else ""
    return {"case_id": case.case_id, **images, "label": label, "split": split, "group": case.patient,
            "site": case.site}  # fmt: skip


def _cell(path: Path, folder: Path) -> str:
    """A path of the sheet: relative to its folder for data below the working directory, absolute otherwise."""
    absolute = Path.cwd() / path  # links stay: data are often linked below the working directory
    return (
        os.path.relpath(absolute, Path.cwd() / folder)
        if absolute.is_relative_to(Path.cwd())
        else str(absolute)
    )


def config_text(
    output: Path,
    dataset: DataSet,
    labels: Labels,
    splits: Mapping[str, Split],
    grids: Mapping[str, Grid],
    command: Sequence[str],
) -> str:
    """The configuration as commented YAML; checked, so that what is written can be run.

    Raises:
        HstfError: the names of classes or modalities make no configuration.
    """
    labelled = {
        case.patient for case in dataset.cases if splits.get(case.case_id) is Split.LABELLED
    }
    sections = [
        _header(output, dataset, splits, command),
        [f"experiment: {output.stem}", f"cases: {sheet_path(output)}", f"overrides: overrides/{output.stem}"],
        [f"labels: {_flow(labels.values)}", *_regions(labels), *_lesions(labels),
         f"modalities: {_flow(dataset.modalities)}"],
        _training(len(labelled), [grids[case_id] for case_id in splits]),
    ]  # fmt: skip
    text = "\n\n".join("\n".join(lines) for lines in sections) + "\n"
    resolve_config(yaml.safe_load(text), source=str(output))
    return text


def _header(
    output: Path, dataset: DataSet, splits: Mapping[str, Split], command: Sequence[str]
) -> list[str]:
    """What the data are, and how the file came to be."""
    schema = os.path.relpath(SCHEMA, output.parent)
    patients = {case.case_id: case.patient for case in dataset.cases}
    counts = [
        f"{len({patients[name] for name in splits if splits[name] is split})} {split}"
        f" ({sum(value is split for value in splits.values())} cases)"
        for split in ORDER
    ]
    return [
        *([f"# yaml-language-server: $schema={schema}"] if Path(SCHEMA).is_file() else []),
        *comment(dataset.title),
        *comment(f"Patients: {', '.join(counts)}. Written by"),
        f"#   {shlex.join(command)}",
        *comment(EDIT),
        *(line for fact in dataset.comments for line in comment(fact)),
    ]


def comment(text: str) -> list[str]:
    """``text`` as lines of a comment."""
    return [f"# {line}" for line in wrap(text, 116)]


def _flow(content: Any) -> str:
    """``content`` as YAML on one line."""
    return yaml.safe_dump(content, default_flow_style=True, sort_keys=False, width=10_000).strip()


def named_regions(labels: Labels) -> dict[str, list[str]]:
    """The classes of each region that the owners score."""
    names = {value: name for name, value in labels.values.items()}
    return {
        region: [names.get(value, str(value)) for value in values]
        for region, values in labels.regions.items()
    }


def _faults_of_regions(labels: Labels) -> list[str]:
    return region_faults(
        named_regions(labels), [n for n in labels.values if n not in (BACKGROUND, IGNORE)]
    )


def _regions(labels: Labels) -> list[str]:
    """The regions that the owners score; as a comment where a network cannot be trained with them."""
    regions, faults = _flow(named_regions(labels)), _faults_of_regions(labels)
    if faults:
        return comment(
            f"Classes are trained, not the regions of its owners, {regions}: {'; '.join(faults)}."
        )
    told = "Overlapping, as the owners score them: a sigmoid head for each, judged and scored as a whole."
    return [*comment(told), f"regions: {regions}"] if labels.regions else []


def _lesions(labels: Labels) -> list[str]:
    """The classes that are lesions, by their names; of regions within one another the innermost."""
    regions = {} if _faults_of_regions(labels) else named_regions(labels)
    structures = {name: set(classes) for name, classes in regions.items()} or {
        n: {n} for n in labels.values
    }
    named = [name for name in structures if LESION.search(name)]
    inner = [
        name for name in named if not any(structures[other] < structures[name] for other in named)
    ]
    return [f"lesions: {_flow(inner)}   # by name: any number in a case, or none"] if inner else []


def _training(labelled: int, grids: Sequence[Grid]) -> list[str]:
    """Sections whose right values follow from the data."""
    folds = min(3, labelled)
    return [
        "# Of self-training after the warm-up; a larger number runs the further rounds alone.",
        "rounds: 2",
        "",
        "warmup:",
        f"  folds: {folds}          # of {labelled} labelled patients; each member predicts the fold that it never saw",
        *_rotation(grids),
        "",
        "student:",
        "  start: scratch    # as a noisy student does; 'warmup' is quicker where steps are few",
        *_rotation(grids),
    ]


def _rotation(grids: Sequence[Grid]) -> list[str]:
    """No rotation out of thick slices, whose neighbours are too far apart to be blended."""
    steps = np.array([np.abs(grid.affine[:3, :3]) for grid in grids])
    along = np.median(
        [matrix.max(axis=1) for matrix in steps], axis=0
    )  # mm along right, anterior, superior
    thick = int(along.argmax())
    if along[thick] < THICK * np.median(along):
        return []
    degrees = [15.0 if axis == thick else 0.0 for axis in range(3)]
    return [
        "  augmentation:",
        f"    rotation_degrees: {degrees}   # within the slices, which are {along[thick]:.3g} mm apart",
    ]


def find_unsuited(config: Config, dataset: DataSet, labels: Labels, source: Path) -> None:
    """See that the configuration of ``source`` suits the data.

    Raises:
        HstfError: it asks for modalities that are not there, or does not know a value of the labels.
    """
    faults = [
        f"modality {name} is not there"
        for name in config.modalities
        if name not in dataset.modalities
    ]
    faults += [
        f"label value {value} ({name}) is not known; there are {_flow(config.labels)}"
        for name, value in labels.values.items()
        if value not in config.labels.values()
    ]
    if faults:
        there = ", ".join(dataset.modalities)
        raise join_faults(f"{source}: does not suit the data, which have {there}.", faults)
