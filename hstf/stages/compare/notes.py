"""The texts of a comparison: its main result, how the table was made, and what is missing."""

from collections.abc import Mapping, Sequence
from typing import Any

from hstf.config.methods import METHODS
from hstf.experiment.context import StageContext
from hstf.scoring.round_comparison import is_scored_on_other_cases
from hstf.stages.compare.scores import CellScores
from hstf.stages.compare.table import UPPER_BOUND, WARMUP, Entry

MODELS = (
    "The ensemble averages the members of the last round. 'one network' is the mean of the members'"
    " own scores. The network that `hstf export --member` exports is the first member unless you"
    " choose; no score selects a member."
)
GAP = (
    "Gap closed (%): fraction of the difference in Dice between one network of the warm-up and one"
    " network of 'full', which learns from the labels of all cases. From supervised: the same,"
    " starting from one network of 'supervised', which trains for as many steps."
)
TESTS = (
    "Differences of Dice are paired by case after averaging the seeds. The 95% intervals are"
    " bootstrapped over patients. The p-values are those of Wilcoxon signed-rank tests over"
    " patients, not corrected for the number of methods."
)
HOURS = (
    "Hours are the sum of the warm-up and all rounds of a seed, without the stages that run once"
    " for all methods (check, plan, preprocess), the monitor and the evaluation. An interrupted"
    " training counts from its last start."
)


def headline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the best of the methods that have the same labels.

    Args:
        rows: rows of ``table.csv``.
    """
    methods = [row for row in rows if row["method"] not in (UPPER_BOUND, WARMUP)]
    scored = [row for row in methods if row["dice"] is not None]
    if not scored:
        return "No method is done yet."
    best = max(scored, key=lambda row: row["dice"])
    return f"Best: {best['method']} ({best['model']}), Dice {best['dice']:.3f}."


def notes(
    context: StageContext,
    cells: Sequence[CellScores],
    entries: Sequence[Entry],
) -> list[str]:
    """Return how the table was made, and what is missing from it.

    Args:
        context: the stage ``compare``.
        cells: all cells of the comparison.
        entries: the rows of the table.
    """
    lines = [_basis(context, entries), MODELS, TESTS, GAP, HOURS]
    methods = context.config.compare.methods if context.config.compare else ()
    online = [name for name in methods if METHODS[name].is_online]
    if online:
        lines.append(
            f"{', '.join(online)} do not train on images at another scale, but all other methods"
            " do. The Dice by input scale mainly shows this difference."
        )
    seeds = context.config.compare.seeds if context.config.compare else ()
    if context.config.seed in seeds and is_scored_on_other_cases(context):
        lines.append(
            f"The warm-up of seed {context.config.seed} is that of another experiment"
            f" ({context.layout.warmup}) and was scored on other test cases, so its scores are left"
            " out."
        )
    last = context.schedule.last
    missing = [f"{cell.method} with seed {cell.seed}" for cell in cells if last not in cell.rounds]
    if missing:
        lines.append(f"Not done yet, and left out: {', '.join(missing)}.")
    return lines


def _basis(
    context: StageContext,
    entries: Sequence[Entry],
) -> str:
    scores = entries[0].seeds[0]
    patients = len(set(scores.groups))
    structures = "regions" if context.config.regions else "classes"
    return (
        f"{len(scores.case_ids)} test cases of {patients} patients, scored by the model of the last"
        f" round ({context.schedule.last}). Means are over {structures}, cases and seeds; ± is the"
        " standard deviation over the seeds."
    )
