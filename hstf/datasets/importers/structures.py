"""One mask for each structure: combine the masks of a case to one label file.

Masks may overlap, but a voxel of a label has one class. The smaller structure is kept: a lesion in
an organ stays a lesion. All overlaps are named.
"""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hstf.datasets.importers.dataset import (
    DataSet,
    FoundCase,
    Labels,
    Note,
    natural,
    numbered_classes,
    plain_name,
)
from hstf.datasets.importers.headers import in_order_of, map_files
from hstf.datasets.importers.matching import File, Scan, structure_name
from hstf.datasets.importers.options import Options
from hstf.imaging.volumes import Volume, blank_volume, read_label, write_like
from hstf.runtime.errors import HstfError, join_problems
from hstf.runtime.files import remove_leftovers

ANNOTATOR = re.compile(
    r"(?:rater|reader|observer|expert|annotator|radiologist|physician|doctor|dr|old|new|final|copy"
    r"|backup|corrected|consensus|auto|pred|prediction|version)\d*|[vr]\d+|\d+",
    re.IGNORECASE,
)
"""A part of the name of a label that shows a person or a version, not a structure."""
MAXIMUM_STRUCTURES = 254
SAME_STRUCTURE = 0.5
"""Dice of two masks from which they may be two annotations of one structure."""
NESTED = 0.98
"""Fraction of the smaller mask within the larger one from which it is a part of it."""
MAXIMUM_NAMED = 20
"""Number of overlaps that are named."""

Pair = tuple[str, str]


class Measured(NamedTuple):
    """Sizes of the masks of a case, or a problem."""

    voxels: dict[str, int]
    overlaps: dict[Pair, int]
    problem: str = ""


class CaseMasks(NamedTuple):
    """The masks of a case, from the one below to the one on top, and the file to write."""

    masks: tuple[tuple[str, Path], ...]
    image: Path
    """The first image of the case. The label has its grid."""
    values: tuple[int, ...] = ()
    target: Path | None = None


def assign_structures(
    dataset: DataSet,
    scans: Sequence[Scan],
    names: Sequence[str],
    options: Options,
) -> None:
    """Set the masks of all cases if images have several labels, each of another structure."""
    if all(len(scan.labels) < 2 for scan in scans):
        _read_names(dataset, scans, options)
        return
    by_case: dict[str, dict[str, Path]] = {}
    for scan, name in zip(scans, names, strict=True):
        if not scan.labels:
            continue
        case_id = plain_name(name)
        structures = _structures(scan)
        if isinstance(structures, str):
            dataset.add_problem(case_id, structures)
            continue
        by_case[case_id] = structures
    assign_masks(dataset, by_case, options)


def assign_masks(
    dataset: DataSet,
    by_case: Mapping[str, Mapping[str, Path]],
    options: Options,
) -> None:
    """Set the masks of cases, and the classes.

    Args:
        dataset: the cases.
        by_case: mask of each structure, by the name of the case.
        options: may name the structures that are used.
    """
    classes = _classes(dataset, by_case, options)
    cases = []
    for case in dataset.cases:
        found = by_case.get(case.case_id)
        if found is not None:
            chosen = {name: path for name, path in found.items() if name in classes}
            case = dataclasses.replace(case, label=None, masks=chosen)
        cases.append(case)
    dataset.cases = cases
    if classes and by_case:
        dataset.labels = Labels({"background": 0} | classes)
        dataset.rules.append(
            Note("structures", f"one mask each, combined to one label: {len(classes)} structures")
        )
        _note_missing(dataset, by_case, classes)


def _single_class(name: str, values: set[int]) -> Labels:
    """Return the class of labels that are called ``name``, if they have only one."""
    foreground = sorted(values - {0})
    if len(foreground) == 1:
        return Labels({"background": 0, name: foreground[0]})
    return numbered_classes(values)


def _read_names(dataset: DataSet, scans: Sequence[Scan], options: Options) -> None:
    """Read what the names of labels show, if each image has one.

    A word that all labels have is the name of the class. If words differ, the user is asked
    whether the labels show the same structures.
    """
    names = Counter[str]()
    for scan in scans:
        for label in scan.labels:
            names[structure_name(label, scan.first)] += 1
    if len(names) == 1 and not options.labels:
        name = next(iter(names))
        if name.isalpha() and not _is_annotator(name):
            dataset.labels = partial(_single_class, name)
    if 2 <= len(names) <= sum(names.values()) / 2:
        found = [f"{name or 'no further word'} ({count})" for name, count in names.most_common()]
        dataset.questions.append(
            f"Names of labels have different words: {', '.join(found)}. If these are different"
            " structures, one value has several meanings: choose one with --labels GLOB."
        )


def _structures(scan: Scan) -> dict[str, Path] | str:
    """Return the mask of each structure, or why labels are not masks of structures."""
    found: dict[str, File] = {}
    for label in scan.labels:
        name = structure_name(label, scan.first)
        if not name or name in found or (len(scan.labels) > 1 and _is_annotator(name)):
            paths = [str(file.path) for file in scan.labels[:3]]
            count = "two" if len(scan.labels) == 2 else len(scan.labels)
            return (
                f"has {count} labels: {' and '.join(paths)}; keep one, or choose with --labels"
                " GLOB. Masks of structures are named <case>_<structure> or <case>/<structure>"
            )
        found[name] = label
    plain: dict[str, Path] = {}
    for name, file in found.items():
        first = plain.setdefault(plain_name(name), file.path)
        if first is not file.path:
            return (
                f"has two masks whose structure would be called {plain_name(name)}: {first} and"
                f" {file.path}. Rename them: names have the letters A to Z, digits, '.', '-' and"
                " '_'"
            )
    return plain


def _is_annotator(name: str) -> bool:
    """Return whether all parts of a name show a person or a version, as in ``rater_1``."""
    return all(ANNOTATOR.fullmatch(part) for part in name.split("_"))


def _classes(
    dataset: DataSet,
    by_case: Mapping[str, Mapping[str, Path]],
    options: Options,
) -> dict[str, int]:
    """Return the value of each structure that is used."""
    counts = Counter[str]()
    for structures in by_case.values():
        counts.update(structures.keys())
    counts.pop("background", None)
    if options.labels:
        unknown = [name for name in options.labels if name not in counts]
        if unknown:
            raise HstfError(
                f"--labels {', '.join(unknown)}: no mask has this name. Masks are"
                f" {', '.join(sorted(counts, key=natural))}."
            )
        others = sorted(counts.keys() - options.labels.keys(), key=natural)
        if others:
            dataset.leave_out(
                f"masks of {len(others)} structures: {', '.join(others)}",
                "--labels does not name them",
            )
        return dict(options.labels)
    if len(counts) > MAXIMUM_STRUCTURES:
        raise HstfError(
            f"{len(counts)} structures, at most {MAXIMUM_STRUCTURES} are possible. Choose some"
            " with --labels NAME=VALUE."
        )
    return {name: value for value, name in enumerate(sorted(counts, key=natural), start=1)}


def _note_missing(
    dataset: DataSet,
    by_case: Mapping[str, Mapping[str, Path]],
    classes: Mapping[str, int],
) -> None:
    """Ask about structures without a mask in some cases."""
    missing = Counter[str]()
    for structures in by_case.values():
        missing.update(name for name in classes if name not in structures)
    if missing:
        found = [f"{name} ({count} cases)" for name, count in missing.most_common(MAXIMUM_NAMED)]
        dataset.questions.append(
            f"Some cases have no mask of {', '.join(found)}: it is taken to be absent in them. If"
            " nobody has looked for it, leave these cases out, or the structure (--labels)."
        )


def combine(
    dataset: DataSet,
    folder: Path,
    sizes: Mapping[str, float],
) -> None:
    """Write one label for each case with masks to ``folder``, and refer the cases to it.

    Args:
        dataset: the cases.
        folder: folder of the labels.
        sizes: mean number of voxels of each structure, see :func:`measure`.

    Raises:
        HstfError: if a mask cannot be read or is not binary.
    """
    cases = [case for case in dataset.cases if case.masks]
    if not cases or not isinstance(dataset.labels, Labels):
        return
    values = dataset.labels.values
    tasks = []
    for case in cases:
        names = sorted(case.masks, key=lambda name: (-sizes.get(name, 0.0), name))
        masks = tuple((name, case.masks[name]) for name in names)
        target = folder / f"{case.case_id}.nii.gz"
        chosen = tuple(values[name] for name in names)
        tasks.append(CaseMasks(masks, case.first_path, chosen, target))
    problems = [problem for _, problem in map_files(_write, tasks, "combine") if problem]
    if problems:
        raise join_problems("masks cannot be combined.", problems)
    targets = {case.case_id: task.target for case, task in zip(cases, tasks, strict=True)}
    dataset.cases = [_with_label(case, targets.get(case.case_id)) for case in dataset.cases]


def _with_label(case: FoundCase, target: Path | None) -> FoundCase:
    if target is None:
        return case
    return dataclasses.replace(case, label=target, masks={})


def measure(dataset: DataSet, labelled: Collection[str]) -> Mapping[str, float]:
    """Return the mean number of voxels of each structure, and report overlaps.

    Args:
        dataset: the cases.
        labelled: names of the labelled cases. The masks of no other case are read.

    Raises:
        HstfError: if a mask cannot be read or is not binary, or if masks seem to be annotations of
            one structure by several people.
    """
    cases = [case for case in dataset.cases if case.masks and case.case_id in labelled]
    tasks = [CaseMasks(tuple(case.masks.items()), case.first_path) for case in cases]
    voxels: dict[str, list[int]] = defaultdict(list)
    overlaps: dict[Pair, list[tuple[int, int, int]]] = defaultdict(list)
    problems = []
    for _, measured in map_files(_read_masks, tasks, "masks"):
        if measured.problem:
            problems.append(measured.problem)
        for name, count in measured.voxels.items():
            voxels[name].append(count)
        for pair, count in measured.overlaps.items():
            first, second = (measured.voxels[name] for name in pair)
            overlaps[pair].append((count, first, second))
    if problems:
        raise join_problems("masks cannot be combined.", problems)
    means: dict[str, float] = defaultdict(float)
    for name, counts in voxels.items():
        means[name] = float(np.mean(counts))
    _refuse_annotators(overlaps)
    _report(dataset, overlaps, means)
    return means


def _refuse_annotators(overlaps: Mapping[Pair, Sequence[tuple[int, int, int]]]) -> None:
    """Refuse masks that seem to be annotations of one structure by several people.

    Raises:
        HstfError: if two masks are similar in most cases, and neither is a part of the other.
    """
    alike = []
    for pair, found in overlaps.items():
        common, first, second = np.sum(found, axis=0)
        dice = 2 * common / (first + second)
        if dice > SAME_STRUCTURE and common < NESTED * min(first, second):
            alike.append(f"{pair[0]} and {pair[1]}: Dice {dice:.2f}")
    if alike:
        raise join_problems(
            "masks look like annotations of one structure by several people, not like structures."
            " Choose one of each with --labels GLOB.",
            alike,
        )


def _report(
    dataset: DataSet,
    overlaps: Mapping[Pair, Sequence[tuple[int, int, int]]],
    means: Mapping[str, float],
) -> None:
    named = []
    for pair, found in overlaps.items():
        above, below = sorted(pair, key=lambda name: (means[name], name))
        voxels = sum(count for count, _, _ in found)
        named.append(
            f"{above} on {below} ({voxels} voxels in {len(found)} cases)",
        )
    if not named:
        return
    further = len(named) - MAXIMUM_NAMED
    text = ", ".join(named[:MAXIMUM_NAMED])
    if further > 0:
        text += f" and {further} more"
    dataset.rules.append(Note("overlaps", f"the smaller structure is kept in the label: {text}"))
    dataset.comments.append(
        f"Masks overlap, and the smaller structure is kept: {text}. Overlapping structures can be"
        " trained as regions."
    )


def _read_masks(case: CaseMasks) -> Measured:
    """Return the sizes and overlaps of masks."""
    voxels: dict[str, int] = {}
    overlaps: dict[Pair, int] = {}
    names = [name for name, _ in case.masks]
    try:
        image = blank_volume(case.image)
        owner = np.zeros(image.data.shape, np.uint8)
        for number, (name, path) in enumerate(case.masks, start=1):
            mask = _read_mask(path, image)
            voxels[name] = int(np.count_nonzero(mask))
            counts = np.bincount(owner[mask], minlength=number)
            for other in np.flatnonzero(counts[1:]):
                overlaps[(names[other], name)] = int(counts[other + 1])
            owner[mask] = number
    except HstfError as error:
        return Measured({}, {}, str(error))
    return Measured(voxels, overlaps)


def _read_mask(path: Path, image: Volume) -> np.ndarray:
    """Return a mask as booleans, on the grid of the image of its case.

    Raises:
        HstfError: if the file cannot be read or has several values.
    """
    data = in_order_of(image, read_label(path))
    values = np.unique(data)
    if values[values > 0].size > 1:
        found = ", ".join(str(value) for value in values[:5])
        raise HstfError(
            f"{path}: has the values {found}, expected 0 and one other value in the mask of a"
            " structure. Choose the labels with --labels GLOB."
        )
    return data > 0


def _write(case: CaseMasks) -> str:
    """Write the label of a case. Returns a description of the problem, or ``""``."""
    assert case.target is not None
    try:
        image = blank_volume(case.image)
        label = np.zeros(image.data.shape, np.uint8)
        for (_, path), value in zip(case.masks, case.values, strict=True):
            label[_read_mask(path, image)] = value
        remove_leftovers(case.target)
        write_like(case.target, label, image)
    except HstfError as error:
        return str(error)
    return ""
