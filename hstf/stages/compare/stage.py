"""``hstf compare``: compare methods and seeds on the same data, as far as they are done.

Writes below ``<output>/<experiment>/compare/``:

- ``cells.csv``: a row for each evaluated round of a method with a seed;
- ``table.csv``, ``table.md``: a row for each method;
- ``dice_by_round.png``, ``dice_by_method.png``, ``dice_by_scale.png``;
- ``compare.html``: tables and figures on one page that needs no other file.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hstf.config.load import load_config
from hstf.experiment.comparison import Cell, cells_of, refuse_no_comparison
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import COMPARE_CELLS, COMPARE_TABLE
from hstf.runtime.errors import HstfError
from hstf.runtime.files import write_text
from hstf.scoring.averages import finite_or_none
from hstf.scoring.round_comparison import is_scored_on_other_cases
from hstf.stages.compare.charts import draw_charts
from hstf.stages.compare.notes import headline, notes
from hstf.stages.compare.page import KIND, html, main_table, markdown, structure_table
from hstf.stages.compare.scores import (
    METRICS,
    CellScores,
    read_cell,
    refuse_different_cases,
    without_warmup,
)
from hstf.stages.compare.table import columns, entries, table


def run(args: argparse.Namespace) -> int:
    """Compare the methods."""
    config = load_config(*args.config)
    refuse_no_comparison(config)
    page = compare(StageContext.of(config, "compare"), cells_of(config))
    print(f"compare: {page.resolve()}", flush=True)
    return 0


def compare(
    context: StageContext,
    cells: Sequence[Cell],
) -> Path:
    """Write tables, figures and page of a comparison from the cells that are done.

    Args:
        context: the stage ``compare``.
        cells: all cells of the comparison.

    Returns:
        The page.

    Raises:
        HstfError: if no cell is done, or if cells were scored on different test cases.
    """
    config = context.config
    last = context.schedule.last
    folder = context.layout.compare
    structures = list(config.structures)
    scores = read_cells(context, cells)
    refuse_different_cases(scores)
    COMPARE_CELLS.write(folder / "cells.csv", cell_rows(scores, structures), structures)
    found = entries(scores, last)
    if not found:
        raise HstfError(
            f"{folder}: no round of any method is evaluated yet. Run: snakemake compare."
        )
    rows = table(
        found,
        structures,
        config.evaluate.bootstrap,
        config.seed,
    )
    COMPARE_TABLE.write(folder / "table.csv", rows, header=columns(structures))
    tables = [main_table(rows), structure_table(rows, structures, config.structure_kind)]
    texts = notes(context, scores, found)
    title = f"{context.experiment}: {KIND}"
    write_text(folder / "table.md", markdown(title, tables, texts))
    charts = draw_charts(
        folder,
        scores,
        found,
        last,
    )
    page = folder / "compare.html"
    write_text(
        page,
        html(
            context.experiment,
            tables,
            charts,
            texts,
            headline(rows),
        ),
    )
    return page


def read_cells(
    context: StageContext,
    cells: Sequence[Cell],
) -> list[CellScores]:
    """Read the scores of all cells.

    A warm-up of another experiment may have been scored on other test cases. Its scores are then
    left out.

    Raises:
        HstfError: if a table cannot be read.
    """
    scores = []
    has_other_cases = is_scored_on_other_cases(context)
    for cell in cells:
        found = read_cell(cell)
        is_reused = Layout.of(cell.config).warmup == context.layout.warmup
        scores.append(without_warmup(found) if has_other_cases and is_reused else found)
    return scores


def cell_rows(
    cells: Sequence[CellScores],
    structures: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each evaluated round of each cell.

    Args:
        cells: the cells.
        structures: names of the structures.
    """
    for cell in cells:
        for number, scores in cell.rounds.items():
            row: dict[str, Any] = {"method": cell.method, "seed": cell.seed, "round": number}
            for metric in METRICS:
                row[metric] = finite_or_none(scores.mean(metric))
            row["cpu_s"] = scores.compute.cpu
            row["wall_s"] = scores.compute.wall
            dice_of_structures = scores.structure_means("dice")
            for name, dice in zip(structures, dice_of_structures, strict=True):
                row[f"dice_of_{name}"] = finite_or_none(dice)
            yield row
