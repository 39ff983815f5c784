"""Section about the decisions of reviewers, and about cases that were not used."""

from dataclasses import asdict

import pandas as pd

from hstf.runtime.errors import few
from hstf.scoring.feedback import Feedback
from hstf.stages.report.figure_style import Figures
from hstf.stages.report.page import Block, Note, Section, Table, counted
from hstf.stages.report.pseudo_labels import SOURCES, TONES
from hstf.stages.report.quality_figures import predicted_against_true
from hstf.stages.report.results import Results
from hstf.stages.report.tables import Column, make_table

COLUMNS = (
    Column("case_id", "Case"),
    Column("use", "Use", tone="tone"),
    Column("reviewer", "Reviewer"),
    Column("reason", "Reason"),
    Column("round", "Since round"),
    Column("predicted_dice", "Predicted Dice", digits=3),
)
"""Columns of all tables; names as in ``labels.csv``."""

OF_EARLIER_VERSION = "not used, decided on an earlier version"
"""Use of a case that was rejected when it had another pseudo-label."""


FEEDBACK_COLUMNS = (
    Column("case_id", "Case"),
    Column("round", "Round", digits=0),
    Column("reviewer", "Reviewer"),
    Column("predicted", "Predicted Dice (90% interval)", digits=3, interval=True),
    Column("measured", "Measured Dice", digits=3),
)
FEEDBACK = (
    "The corrected label is the reference. A reviewer starts from the pseudo-label, so voxels that"
    " nobody looked at count as right: the measured Dice is an upper bound. Doubtful cases are"
    " corrected first, so corrected cases are no random sample."
)


def overrides_section(results: Results, figures: Figures) -> Section:
    """Return what reviewers decided, what is open and what was not used, the last round first."""
    blocks: list[Block] = []
    for number in reversed(results.pseudo_label_rounds):
        labels = results.labels(number)
        is_open = labels["review"].isin(["open", "question"])
        is_reviewed = (labels["reviewer"] != "") | labels["source"].isin(["corrected", "accepted"])
        is_unused = (labels["source"] == "rejected") & ~is_reviewed & ~is_open
        groups = (
            ("open, look at these pseudo-labels", is_open),
            ("decisions of reviewers", is_reviewed),
            ("not used", is_unused),
        )
        for caption, is_shown in groups:
            if is_shown.any():
                blocks.append(_table(f"Round {number}: {caption}", labels[is_shown], number))
    blocks += feedback_blocks(results.feedback, figures)
    intro = (
        "A decision of a reviewer applies from its round on. It comes before the predicted Dice."
        " An acceptance counts only for the version of the pseudo-label that the reviewer looked"
        " at; otherwise it is open. A rejection also counts for later versions."
    )
    missing = "There are no decisions of reviewers, and no case was left out."
    return Section("overrides", "Overrides", intro, blocks, missing)


def feedback_blocks(found: Feedback, figures: Figures) -> list[Block]:
    """Return predicted Dice against what the corrected labels show; empty without any."""
    lines = [*found.problems]
    if found.changed:
        lines.append(
            f"{counted(len(found.changed), 'corrected case')} cannot be compared, because the"
            f" pseudo-label was computed again since: {few(found.changed)}."
        )
    notes = [Note(lines, "warn")] if lines else []
    if not found.cases:
        return [*notes]
    rows = []
    for case in found.cases:
        row = asdict(case)
        rows.append(row | {"predicted_low": case.low, "predicted_high": case.high})
    points = [case.predicted for case in found.cases], [case.measured for case in found.cases]
    figure = predicted_against_true({"corrected cases": points})
    return [
        Note([f"{found.text} {FEEDBACK}"], title="Predicted Dice and corrected labels"),
        *notes,
        make_table("Corrected cases", FEEDBACK_COLUMNS, rows),
        figures.add("feedback", "Predicted and measured Dice, corrected cases", figure, FEEDBACK),
    ]


def _table(
    caption: str,
    labels: pd.DataFrame,
    number: int,
) -> Table:
    use = labels["source"].map(SOURCES)
    use = use.mask(labels["review"] == "earlier version", OF_EARLIER_VERSION)
    rows = labels.assign(use=use, tone=labels["source"].map(TONES))
    rows["tone"] = rows["tone"].fillna("")
    return make_table(caption, COLUMNS, rows, f"round_{number}/labels.csv")
