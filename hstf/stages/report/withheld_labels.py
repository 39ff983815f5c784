"""Pseudo-labels compared with withheld labels, if the case sheet of a benchmark has them."""

from collections.abc import Mapping
from typing import Any

from hstf.experiment.score_tables import PSEUDO_LABEL_SCORES
from hstf.scoring.documents import PseudoLabelSummary
from hstf.stages.report.figure_style import Figures, Points
from hstf.stages.report.figures import by_round
from hstf.stages.report.page import Block, number_text, round_name
from hstf.stages.report.quality_figures import predicted_against_true, risk_coverage
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("round", "Round"),
    Column("dice", "True Dice, all", digits=3),
    Column("accepted", "Accepted", digits=3),
    Column("rejected", "Rejected", digits=3),
    Column("spearman", "Rank correlation", digits=2),
    Column("worst_fifth_found", "Worst fifth found", digits=2),
    Column("risk_coverage_area", "Risk-coverage area", digits=3),
    Column("interval_coverage", "Within the 90% interval", digits=2),
    Column("kept_error", "Wrong voxels, high weight", digits=3),
    Column("low_weight_error", "Wrong voxels, low weight", digits=3),
)


def withheld_label_blocks(results: Results, figures: Figures) -> list[Block]:
    """Return tables and figures; empty if there are no withheld labels."""
    groups: dict[str, Points] = {}
    rows = {}
    summaries = {}
    for number in results.rounds:
        points = _true_dice(results, number)
        summary = results.summary(number)
        if points[0] and summary is not None and summary.pseudo_labels is not None:
            summaries[number] = summary.pseudo_labels
            rows[number] = {"round": round_name(number), **_flat(summary.pseudo_labels)}
            correlation = number_text(summary.pseudo_labels.spearman, 2)
            name = f"{round_name(number)}: Spearman {correlation}, {len(points[0])} cases"
            groups[name] = points
    if not groups:
        return []
    source = "round_<r>/evaluation/pseudo_labels.csv"
    caption = "Pseudo-labels compared with the withheld labels"
    table = make_table(caption, COLUMNS, list(rows.values()), source)
    caption = (
        "The withheld labels were read after the training. Close to the diagonal, the predicted"
        " Dice is right."
    )
    figure = predicted_against_true(groups)
    return [
        table,
        figures.add("predicted_against_true", "Predicted and true Dice", figure, caption),
        _quality_chart(rows, figures),
        *_risk_chart(summaries, figures),
    ]


def _true_dice(results: Results, number: int) -> Points:
    """Return predicted and true Dice of each case that has both."""
    path = results.layout.evaluation_pseudo_labels(number)
    scores = results.frame(PSEUDO_LABEL_SCORES, path).drop_duplicates("case_id")
    scores = scores.dropna(subset=["predicted_dice", "true_dice"])
    return scores["predicted_dice"].tolist(), scores["true_dice"].tolist()


def _flat(summary: PseudoLabelSummary) -> dict[str, float | None]:
    """Return the summary of a round without nested parts."""
    return {
        "dice": summary.dice.mean,
        "accepted": summary.accepted.mean,
        "rejected": summary.rejected.mean,
        "spearman": summary.spearman,
        "worst_fifth_found": summary.worst_fifth_found,
        "risk_coverage_area": summary.risk_coverage_area,
        "interval_coverage": summary.interval_coverage,
        "kept_error": summary.foreground_voxels.kept_error,
        "low_weight_error": summary.foreground_voxels.low_weight_error,
    }


def _quality_chart(rows: Mapping[int, Mapping[str, Any]], figures: Figures) -> Block:
    """Return the quality of accepted and rejected cases, and of voxels of high and low weight."""
    dice = {
        "accepted": {number: row["accepted"] for number, row in rows.items()},
        "rejected": {number: row["rejected"] for number, row in rows.items()},
    }
    errors = {
        "high weight": {number: row["kept_error"] for number, row in rows.items()},
        "low weight": {number: row["low_weight_error"] for number, row in rows.items()},
    }
    figure = by_round({"true Dice of the cases": dice, "fraction of wrong voxels": errors})
    caption = (
        "Accepted cases should be better than rejected cases. Voxels of high weight (at least 0.5)"
        " should be wrong less often than voxels of low weight."
    )
    return figures.add("pseudo_label_quality", "Quality of the selection", figure, caption)


def _risk_chart(summaries: Mapping[int, PseudoLabelSummary], figures: Figures) -> list[Block]:
    """Return the error of the voxels by their weight."""
    curves = {}
    for number, summary in summaries.items():
        points = summary.risk_coverage
        if points:
            coverage = [point.coverage for point in points]
            error = [point.error for point in points]
            weight = [point.weight for point in points]
            curves[round_name(number)] = (coverage, error, weight)
    if not curves:
        return []
    caption = (
        "Voxels of the highest weights are on the left, all voxels are on the right. The marker is"
        " at a weight of 0.5. If weights predict errors well, the curve is low on the left."
    )
    title = "Risk and coverage of the voxels"
    return [figures.add("risk_coverage", title, risk_coverage(curves), caption)]
