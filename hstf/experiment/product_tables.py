"""Tables beside what leaves an experiment: predictions, data sets for nnU-Net, DICOM objects."""

from hstf.runtime.tables import Column, Table

DICOMSEG = Table(
    "dicomseg",
    "dicomseg.csv",
    "A segmentation that `hstf dicomseg` wrote as a DICOM SEG object.",
    [
        Column("case_id", "text", "The case."),
        Column(
            "source",
            "text",
            "Where the segmentation comes from (prediction, automatic, accepted, corrected).",
        ),
        Column("state", "text", "An empty segmentation has no object (written, empty)."),
        Column("file", "text", "The object, relative to the folder of the table."),
        Column("segments", "list", "Classes that have voxels."),
        Column("frames", "integer", "Number of frames of the object."),
    ],
)
NNUNET_CASES = Table(
    "nnunet_cases",
    "Dataset<n>_<name>/cases.csv",
    "A case of a data set for nnU-Net (`hstf nnunet`).",
    [
        Column("case_id", "text", "The case."),
        Column("group", "text", "The patient."),
        Column(
            "source",
            "text",
            "Where the label comes from (labelled, automatic, accepted, corrected).",
        ),
        Column("ignored", "number", "Part of the voxels that nnU-Net ignores.", "0 to 1"),
    ],
)
PREDICT = Table(
    "predict",
    "predict.csv",
    "A scan of `hstf predict`, a warning or error about one of its files, or what was left out.",
    [
        Column("scan", "text", "The scan, relative to `--input`; empty for what was left out."),
        Column(
            "level",
            "text",
            "A scan with an error has no segmentation. The run has not reached a pending scan, or"
            " was interrupted (error, warning, ok, pending, left out).",
        ),
        Column("file", "text", "The file or folder."),
        Column("found", "text", "What was found."),
        Column("expected", "text", "What was expected."),
        Column("what_to_do", "text", "How to fix it."),
        Column("segmentation", "text", "The segmentation, relative to the folder of the table."),
        Column("sha256", "text", "SHA-256 of the file."),
        Column(
            "predicted_dice",
            "number",
            "Predicted mean Dice of the segmentation; use it to rank the scans.",
            "Dice",
            optional=True,
        ),
        Column("predicted_dice_low", "number", "Its 90% interval.", "Dice", optional=True),
        Column("predicted_dice_high", "number", "Its 90% interval.", "Dice", optional=True),
        Column(
            "predicted_dice_interval",
            "text",
            "`conformal`, or `guess` if there were fewer than 9 labelled patients.",
            optional=True,
        ),
        Column(
            "predicted_dice_of_<structure>",
            "number",
            "Predicted Dice of each structure.",
            "Dice",
            optional=True,
        ),
        Column(
            "model",
            "text",
            "The model of the segmentation: SHA-256 of its `model.json`, which has those of the"
            " weights.",
            optional=True,
        ),
        Column(
            "images_sha256",
            "list",
            "The scan of the segmentation: SHA-256 of all its files, in the order of the"
            " modalities.",
            optional=True,
        ),
        Column("segmentation_sha256", "text", "SHA-256 of the segmentation.", optional=True),
    ],
)
