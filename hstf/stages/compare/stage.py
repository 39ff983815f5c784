"""``hstf compare``: methods and seeds of a comparison side by side, as far as they are done.

Writes, below ``<output>/<experiment>/compare/``:

- ``cells.csv``: a row for each method, seed and evaluated round: scores, and CPU and wall-clock seconds of its jobs;
- ``table.csv``, ``table.md``: a row for each method, see :func:`hstf.stages.compare.table.table`;
- ``dice_by_round.png``, ``dice_by_method.png``, ``dice_by_scale.png``;
- ``compare.html``: all of it on one page that needs nothing but itself.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from hstf.config.load import load_config
from hstf.config.methods import METHODS
from hstf.experiment.comparison import Cell, cells, refuse_no_comparison
from hstf.experiment.context import StageContext
from hstf.experiment.tables import COMPARE_CELLS, COMPARE_TABLE
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.stages.compare.figures import dice_by_method, dice_by_round, dice_by_scale
from hstf.stages.compare.page import KIND, class_table, html, main_table, markdown
from hstf.stages.compare.scores import CellScores, read_cell, refuse_different_cases
from hstf.stages.compare.table import CEILING, WARMUP, Entry, columns, entries, table
from hstf.stages.report.figures import Figures
from hstf.stages.report.page import Chart


def run(args: argparse.Namespace) -> int:
    """Compare the methods."""
    config = load_config(*args.config)
    refuse_no_comparison(config)
    page = compare(StageContext.of(config, "compare"), cells(config))
    print(f"compare: {page.resolve()}", flush=True)
    return 0


def compare(context: StageContext, cells: Sequence[Cell]) -> Path:
    """Write tables, figures and page of a comparison from the cells that are done.

    Returns:
        The page.

    Raises:
        HstfError: if no cell is done, or if cells were scored on different test cases.
    """
    config = context.config
    last = context.schedule.last
    folder = context.layout.compare
    classes = list(config.structures)
    scores = [read_cell(cell) for cell in cells]
    refuse_different_cases(scores)
    COMPARE_CELLS.write(folder / "cells.csv", cell_rows(scores, classes), classes)
    found = entries(scores, last)
    if not found:
        raise HstfError(
            f"{folder}: no round of any method is evaluated yet. Run: snakemake compare."
        )
    rows = table(found, classes, config.evaluate.bootstrap, config.seed)
    COMPARE_TABLE.write(folder / "table.csv", rows, header=columns(classes))
    tables = [main_table(rows), class_table(rows, classes, config.structure_kind)]
    remarks = notes(context, scores, found)
    title = f"{context.experiment}: {KIND}"
    write_text(folder / "table.md", markdown(title, tables, remarks))
    drawn = charts(folder, scores, found, last)
    page = folder / "compare.html"
    write_text(page, html(context.experiment, tables, drawn, remarks, headline(rows)))
    return page


def cell_rows(scores: Sequence[CellScores], classes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """A row for each evaluated round of each cell."""
    for cell in scores:
        for number, found in cell.rounds.items():
            by_class = zip(classes, found.class_means("dice"), strict=True)
            yield {
                "method": cell.method, "seed": cell.seed, "round": number,
                **{metric: found.mean(metric) for metric in ("dice", "hd95_mm", "asd_mm")},
                "cpu_s": found.compute.cpu, "wall_s": found.compute.wall,
                **{f"dice_{name}": dice for name, dice in by_class},
            }  # fmt: skip


def headline(rows: Sequence[dict[str, Any]]) -> str:
    """The best method that has no more labels than the others."""
    best = max(
        (row for row in rows if row["method"] not in (CEILING, WARMUP)),
        key=lambda row: row["dice"] or 0,
        default=None,
    )
    if best is None or best["dice"] is None:
        return "No method is done yet."
    return f"Best: {best['method']}, Dice {best['dice']:.3f}."


def notes(context: StageContext, scores: Sequence[CellScores], found: Sequence[Entry]) -> list[str]:
    """How the table was made, and what is missing from it."""
    config = context.config
    last = context.schedule.last
    cases, patients = len(found[0].seeds[0].case_ids), len(set(found[0].seeds[0].groups))
    missing = [f"{cell.method} with seed {cell.seed}" for cell in scores if last not in cell.rounds]
    lines = [
        f"{cases} test cases of {patients} patients, each scored by the model of the last round ({last}). Means are"
        f" over {'regions' if config.regions else 'classes'}, cases and seeds; ± is the standard deviation over seeds.",
        "Changes of Dice are paired by case, seeds averaged, with their 95% bootstrap interval over patients and the p-value"
        " of Wilcoxon's signed-rank test over patients, not corrected for the number of methods.",
        "Share of the gap (%): part of the way from the Dice of one network of the warm-up to that of one of 'full', which"
        " learns from every label; from supervised: the same, on from one network of 'supervised', which has had as many"
        " steps. The warm-up itself is the team of its members.",
        "Hours are those of the warm-up and of all rounds of a seed together, without what is done once for all (check,"
        " plan, preprocessing) and without evaluation; an interrupted training counts from its last start.",
    ]
    online = (
        [name for name in config.compare.methods if METHODS[name].online] if config.compare else []
    )
    if online:
        lines.append(
            f"{', '.join(online)} learn from no view at another scale, and all other methods do: Dice against input scale"
            " tells of that before it tells of the method."
        )
    return lines + ([f"Not done yet, and left out: {', '.join(missing)}."] if missing else [])


def charts(
    folder: Path, scores: Sequence[CellScores], found: Sequence[Entry], last: int
) -> list[Chart]:
    """Figures of the methods whose last round is done."""
    done = {
        entry.name: [cell for cell in scores if cell.method == entry.name and last in cell.rounds]
        for entry in found
    }
    done = {name: cells for name, cells in done.items() if cells}
    by_round = {
        name: {
            n: [cell.rounds[n].mean("dice") for cell in cells if n in cell.rounds]
            for n in cells[0].rounds
        }
        for name, cells in done.items()
    }
    by_method = {entry.name: [seed.mean("dice") for seed in entry.seeds] for entry in found}
    by_scale = {name: mean_scales(cells) for name, cells in done.items()}
    by_scale = {name: scales for name, scales in by_scale.items() if scales}
    figures, drawn = Figures(folder), []
    drawn.append(figures.add("dice_by_method", "Dice by method", dice_by_method(by_method),
        "A point for each seed. What seeds differ by is not what methods differ by."))  # fmt: skip
    if by_round:
        drawn.append(figures.add("dice_by_round", "Dice by round", dice_by_round(by_round),
            "Mean over the seeds; bars are the standard deviation over them."))  # fmt: skip
    if by_scale:
        drawn.append(figures.add("dice_by_scale", "Dice against input scale", dice_by_scale(by_scale),
            "The last round's models on test cases resampled to other scales; mean over the seeds."))  # fmt: skip
    return drawn


def mean_scales(cells: Sequence[CellScores]) -> dict[float, float]:
    """Mean Dice over the seeds at each scale that all of them were scored at."""
    shared = set.intersection(*(set(cell.scales) for cell in cells))
    return {scale: fmean(cell.scales[scale] for cell in cells) for scale in sorted(shared)}
