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
"""Columns of all tables; names as in ``labels.csv``."""

OF_EARLIER_VERSION = "not used, decided on an earlier version"
"""Use of a case that was rejected when it had another pseudo-label."""


def overrides_section(results: Results) -> Section:
    """Return what reviewers decided, what is open and what was not used, the last round first."""
    blocks = []
    for number in reversed(results.rounds):
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
    intro = (
        "A decision of a reviewer applies from its round on. It comes before the predicted Dice."
        " An acceptance counts only for the version of the pseudo-label that the reviewer looked"
        " at; otherwise it is open. A rejection also counts for later versions."
    )
    missing = "There are no decisions of reviewers, and no case was left out."
    return Section("overrides", "Overrides", intro, blocks, missing)


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
