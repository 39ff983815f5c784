"""What an import found and what it left out, as tables in the terminal."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from hstf.datasets.importers.dataset import DataSet, Labels
from hstf.datasets.importers.headers import Grid
from hstf.experiment.cases import Split

WIDTH = 110
MOST_ROWS = 20


def show(
    dataset: DataSet, labels: Labels, splits: Mapping[str, Split], grids: Mapping[str, Grid]
) -> None:
    """Print the tables."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    console.print(dataset.title, style="bold")
    console.print(_found(dataset, labels, splits, [grids[case_id] for case_id in splits]))
    if dataset.left_out:
        console.print(_left_out(dataset))


def _found(
    dataset: DataSet, labels: Labels, splits: Mapping[str, Split], grids: Sequence[Grid]
) -> Table:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    cases = [case for case in dataset.cases if case.case_id in splits]
    for split in Split:
        of_split = [case for case in cases if splits[case.case_id] is split]
        with_label = sum(case.label is not None for case in of_split)
        withheld = f", {with_label} with a label that training never reads" if with_label else ""
        told = f"{len(of_split)} cases of {len({case.patient for case in of_split})} patients"
        table.add_row(split, told + (withheld if split is Split.UNLABELLED else ""))
    table.add_row("modalities", _pairs(dataset.modalities))
    table.add_row("labels", _pairs(labels.values))
    if labels.regions:
        table.add_row("regions", _pairs(labels.regions))
    sites = sorted({case.site for case in cases} - {""})
    if sites:
        table.add_row("sites", ", ".join(sites))
    table.add_row("spacing", f"{_ranges([grid.spacing for grid in grids])} mm")
    table.add_row("shape", f"{_ranges([grid.shape for grid in grids])} voxels")
    return table


def _pairs(content: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in content.items())


def _ranges(rows: Iterable[Sequence[float]]) -> str:
    """Smallest to largest value along each axis."""
    values = np.array(list(rows), dtype=float)
    pairs = zip(values.min(axis=0), values.max(axis=0), strict=True)
    return " x ".join(
        f"{low:.4g}" if np.isclose(low, high) else f"{low:.4g}-{high:.4g}" for low, high in pairs
    )


def _left_out(dataset: DataSet) -> Table:
    table = Table("left out", "because")
    for note in dataset.left_out[:MOST_ROWS]:
        table.add_row(*note)
    if len(dataset.left_out) > MOST_ROWS:
        table.add_row(f"{len(dataset.left_out) - MOST_ROWS} more", "")
    return table
