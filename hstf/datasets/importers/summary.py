"""Tables of what an import found and left out, for the terminal."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from hstf.datasets.importers.dataset import DataSet, FoundCase, Labels
from hstf.datasets.importers.headers import Grid
from hstf.experiment.cases import Split

LOG_WIDTH = 110
"""Width of the tables if the output is not a terminal."""
MAXIMUM_ROWS = 20


def show(
    dataset: DataSet,
    labels: Labels,
    splits: Mapping[str, Split],
    grids: Mapping[str, Grid],
) -> None:
    """Print the tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=LOG_WIDTH)
    console.print(dataset.title, style="bold")
    used = [grids[case_id] for case_id in splits]
    console.print(_found(dataset, labels, splits, used))
    if dataset.left_out:
        console.print(_left_out(dataset))


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
        table.add_row("regions", _pairs(labels.regions))
    sites = sorted({case.site for case in cases} - {""})
    if sites:
        table.add_row("sites", ", ".join(sites))
    spacings = [grid.spacing for grid in grids]
    shapes = [grid.shape for grid in grids]
    table.add_row("spacing", f"{_ranges(spacings)} mm")
    table.add_row("shape", f"{_ranges(shapes)} voxels")
    return table


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
    table = Table("left out", "reason")
    for note in dataset.left_out[:MAXIMUM_ROWS]:
        table.add_row(*note)
    further = len(dataset.left_out) - MAXIMUM_ROWS
    if further > 0:
        table.add_row(f"{further} more", "")
    return table
