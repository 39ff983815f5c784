"""Tables for reviewers and by reviewers: suggestions and decisions."""

from hstf.runtime.tables import Column, Table

DECISION_COLUMNS = (
    Column("round", "integer", "Round from which the decision applies."),
    Column("case_id", "text", "An unlabelled case."),
    Column(
        "action",
        "text",
        "Use the pseudo-label whatever its predicted Dice; use the corrected label; do"
        " not use the case (accept, replace, reject).",
    ),
    Column("reviewer", "text", "Who decided."),
    Column("date", "text", "When."),
    Column("reason", "text", "Why."),
)
DECISIONS = Table(
    "decisions",
    "overrides/<experiment>/decisions.csv",
    "A decision of a reviewer.",
    [
        *DECISION_COLUMNS,
        Column(
            "sha256",
            "text",
            "SHA-256 of the pseudo-label that was looked at; if empty, the next run notes it.",
            optional=True,
        ),
        Column(
            "result_sha256",
            "text",
            "Written by `hstf audit`: SHA-256 of the corrected label.",
            optional=True,
        ),
        Column(
            "voxels_changed",
            "text",
            "Written by `hstf audit`: voxels that differ from the pseudo-label, by their new class,"
            " `name=number` separated by `;`.",
            "voxels",
            optional=True,
        ),
        Column(
            "dice_before",
            "number",
            "Written by `hstf audit`: predicted Dice of the pseudo-label.",
            "Dice",
            optional=True,
        ),
        Column(
            "dice_after",
            "number",
            "Written by `hstf audit`: measured Dice of the pseudo-label with the corrected label as"
            " its reference, mean over the structures.",
            "Dice",
            optional=True,
        ),
        Column(
            "seconds",
            "number",
            "Written by `hstf audit`: time from opening the case to the decision.",
            "s",
            optional=True,
        ),
    ],
)
DECISIONS_SEEN = Table(
    "decisions_seen",
    "overrides/<experiment>/decisions_seen.csv",
    "A decision, and the pseudo-label that was on disk when it was first read.",
    [
        *DECISION_COLUMNS,
        Column(
            "sha256", "text", "SHA-256 of this pseudo-label; empty if there was none at that time."
        ),
    ],
)
SUGGEST = Table(
    "suggest",
    "suggest/suggest.csv",
    "A scan, or a slice of a scan, that is worth a person's time; the most useful first.",
    [
        Column("rank", "integer", "Place in the list of scans or of slices, from 1."),
        Column("kind", "text", "What is suggested (scan, slice)."),
        Column("case_id", "text", "The unlabelled case."),
        Column("slice", "integer", "Slice in the file, from 0; empty for a scan."),
        Column("axis", "integer", "Axis of the file across the slices, from 0; empty for a scan."),
        Column(
            "how", "text", "Chosen by doubt, or drawn at random over foreground (doubt, random)."
        ),
        Column("structure", "text", "The class or region that asked for it, or was drawn."),
        Column("doubt_ml", "number", "Doubt of the ensemble about this structure.", "ml"),
        Column("volume_ml", "number", "Its predicted volume.", "ml"),
        Column("predicted_dice", "number", "Predicted Dice of the pseudo-label.", "Dice"),
        Column("like", "text", "The most similar case among those chosen before and the labelled."),
        Column(
            "distance",
            "number",
            "Distance to it in deep features; 1 is the median distance of two candidates.",
        ),
        Column("reason", "text", "The same in words."),
    ],
)
SET_ASIDE = Table(
    "set_aside",
    "suggest/set_aside.csv",
    "A case that is not suggested.",
    [
        Column("case_id", "text", "The case."),
        Column("action", "text", "Never, or not until a later round (skip, later)."),
        Column("round", "integer", "Round in which it was set aside."),
    ],
)
