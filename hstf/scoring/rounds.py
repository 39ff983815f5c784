"""The table of rounds: what each round learned from, how well it segments, and what it gained."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from hstf.experiment.cases import Split, names_of
from hstf.experiment.context import StageContext
from hstf.experiment.round_tables import LABELS, LESIONS
from hstf.experiment.score_tables import ROUNDS
from hstf.runtime.shards import Row, read_shard
from hstf.scoring.absent_classes import may_be_absent
from hstf.scoring.documents import EvaluationSummary
from hstf.scoring.dropped_lesions import dropped_lesions
from hstf.scoring.round_choice import collapse_of, validation_dice
from hstf.scoring.round_comparison import compare_with_warmup, gain_columns, summary_scores

LABEL_SOURCES = ("automatic", "accepted", "corrected", "rejected")
"""Values of the column ``source`` of ``labels.csv``."""


def rounds_table(context: StageContext) -> list[dict[str, Any]]:
    """Compute ``rounds.csv``, a row for each evaluated round with the warm-up first, and write it.

    Args:
        context: a stage that may read ``seed``, ``evaluate``, ``labels``, ``regions`` and
            ``monitor.cases``.

    Returns:
        The rows with the columns of :data:`hstf.experiment.score_tables.ROUNDS`.

    Raises:
        HstfError: if a file of the evaluation cannot be read.
    """
    rows = evaluated_rounds(context)
    ROUNDS.write(context.layout.rounds_table, rows, list(context.config.structures))
    return rows


def evaluated_rounds(context: StageContext) -> list[dict[str, Any]]:
    """Return the row of each round that has been evaluated."""
    rows = []
    for number in range(context.schedule.last + 1):
        path = context.layout.evaluation_summary(number)
        if path.is_file():
            rows.append(_row(context, number, EvaluationSummary.load(path)))
    return rows


def _row(
    context: StageContext,
    number: int,
    summary: EvaluationSummary,
) -> dict[str, Any]:
    row: dict[str, Any] = {"round": number, "model": summary.model}
    row |= training_cases(context, number)
    row |= {"members": len(context.schedule.members(number)), **summary_scores(summary)}
    row["pseudo_label_dice"] = None
    row["warnings"] = " ".join([*summary.warnings, *pseudo_label_warnings(context, row)])
    if summary.pseudo_labels is not None:
        row["pseudo_label_dice"] = summary.pseudo_labels.dice.mean
    if number:
        row |= gain_columns(compare_with_warmup(context, number))
    return row | _structure_columns(summary) | _columns_of_the_choice(context, number)


def _columns_of_the_choice(context: StageContext, number: int) -> dict[str, Any]:
    """Return what decides whether the round is exported, see :func:`choose_round`."""
    columns: dict[str, Any] = {}
    dice = validation_dice(context, number)
    if dice is not None:
        columns["validation_dice"] = dice
    findings = collapse_of(context, number)
    if findings is not None:
        columns["collapse"] = "; ".join(findings)
    return columns


def training_cases(
    context: StageContext,
    number: int,
) -> dict[str, int]:
    """Count the cases that the model of a round has learned from, by the source of their label."""
    rows: Mapping[str, Row] = {}
    if context.schedule.has_pseudo_labels(number):
        table = context.layout.labels_table(number)
        unlabelled = names_of(context.cases(Split.UNLABELLED))
        rows = read_shard(LABELS, table, unlabelled, verify=False)
    sources = Counter(row["source"] for row in rows.values())
    counts = {
        "labelled": len(context.cases(Split.LABELLED)),
        "pseudo_labelled": len(rows) - sources["rejected"],
    }
    for source in LABEL_SOURCES:
        counts[source] = sources[source]
    return counts


def pseudo_label_warnings(
    context: StageContext,
    row: Mapping[str, Any],
) -> list[str]:
    """Warn of a round that has learned from no pseudo-label, or from none with lesions."""
    number = row["round"]
    if not context.schedule.has_pseudo_labels(number):
        return []
    if row["pseudo_labelled"]:
        return lesion_warnings(context, number)
    return [
        f"Round {number} learned from no unlabelled case: all {row['rejected']} are rejected"
        f" (column 'reason' of {context.layout.labels_table(number)})."
    ]


def lesion_warnings(context: StageContext, number: int) -> list[str]:
    """Warn of a class of lesions that no pseudo-label of a round has.

    Raises:
        HstfError: if ``lesions.csv`` of the round cannot be read.
    """
    path = context.layout.lesions(number)
    if not context.schedule.has_pseudo_labels(number):
        return []  # an earlier run may have left the file
    if not context.config.lesions or not path.is_file():
        return []
    sentences = dropped_lesions(LESIONS.records(path), context.config.lesions)
    return [f"Round {number}: {sentence}." for sentence in sentences]


def _structure_columns(summary: EvaluationSummary) -> dict[str, Any]:
    """Return the columns of single structures."""
    columns = {}
    for name, scores in summary.classes.items():
        columns[f"dice_of_{name}"] = scores.dice.mean
    presence = {name: scores.presence for name, scores in summary.classes.items()}
    for name in may_be_absent(presence):
        columns[f"present_dice_of_{name}"] = presence[name].present.dice.mean
    for name, lesions in summary.lesions.items():
        columns[f"f1_of_{name}"] = lesions.f1.mean
        columns[f"false_positives_of_{name}"] = lesions.false_positives_per_scan
    return columns
