"""The case sheet and the configuration that an import writes."""

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
from hstf.config.regions import region_problems
from hstf.config.yaml_files import parse_yaml
from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.headers import Grid
from hstf.experiment.cases import Split
from hstf.experiment.folds import units_of_folds
from hstf.runtime.errors import join_problems
from hstf.runtime.files import write_csv

ORDER = (
    Split.LABELLED,
    Split.UNLABELLED,
    Split.VALIDATION,
    Split.TEST,
)
"""Order of the splits in the case sheet."""
SCHEMA = "workflow/schemas/config.schema.json"
ADVICE = (
    "Edit this file as you like: docs/reference/configuration.md explains every key."
    " Keys that are missing here have their defaults."
)
REGIONS_COMMENT = (
    "Overlapping regions, as the challenge scores them."
    " Each has its own sigmoid output and is accepted and scored as a whole."
)
LESION = re.compile(
    r"lesion|tumou?r|cancer|metasta|nodule|carcinoma|polyp|plaque",
    re.IGNORECASE,
)
"""Classes with such a name are lesions: a case has any number of them, or none."""
THICK_SLICES = 3.0
"""Ratio of slice thickness to pixel size from which rotations stay within the slices."""
COMMENT_WIDTH = 116


def sheet_path(output: Path) -> Path:
    """Return the path of the case sheet for the configuration ``output``."""
    return output.with_suffix("") / "cases.csv"


def write_sheet(
    path: Path,
    dataset: DataSet,
    splits: Mapping[str, Split],
) -> None:
    """Write the case sheet: labelled cases first, then unlabelled, validation and test cases.

    The sheet also has the labels of unlabelled cases. Only ``check`` and ``evaluate`` read them.
    """
    cases = []
    for split in ORDER:
        for case in dataset.cases:
            if splits.get(case.case_id) is split:
                cases.append(case)
    columns = ["case_id", *dataset.modalities, "label", "split"]
    if any(case.group for case in cases):
        columns.append("group")
    if any(case.site for case in cases):
        columns.append("site")
    rows = [_row(case, splits[case.case_id], path.parent) for case in cases]
    write_csv(path, rows, columns)


def _row(case: FoundCase, split: Split, folder: Path) -> dict[str, str]:
    """Return the row of a case in the sheet, which is stored in ``folder``."""
    row = {"case_id": case.case_id}
    for name, image in case.images.items():
        row[name] = _cell(image.path, folder)
    row["label"] = ""
    if case.label is not None:
        row["label"] = _cell(case.label, folder)
    row["split"] = split
    row["group"] = case.patient
    row["site"] = case.site
    return row


def _cell(path: Path, folder: Path) -> str:
    """Return ``path`` as the sheet contains it.

    Data below the working directory have paths relative to ``folder``, other data absolute paths.
    """
    working_directory = Path.cwd()
    # Links are not resolved: often a link below the working directory leads to the data.
    absolute = working_directory / path
    if absolute.is_relative_to(working_directory):
        return os.path.relpath(absolute, working_directory / folder)
    return str(absolute)


def config_text(
    output: Path,
    dataset: DataSet,
    labels: Labels,
    splits: Mapping[str, Split],
    grids: Mapping[str, Grid],
    command: Sequence[str],
) -> str:
    """Return the configuration as YAML with comments, after a check that it is valid.

    Args:
        output: file of the configuration. Its name is the name of the experiment.
        dataset: the imported data set.
        labels: its classes.
        splits: split of each case.
        grids: grid of each case.
        command: command line of the import, for the comment at the top.

    Raises:
        HstfError: if the names of classes or modalities are invalid in a configuration.
    """
    labelled = {}
    for case in dataset.cases:
        if splits.get(case.case_id) is Split.LABELLED:
            labelled[case.case_id] = case.patient
    used = [grids[case_id] for case_id in splits]
    paragraphs = [
        _header(output, dataset, splits, command),
        _files(output),
        _classes(dataset, labels),
        _training(labelled, used),
    ]
    blocks = ["\n".join(lines) for lines in paragraphs]
    text = "\n\n".join(blocks) + "\n"
    resolve_config(parse_yaml(text, output), source=str(output))
    return text


def _header(
    output: Path,
    dataset: DataSet,
    splits: Mapping[str, Split],
    command: Sequence[str],
) -> list[str]:
    """Return comments that describe the data set and how the file was written."""
    lines = []
    if Path(SCHEMA).is_file():
        schema = os.path.relpath(SCHEMA, output.parent)
        lines.append(f"# yaml-language-server: $schema={schema}")
    lines += comment(dataset.title)
    counts = ", ".join(_counts(dataset, splits))
    lines += comment(f"Patients: {counts}. Written by")
    lines.append(f"#   {shlex.join(command)}")
    lines += comment(ADVICE)
    for fact in dataset.comments:
        lines += comment(fact)
    return lines


def _counts(dataset: DataSet, splits: Mapping[str, Split]) -> list[str]:
    """Return the number of patients and cases of each split as text."""
    counts = []
    for split in ORDER:
        patients = set()
        cases = 0
        for case in dataset.cases:
            if splits.get(case.case_id) is split:
                patients.add(case.patient)
                cases += 1
        if cases or split is not Split.VALIDATION:
            counts.append(f"{len(patients)} {split} ({cases} cases)")
    return counts


def comment(text: str) -> list[str]:
    """Return ``text`` as lines of a YAML comment."""
    return [f"# {line}" for line in wrap(text, COMMENT_WIDTH)]


def _flow(content: Any) -> str:
    """Return ``content`` as YAML on one line."""
    text = yaml.safe_dump(
        content,
        default_flow_style=True,
        sort_keys=False,
        width=10_000,
    )
    return text.strip()


def _files(output: Path) -> list[str]:
    name = output.stem
    return [
        f"experiment: {_flow([name])[1:-1]}",
        f"cases: {sheet_path(output)}",
        f"overrides: overrides/{name}",
    ]


def _classes(dataset: DataSet, labels: Labels) -> list[str]:
    return [
        f"labels: {_flow(labels.values)}",
        *_regions(labels),
        *_lesions(labels),
        f"modalities: {_flow(dataset.modalities)}",
    ]


def named_regions(labels: Labels) -> dict[str, list[str]]:
    """Return the classes of each region that the official evaluation scores."""
    names = {value: name for name, value in labels.values.items()}
    regions = {}
    for region, values in labels.regions.items():
        regions[region] = [names.get(value, str(value)) for value in values]
    return regions


def trained_region_problems(labels: Labels) -> list[str]:
    """Return why a network cannot be trained with the regions of ``labels``."""
    classes = [name for name in labels.values if name not in (BACKGROUND, IGNORE)]
    return region_problems(named_regions(labels), classes)


def _regions(labels: Labels) -> list[str]:
    """Return the key ``regions``, or a comment if a network cannot be trained with the regions."""
    if not labels.regions:
        return []
    regions = _flow(named_regions(labels))
    problems = trained_region_problems(labels)
    if problems:
        return comment(
            f"Classes are trained instead of the official regions {regions}: {'; '.join(problems)}."
        )
    return [*comment(REGIONS_COMMENT), f"regions: {regions}"]


def _lesions(labels: Labels) -> list[str]:
    """Return the key ``lesions`` for structures whose name is that of a lesion.

    Of nested regions, only the innermost one is a lesion.
    """
    structures = {name: {name} for name in labels.values}
    if labels.regions and not trained_region_problems(labels):
        structures = {name: set(classes) for name, classes in named_regions(labels).items()}
    named = [name for name in structures if LESION.search(name)]
    inner = []
    for name in named:
        if not any(structures[other] < structures[name] for other in named):
            inner.append(name)
    if not inner:
        return []
    return [f"lesions: {_flow(inner)}   # found by name: a case has any number of them, or none"]


def _training(labelled: Mapping[str, str], grids: Sequence[Grid]) -> list[str]:
    """Return the sections whose best values depend on the data.

    Args:
        labelled: patient of each labelled case.
        grids: grids of all cases.
    """
    units = set(units_of_folds(labelled).values())
    folds = min(3, len(units))
    divided = f"{len(units)} labelled patients"
    if len(set(labelled.values())) == 1:
        divided = f"the {len(units)} scans of the only labelled patient"
    rotation = _rotation(grids)
    return [
        "# Self-training rounds after the warm-up. A higher number runs only the further rounds.",
        "rounds: 2",
        "",
        "warmup:",
        f"  folds: {folds}          # of {divided};"
        " each member predicts the fold that it was not trained on",
        *rotation,
        "",
        "student:",
        "  start: previous_round    # 'scratch': random weights in each round",
        *rotation,
    ]


def _rotation(grids: Sequence[Grid]) -> list[str]:
    """Return the key ``augmentation`` for thick slices, and nothing for other grids.

    Thick slices are too far apart to interpolate between them. Therefore images are rotated only
    within the slices.
    """
    steps = np.array([np.abs(grid.affine[:3, :3]) for grid in grids])
    # Step in mm along right, anterior and superior.
    along = np.median([matrix.max(axis=1) for matrix in steps], axis=0)
    thick = int(along.argmax())
    if along[thick] < THICK_SLICES * np.median(along):
        return []
    degrees = [0.0, 0.0, 0.0]
    degrees[thick] = 15.0
    distance = f"{along[thick]:.3g} mm"
    return [
        "  augmentation:",
        f"    rotation_degrees: {degrees}   # within the slices, which are {distance} apart",
    ]


def check_suitable(
    config: Config,
    dataset: DataSet,
    labels: Labels,
    source: Path,
) -> None:
    """Check that an existing configuration suits the data set.

    Args:
        config: the configuration.
        dataset: the imported data set.
        labels: its classes.
        source: file of the configuration, for the message.

    Raises:
        HstfError: if a modality of the configuration is missing in the data set, or if the labels
            have a value that the configuration does not define, or defines as another class.
    """
    problems = []
    for name in config.modalities:
        if name not in dataset.modalities:
            problems.append(f"modality {name} is missing")
    problems += _class_problems(config, dataset, labels)
    if problems:
        raise join_problems(
            f"{source}: does not suit the data set, which has the modalities"
            f" {', '.join(dataset.modalities)}.",
            problems,
        )


def _class_problems(config: Config, dataset: DataSet, labels: Labels) -> list[str]:
    """Return how the classes of the data set differ from those of the configuration."""
    by_name = {name.casefold(): value for name, value in config.labels.items()}
    known = set(config.labels.values())
    has_masks = any(case.masks for case in dataset.cases)
    defined = _flow(config.labels)
    problems = []
    for name, value in labels.values.items():
        expected = by_name.get(name.casefold())
        if value not in known:
            problems.append(f"label value {value} ({name}) is not defined in {defined}")
        elif expected is not None and expected != value:
            problems.append(
                f"{name} has the value {value}, but {expected} in {defined}. Masks of structures"
                " get their values from --labels NAME=VALUE; number the values of label maps anew"
            )
        elif expected is None and has_masks:
            problems.append(
                f"masks of {name}, which is not defined in {defined}. Choose the masks and their"
                " values with --labels NAME=VALUE, or rename the masks"
            )
    return problems
