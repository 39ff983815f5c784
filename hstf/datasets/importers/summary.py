"""Tables of what an import found and left out, for the terminal."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.headers import Grid
from hstf.datasets.importers.write import trained_region_problems
from hstf.experiment.cases import Split
from hstf.imaging.volume_files import suffix_of

LOG_WIDTH = 110
"""Width of the tables if the output is not a terminal."""
PAIRS_WIDTH = 240
"""Width of the table of pairs if the output is not a terminal."""
MAXIMUM_ROWS = 20
MAXIMUM_PAIRS = 1000
MAXIMUM_MASKS = 4
"""Number of masks of a case that are named."""
NO_TEST = "No test cases: nothing will be scored. --test N keeps N labelled patients for testing."


def show(
    dataset: DataSet,
    labels: Labels,
    splits: Mapping[str, Split],
    grids: Mapping[str, Grid],
) -> None:
    """Print the tables."""
    console = _console(LOG_WIDTH)
    console.print(dataset.title, style="bold", markup=False)
    used = [grids[case_id] for case_id in splits]
    console.print(_found(dataset, labels, splits, used))
    if dataset.left_out:
        console.print(_left_out(dataset))
    _print_warnings(console, dataset)
    for question in dataset.questions:
        console.print(f"Question: {question}", markup=False)
    if Split.TEST not in splits.values():
        console.print(NO_TEST, markup=False)


def show_pairs(dataset: DataSet, folder: Path) -> None:
    """Print the image, label and patient of each case."""
    console = _console(PAIRS_WIDTH)
    table = Table("case", *dataset.modalities, "label", "patient")
    for case in dataset.cases[:MAXIMUM_PAIRS]:
        images = [_relative(image.path, folder) for image in case.images.values()]
        table.add_row(*map(escape, [case.case_id, *images, _label(case, folder), case.patient]))
    further = len(dataset.cases) - MAXIMUM_PAIRS
    if further > 0:
        table.add_row(f"{further} more")
    console.print(table)


def _console(width: int) -> Console:
    """Return a console that is ``width`` wide if the output is not a terminal."""
    console = Console(highlight=False)
    if console.is_terminal:
        return console
    return Console(highlight=False, width=width)


def _relative(path: Path, folder: Path) -> str:
    if path.is_relative_to(folder):
        return str(path.relative_to(folder))
    return str(path)


def _label(case: FoundCase, folder: Path) -> str:
    if case.label is not None:
        return _relative(case.label, folder)
    if case.masks:
        names = ", ".join(list(case.masks)[:MAXIMUM_MASKS])
        more = ", …" if len(case.masks) > MAXIMUM_MASKS else ""
        return f"{len(case.masks)} masks: {names}{more}"
    return "none"


def _print_warnings(console: Console, dataset: DataSet) -> None:
    for text, paths in list(dataset.warnings.items())[:MAXIMUM_ROWS]:
        console.print(
            f"Warning: {len(paths)} files, for example {paths[0]}: {text}",
            markup=False,
        )
    further = len(dataset.warnings) - MAXIMUM_ROWS
    if further > 0:
        console.print(f"{further} further warnings of headers. hstf check lists all.")


def _found(
    dataset: DataSet,
    labels: Labels,
    splits: Mapping[str, Split],
    grids: Sequence[Grid],
) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    cases = [case for case in dataset.cases if case.case_id in splits]
    for split in Split:
        of_split = [case for case in cases if splits[case.case_id] is split]
        table.add_row(split, _count(of_split, split))
    table.add_row("modalities", _pairs(dataset.modalities))
    table.add_row("labels", _pairs(labels.values))
    if labels.regions:
        table.add_row("regions", _regions(labels))
    sites = sorted({case.site for case in cases} - {""})
    if sites:
        table.add_row("sites", ", ".join(sites))
    spacings = [grid.spacing for grid in grids]
    shapes = [grid.shape for grid in grids]
    table.add_row("formats", _formats(cases))
    for rule in dataset.rules:
        table.add_row(rule.what, escape(rule.why))
    table.add_row("spacing", f"{_ranges(spacings)} mm")
    table.add_row("shape", f"{_ranges(shapes)} voxels")
    return table


def _regions(labels: Labels) -> str:
    """Return the regions, or why the configuration has none of them."""
    problems = trained_region_problems(labels)
    if problems:
        return escape(f"not used, classes are trained instead: {'; '.join(problems)}")
    return _pairs(labels.regions)


def _formats(cases: Iterable[FoundCase]) -> str:
    """Return the number of files of each format."""
    counts = Counter[str]()
    for case in cases:
        paths = {image.path for image in case.images.values()}
        paths.update(case.label_files)
        counts.update(suffix_of(path) for path in paths)
    return ", ".join(f"{suffix} ({count} files)" for suffix, count in counts.items())


def _count(cases: Sequence[FoundCase], split: Split) -> str:
    """Return the number of cases, patients and withheld labels of a split."""
    patients = {case.patient for case in cases}
    text = f"{len(cases)} cases of {len(patients)} patients"
    withheld = sum(case.has_label for case in cases)
    if split is Split.UNLABELLED and withheld:
        text += f", {withheld} with a label that training never reads"
    return text


def _pairs(content: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in content.items())


def _ranges(rows: Iterable[Sequence[float]]) -> str:
    """Return the minimum and maximum along each axis as text."""
    values = np.array(list(rows), dtype=float)
    lows = values.min(axis=0)
    highs = values.max(axis=0)
    ranges = []
    for low, high in zip(lows, highs, strict=True):
        if np.isclose(low, high):
            ranges.append(f"{low:.4g}")
        else:
            ranges.append(f"{low:.4g}-{high:.4g}")
    return " x ".join(ranges)


def _left_out(dataset: DataSet) -> Table:
    table = Table(f"left out ({len(dataset.left_out)})", "reason")
    for note in dataset.left_out[:MAXIMUM_ROWS]:
        table.add_row(*map(escape, note))
    further = len(dataset.left_out) - MAXIMUM_ROWS
    if further > 0:
        table.add_row(f"{further} more", "")
    return table
