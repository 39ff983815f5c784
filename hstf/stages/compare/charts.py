"""The figures of the methods whose last round is done."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from hstf.stages.compare.figures import dice_by_method, dice_by_round, dice_by_scale
from hstf.stages.compare.scores import CellScores
from hstf.stages.compare.table import Entry
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.page import Chart


def draw_charts(
    folder: Path,
    cells: Sequence[CellScores],
    entries: Sequence[Entry],
    last: int,
) -> list[Chart]:
    """Draw the figures, save them in ``folder`` and return them for the page.

    Args:
        folder: folder of the PNG files.
        cells: all cells of the comparison.
        entries: the rows of the table.
        last: number of the last round.
    """
    figures = Figures(folder)
    methods = {entry.name: _done_cells(cells, entry.name, last) for entry in entries}
    methods = {name: done for name, done in methods.items() if done}
    by_method = {}
    for entry in entries:
        by_method[entry.name] = [scores.mean("dice") for scores in entry.seeds]
    charts = [
        figures.add(
            "dice_by_method",
            "Dice by method",
            dice_by_method(by_method),
            "A point for each seed. Differences between seeds are no differences between methods.",
        )
    ]
    by_round = {name: dice_by_round_of(done) for name, done in methods.items()}
    if by_round:
        chart = figures.add(
            "dice_by_round",
            "Dice by round",
            dice_by_round(by_round),
            "Mean over the seeds; bars are the standard deviation over the seeds.",
        )
        charts.append(chart)
    by_scale = {name: mean_by_scale(done) for name, done in methods.items()}
    by_scale = {name: scales for name, scales in by_scale.items() if scales}
    if by_scale:
        chart = figures.add(
            "dice_by_scale",
            "Dice by input scale",
            dice_by_scale(by_scale),
            "Models of the last round on test cases that are resampled to other scales; mean over"
            " the seeds.",
        )
        charts.append(chart)
    return charts


def _done_cells(
    cells: Sequence[CellScores],
    method: str,
    last: int,
) -> list[CellScores]:
    return [cell for cell in cells if cell.method == method and last in cell.rounds]


def dice_by_round_of(cells: Sequence[CellScores]) -> dict[int, list[float]]:
    """Return the mean Dice of each seed in each round that all seeds were scored in."""
    first, *others = cells
    by_round = {}
    for number in first.rounds:
        if all(number in cell.rounds for cell in others):
            by_round[number] = [cell.rounds[number].mean("dice") for cell in cells]
    return by_round


def mean_by_scale(cells: Sequence[CellScores]) -> dict[float, float]:
    """Return the mean Dice over the seeds at each scale that all seeds were scored at."""
    first, *others = cells
    means = {}
    for scale in sorted(first.scales):
        if all(scale in cell.scales for cell in others):
            means[scale] = fmean(cell.scales[scale] for cell in cells)
    return means
