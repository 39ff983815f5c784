"""Tables of a round: its training, its predictions and its pseudo-labels."""

from hstf.experiment.file_columns import FILES, SHA256
from hstf.runtime.tables import Column, Table

HISTORY = Table(
    "history",
    "round_<r>/model/<member>/history.csv",
    "Means over some training steps.",
    [
        Column("step", "integer", "Last step of the row.", "steps"),
        Column("learning_rate", "number", "Learning rate at this step."),
        Column("loss", "number", "Total loss."),
        Column(
            "supervised",
            "number",
            "Warm-up and online objectives: loss on labelled voxels.",
            optional=True,
        ),
        Column(
            "segmentation",
            "number",
            "Objective `self_training`: loss on labelled and pseudo-labelled voxels.",
            optional=True,
        ),
        Column(
            "zoomed_segmentation",
            "number",
            "The same at another scale, times its weight.",
            optional=True,
        ),
        Column(
            "csc_predictions",
            "number",
            "Cross-scale consistency of predictions, times weight and ramp.",
            optional=True,
        ),
        Column(
            "csc_features",
            "number",
            "Cross-scale consistency of features, times weight and ramp.",
            optional=True,
        ),
        Column(
            "csc_pyramid",
            "number",
            "Cross-scale consistency of decoder levels, times weight and ramp.",
            optional=True,
        ),
        Column(
            "<term>",
            "number",
            "Terms of other objectives, such as `consistency`, `labelled`, `unlabelled`;"
            " `pretraining` in `pretrain/history.csv`.",
            optional=True,
        ),
    ],
)
TEACHER = Table(
    "teacher",
    "round_<r>/teacher/<shard>.csv",
    "A case that the ensemble has predicted.",
    [
        Column("case_id", "text", "The case."),
        Column("members", "list", "Ensemble members that predicted the case, separated by `;`."),
        Column("entropy", "number", "Mean normalised entropy of the foreground.", "0 to 1"),
        Column("scale_dice", "number", "Agreement of the scales with the mean.", "Dice"),
        Column(
            "member_dice",
            "number",
            "Agreement of the members with the mean; 1 for a single member.",
            "Dice",
        ),
        Column(
            "flip_dice", "number", "Agreement of the flips with the mean; 1 without flips.", "Dice"
        ),
        Column("volumes_ml", "text", "Volume of each structure, `name=ml` separated by `;`.", "ml"),
        FILES,
        SHA256,
    ],
)
EXTERNAL = Table(
    "external",
    "external/<name>/<shard>.csv",
    "A case that an external teacher has predicted, or could not predict.",
    [
        Column("case_id", "text", "The case."),
        Column(
            "missing",
            "text",
            "Why there is no prediction; empty if there is one. The case is then labelled without"
            " this teacher.",
        ),
        Column("values", "list", "Values in the output, as the model numbers them."),
        Column("version", "text", "What `version_command` printed."),
        Column("program", "text", "The program, or where the predictions come from."),
        Column(
            "program_sha256",
            "text",
            "SHA-256 of the program and of the files that the command names.",
        ),
        FILES,
        SHA256,
    ],
)
REFINE = Table(
    "refine",
    "round_<r>/refine.csv",
    "A pseudo-label, lowest predicted Dice first.",
    [
        Column("case_id", "text", "The case."),
        Column("predicted_dice", "number", "Predicted mean Dice of the pseudo-label.", "Dice"),
        Column("predicted_dice_low", "number", "Its 90% prediction interval.", "Dice"),
        Column("predicted_dice_high", "number", "Its 90% prediction interval.", "Dice"),
        Column(
            "accepted",
            "flag",
            "Whether the student learns from it, unless a reviewer decides otherwise.",
        ),
        Column("reason", "text", "Why it is accepted or rejected."),
        Column(
            "low_confidence",
            "integer",
            "Confidence below the threshold of their class; their weight is lowered.",
            "voxels",
        ),
        Column(
            "components",
            "integer",
            "Changed by the removal of surplus or small components.",
            "voxels",
        ),
        Column("lesions", "integer", "Changed by dropping unlikely lesions.", "voxels"),
        Column(
            "possible_lesions",
            "integer",
            "Weight lowered because a lesion is possible there.",
            "voxels",
        ),
        Column("holes", "integer", "Filled holes.", "voxels"),
        Column(
            "previous_round",
            "integer",
            "Different from the previous round's label; their weight is lowered.",
            "voxels",
        ),
        Column("lesions_kept", "integer", "Lesions that were kept and dropped.", "components"),
        Column("lesions_dropped", "integer", "Lesions that were kept and dropped.", "components"),
        Column(
            "previous_round_dice", "number", "Agreement with the previous round's label.", "Dice"
        ),
        Column("weight_mean", "number", "Mean voxel weight of the foreground.", "0 to 1"),
        Column(
            "predicted_dice_of_<structure>",
            "number",
            "Predicted Dice of each structure.",
            "Dice",
        ),
        Column("volume_ml_of_<structure>", "number", "Volume of each structure.", "ml"),
        FILES,
        SHA256,
    ],
)
LESIONS = Table(
    "lesions",
    "round_<r>/lesions.csv",
    "A connected component of a lesion class in a pseudo-label.",
    [
        Column("case_id", "text", "The case."),
        Column("class", "text", "Lesion class or region."),
        Column("component", "integer", "Number of the component in the case, from 1."),
        Column("volume_ml", "number", "Volume.", "ml"),
        Column("probability", "number", "Probability that the component is a lesion.", "0 to 1"),
        Column(
            "kept",
            "flag",
            "Whether it is kept: `probability` is at least the bound of the round in"
            " `lesion_bounds.json`, which may be lower than `refine.lesion_probability`.",
        ),
        Column(
            "mean_probability", "number", "Mean calibrated probability of its voxels.", "0 to 1"
        ),
        Column("agreement", "number", "Agreement of the scales over its voxels.", "0 to 1"),
        Column("x_mm", "number", "Centre in the coordinates of the image file.", "mm"),
        Column("y_mm", "number", "Centre in the coordinates of the image file.", "mm"),
        Column("z_mm", "number", "Centre in the coordinates of the image file.", "mm"),
    ],
)
LABELS = Table(
    "labels",
    "round_<r>/labels.csv",
    "What the student learns from an unlabelled case.",
    [
        Column("case_id", "text", "The case."),
        Column(
            "round",
            "integer",
            "Round of the pseudo-label, or round from which the override applies.",
        ),
        Column(
            "source",
            "text",
            "Accepted by its predicted Dice; accepted by a reviewer; corrected label of a"
            " reviewer; not used (automatic, accepted, corrected, rejected).",
        ),
        Column("reviewer", "text", "Who decided; empty if nobody did."),
        Column("reason", "text", "Reason of refinement, or of the reviewer."),
        Column(
            "review",
            "text",
            "What a reviewer should look at (open: an acceptance that was made for another version"
            " and does not count; earlier version: a rejection that was made for another version"
            " and counts; question: an unusual corrected label that no row confirms).",
        ),
        Column(
            "predicted_dice",
            "number",
            "Predicted Dice of the pseudo-label; empty for a corrected label.",
            "Dice",
        ),
        Column("weight_mean", "number", "Mean voxel weight of the foreground.", "0 to 1"),
        FILES,
        SHA256,
    ],
)
