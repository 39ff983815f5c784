"""Labels of BIDS: which image a label belongs to, and which of several labels is used."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hstf.datasets.importers.bids_files import File
from hstf.datasets.importers.dataset import (
    DataSet,
)

LABEL_SUFFIXES = ("dseg", "seg", "label", "msk", "mask")
"""Suffixes of labels, the preferred ones first: a mask is often that of the brain."""
NATIVE_SPACES = ("orig", "individual", "native", "scanner", "T1w", "T2w", "FLAIR")
"""Values of ``space`` for the space of the raw images, which have no such entity."""
OF_SCAN = ("acq", "ce", "rec", "dir", "echo", "run")
"""Entities of a scan. A label that has one belongs to a scan with the same value."""
Scans = dict[str, dict[str, File]]
"""Images of each case by suffix."""


def distinguishing_filter(first: File, second: File) -> str:
    """Return an example of a filter that distinguishes two files."""
    for key in [*second.entities, *first.entities]:
        if first.entities.get(key) != second.entities.get(key):
            return f"{key}={first.entities.get(key, 'none')}"
    return "KEY=VALUE"


def match_labels(
    dataset: DataSet,
    scans: Scans,
    labels: Sequence[File],
) -> dict[str, list[File]]:
    """Return the labels of each case."""
    candidates: dict[str, list[File]] = defaultdict(list)
    by_session: dict[str, list[str]] = defaultdict(list)
    for name, images in scans.items():
        by_session[next(iter(images.values())).session].append(name)
    other_grids = 0
    for label in labels:
        names = by_session.get(label.session, [])
        if not names:
            dataset.add_problem(
                label.path, f"a label without its image: no scan of {label.session}"
            )
            continue
        suitable = [name for name in names if _is_compatible(label, scans[name])]
        same_grid = [name for name in suitable if _has_grid_of(label, scans[name])]
        if len(same_grid) > 1:
            same_grid = [name for name in same_grid if label.run == _run_of(name)] or same_grid
        if not suitable:
            dataset.add_problem(label.path, f"a label without its image in {label.session}")
        elif not same_grid:
            other_grids += 1
        elif len(same_grid) > 1:
            dataset.add_problem(
                label.path,
                f"a label of {' or '.join(same_grid)}: choose with --filter run=VALUE",
            )
        else:
            candidates[same_grid[0]].append(label)
    if other_grids:
        dataset.leave_out(
            f"{other_grids} labels in another space",
            "the images have no such entity; --filter space=VALUE chooses images and labels",
        )
    return candidates


def structure_masks(
    dataset: DataSet,
    candidates: dict[str, list[File]],
) -> dict[str, dict[str, Path]]:
    """Return the masks of structures, and remove them from ``candidates``.

    In BIDS, ``label-liver_mask`` is the mask of the structure ``liver``.
    """
    found = {}
    for name, labels in list(candidates.items()):
        best = min(_preference(label) for label in labels)
        alike = [label for label in labels if _preference(label) == best]
        structures = {file.entities.get("label", ""): file.path for file in alike}
        if len(structures) > 1 and "" not in structures and len(structures) == len(alike):
            found[name] = structures | _further_masks(dataset, name, labels, structures)
    if found:
        for name, labels in list(candidates.items()):
            structures = {file.entities.get("label", ""): file.path for file in labels}
            if name not in found and len(labels) == 1 and "" not in structures:
                found[name] = structures
            if name in found:
                del candidates[name]
    return found


def _further_masks(
    dataset: DataSet,
    name: str,
    labels: Sequence[File],
    structures: Mapping[str, Path],
) -> dict[str, Path]:
    """Return masks of structures that ``structures`` lacks: their names have further entities."""
    further: dict[str, File] = {}
    unused: list[File] = []
    for label in sorted(labels, key=_preference):
        structure = label.entities.get("label", "")
        if label.path == structures.get(structure):
            continue
        if not structure or structure in structures:
            unused.append(label)
            continue
        first = further.setdefault(structure, label)
        if first is label:
            continue
        unused.append(label)
        if _preference(first) == _preference(label):
            dataset.add_problem(
                name,
                f"its mask of {structure} exists twice: {first.path} and {label.path}; keep one, or"
                f" choose one with --filter {distinguishing_filter(first, label)}",
            )
    for label in unused:
        dataset.leave_out(label.path.name, "the masks of structures are used")
    return {structure: label.path for structure, label in further.items()}


def refuse_label_maps(dataset: DataSet, matched: Mapping[str, File]) -> None:
    """Record cases with a label map if others have masks: its values may be other structures."""
    for name, label in matched.items():
        dataset.add_problem(
            name,
            f"has the label map {label.path}, but other cases have a mask for each structure. State"
            " the values of the map with --labels NAME=VALUE, or choose with --filter KEY=VALUE",
        )


def _run_of(name: str) -> str:
    return name.partition("_run-")[2]


def _is_compatible(label: File, images: Mapping[str, File]) -> bool:
    """Return whether an image has all entities of a scan that ``label`` has."""
    for image in images.values():
        wanted = [key for key in OF_SCAN if key in label.entities]
        if all(image.entities.get(key, "") in ("", label.entities[key]) for key in wanted):
            return True
    return False


def _has_grid_of(label: File, images: Mapping[str, File]) -> bool:
    image = next(iter(images.values()))
    return _space(label) == _space(image)


def _space(file: File) -> str:
    space = file.entities.get("space", "")
    return "" if space in NATIVE_SPACES else space


def preferred_labels(
    dataset: DataSet,
    candidates: Mapping[str, Sequence[File]],
) -> dict[str, File]:
    """Return one label of each case: of the preferred suffix, with the fewest entities."""
    chosen: dict[str, File] = {}
    others: list[File] = []
    for name, labels in candidates.items():
        ordered = sorted(labels, key=_preference)
        best = ordered[0]
        if len(ordered) > 1 and _preference(ordered[1]) == _preference(best):
            dataset.add_problem(
                name,
                f"its label exists twice: {best.path} and {ordered[1].path}; keep one, or choose"
                f" one with --filter {distinguishing_filter(best, ordered[1])}",
            )
            continue
        chosen[name] = best
        others += ordered[1:]
    if others:
        dataset.leave_out(
            f"{len(others)} labels, for example {others[0].path.name}",
            f"another label is preferred, for example {next(iter(chosen.values())).path.name};"
            " --filter KEY=VALUE chooses",
        )
    return chosen


def _preference(label: File) -> tuple[int, int]:
    return LABEL_SUFFIXES.index(label.suffix), len(label.entities)
