"""Section about the decisions of reviewers, and about cases that were not used."""

import pandas as pd

from hstf.stages.report.page import Section, Table
from hstf.stages.report.pseudo_labels import SOURCES, TONES
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
"""Columns of both tables; names as in ``labels.csv``."""


def overrides_section(results: Results) -> Section:
    """Return what reviewers decided and what was not used, the last round first."""
    blocks = []
    for number in reversed(results.rounds):
        labels = results.labels(number)
        is_reviewed = (labels["reviewer"] != "") | labels["source"].isin(["corrected", "accepted"])
        is_unused = (labels["source"] == "rejected") & ~is_reviewed
        if is_reviewed.any():
            caption = f"Round {number}: decisions of reviewers"
            blocks.append(_table(caption, labels[is_reviewed], number))
        if is_unused.any():
            blocks.append(_table(f"Round {number}: not used", labels[is_unused], number))
    intro = (
        "A decision of a reviewer applies from its round on. It comes before the predicted Dice."
    )
    missing = "There are no decisions of reviewers, and no case was left out."
    return Section("overrides", "Overrides", intro, blocks, missing)


def _table(
    caption: str,
    labels: pd.DataFrame,
    number: int,
) -> Table:
    rows = labels.assign(use=labels["source"].map(SOURCES), tone=labels["source"].map(TONES))
    rows["tone"] = rows["tone"].fillna("")
    return make_table(caption, COLUMNS, rows, f"round_{number}/labels.csv")
