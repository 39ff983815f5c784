"""Descriptions of all tables, in the order in which the workflow writes them.

Reading, writing and checking of a table use its description, and the reference of output files is
generated from it. To add a column, add a line here and write the value in the stage.
"""

from hstf.runtime.tables import Column, Table

FILES = Column("files", "list", "Files of the case, relative to the folder of the table.")
SHA256 = Column("sha256", "list", "SHA-256 of each file.")

CASE_SHEET = Table(
    "case_sheet",
    "cases.csv",
    "A case.",
    [
        Column("case_id", "text", "Name of the case: letters, digits, `.`, `_`, `-`."),
        Column("image", "text", "The image."),
        Column(
            "label",
            "text",
            "The label, required for labelled, validation and test cases. Labels of unlabelled"
            " cases are read by `check` and `evaluate` only.",
        ),
        Column("split", "text", "Use of the case (labelled, unlabelled, validation, test)."),
        Column(
            "group",
            "text",
            "The patient; default: the case itself. Validation and test patients have no cases in"
            " other splits.",
        ),
        Column("site", "text", "Where the scan comes from; the report shows scores by site."),
    ],
)

DICOM_SERIES = Table(
    "dicom_series",
    "dicom.csv",
    "A DICOM series that `hstf import dicom` found. The file leads back to the patients: keep it"
    " private. No stage reads it.",
    [
        Column("case_id", "text", "The case; empty for a series that is not imported."),
        Column("series", "text", "Short name of the series in messages."),
        Column("state", "text", "What became of the series (imported, left out, problem)."),
        Column("reason", "text", "Why it is not imported."),
        Column("modality", "text", "Modality of DICOM, such as CT or MR."),
        Column("description", "text", "Description of the series (SeriesDescription)."),
        Column("slices", "integer", "Number of slices or objects."),
        Column("series_uid", "text", "SeriesInstanceUID."),
        Column("study_uid", "text", "StudyInstanceUID."),
        Column("folder", "text", "Folder that contains all files of the series."),
        Column(
            "fingerprint",
            "text",
            "SHA-256 of slices, grid and voxels: `hstf dicomseg` refuses a changed series.",
        ),
        Column("salt", "text", "Secret of the short names, the same in all rows."),
    ],
)

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

CHECK = Table(
    "check",
    "check.csv",
    "A file of a case, or a problem of it.",
    [
        Column("case_id", "text", "The case; empty for a problem of all cases together."),
        Column("level", "text", "An error stops the workflow (error, warning, ok)."),
        Column("file", "text", "The file, or `case sheet`."),
        Column("found", "text", "What was found."),
        Column("expected", "text", "What was expected."),
        Column("what_to_do", "text", "How to fix it."),
        Column("shape", "text", "Shape of the volume, `40 x 40 x 32`.", "voxels"),
        Column("spacing", "text", "Voxel size along the axes of the file.", "mm"),
        Column("orientation", "text", "Directions of the axes of the file, such as `RAS`."),
        Column("dtype", "text", "Type of the stored values."),
        Column(
            "sha256", "text", "SHA-256 of the file; later stages refuse a file that has changed."
        ),
    ],
)

PREPROCESSED = Table(
    "preprocessed",
    "preprocessed/<shard>.csv",
    "A labelled or unlabelled case on the planned grid.",
    [
        Column("case_id", "text", "The case."),
        Column("shape_native", "text", "Shape of the file.", "voxels"),
        Column("shape_grid", "text", "Shape on the planned grid, after cropping.", "voxels"),
        Column("spacing", "text", "Voxel size of the file along the RAS axes.", "mm"),
        Column("orientation", "text", "Directions of the axes of the file."),
        FILES,
        SHA256,
        Column(
            "warnings",
            "text",
            "Channels that are constant, from which the network learns nothing.",
            optional=True,
        ),
    ],
)

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

EVALUATION = Table(
    "evaluation",
    "round_<r>/evaluation/<shard>.csv",
    "A test case that was predicted and scored.",
    [
        Column("case_id", "text", "The test case."),
        Column("dice", "number", "Mean Dice over the structures.", "Dice"),
        Column("hd95_mm", "number", "Mean 95th percentile of the surface distance.", "mm"),
        Column("asd_mm", "number", "Mean average surface distance.", "mm"),
        FILES,
        SHA256,
    ],
)

EVALUATION_CASES = Table(
    "evaluation_cases",
    "round_<r>/evaluation/cases.csv",
    "A structure of a test case.",
    [
        Column("case_id", "text", "The test case."),
        Column("group", "text", "The patient."),
        Column("site", "text", "The site."),
        Column("class", "text", "Class or region."),
        Column(
            "accuracy",
            "number",
            "Fraction of voxels that are correct for this structure.",
            "0 to 1",
        ),
        Column(
            "precision", "number", "Fraction of the predicted voxels that are correct.", "0 to 1"
        ),
        Column("recall", "number", "Fraction of the reference voxels that are found.", "0 to 1"),
        Column("dice", "number", "Dice coefficient.", "Dice"),
        Column("jaccard", "number", "Intersection over union.", "0 to 1"),
        Column("hd95_mm", "number", "95th percentile of the symmetric surface distance.", "mm"),
        Column("asd_mm", "number", "Average symmetric surface distance.", "mm"),
        Column(
            "asd_directed_mm",
            "number",
            "Average distance from the predicted surface to the reference.",
            "mm",
        ),
        Column("volume_ml", "number", "Predicted volume.", "ml"),
        Column("reference_ml", "number", "Reference volume.", "ml"),
        Column("volume_difference_ml", "number", "Predicted minus reference volume.", "ml"),
        Column("volume_difference_relative", "number", "The same divided by the reference volume."),
        Column(
            "empty",
            "text",
            "`both`, `prediction` or `reference` if the structure is absent from them;"
            " `unknown` if a sparse label does not show it; otherwise empty.",
        ),
        Column(
            "<metric>",
            "number",
            "Another metric of `hstf.scoring.metrics.METRICS`, if you add one.",
            optional=True,
        ),
    ],
)

VALIDATION_CASES = Table(
    "validation_cases",
    "round_<r>/evaluation/validation_cases.csv",
    "A structure of a validation case.",
    [Column("case_id", "text", "The validation case."), *EVALUATION_CASES.columns[1:]],
)

EVALUATION_MEMBERS = Table(
    "evaluation_members",
    "round_<r>/evaluation/members.csv",
    "A structure of a test case by one ensemble member. The first member is the single network of"
    " the round.",
    [
        Column("case_id", "text", "The test case."),
        Column("member", "text", "The ensemble member."),
        Column("class", "text", "Class or region."),
        Column("dice", "number", "Dice coefficient of this member.", "Dice"),
        Column("hd95_mm", "number", "95th percentile of the symmetric surface distance.", "mm"),
        Column("asd_mm", "number", "Average symmetric surface distance.", "mm"),
    ],
)

EVALUATION_LESIONS = Table(
    "evaluation_lesions",
    "round_<r>/evaluation/lesions.csv",
    "A lesion of the reference, or a predicted lesion without a match.",
    [
        Column("case_id", "text", "The test case."),
        Column("class", "text", "Lesion class or region."),
        Column(
            "lesion",
            "text",
            "Result; lesions below `evaluate.detection.minimum_mm3` are not counted (hit,"
            " missed, false positive, not counted).",
        ),
        Column("volume_mm3", "number", "Volume.", "mm³"),
        Column("overlap", "number", "Overlap with its match; 0 without one.", "0 to 1"),
        Column(
            "score",
            "number",
            "Mean probability of the predicted lesion; empty if there is none.",
            "0 to 1",
        ),
    ],
)

PSEUDO_LABEL_SCORES = Table(
    "pseudo_labels",
    "round_<r>/evaluation/pseudo_labels.csv",
    "A structure of a pseudo-label compared with the withheld label.",
    [
        Column("case_id", "text", "The unlabelled case."),
        Column("accepted", "flag", "Whether refinement accepted it."),
        Column("predicted_dice", "number", "Predicted mean Dice of the case.", "Dice"),
        Column(
            "true_dice",
            "number",
            "True mean Dice of the case, as predicted Dice defines it.",
            "Dice",
        ),
        Column("class", "text", "Class or region."),
        Column("dice", "number", "Dice of this structure.", "Dice"),
        Column(
            "kept_error",
            "number",
            "Fraction of wrong voxels among those with a weight of at least 0.5.",
            "0 to 1",
        ),
        Column(
            "low_weight_error", "number", "Fraction of wrong voxels among the others.", "0 to 1"
        ),
        Column(
            "kept_fraction",
            "number",
            "Fraction of the voxels with a weight of at least 0.5.",
            "0 to 1",
        ),
    ],
)

SCALES = Table(
    "scales",
    "round_<r>/evaluation/scales.csv",
    "A structure of a test case at another input scale.",
    [
        Column("case_id", "text", "The test case."),
        Column("group", "text", "The patient."),
        Column("scale", "number", "Scale of the input; 1 is the planned size."),
        Column("class", "text", "Class or region."),
        Column("dice", "number", "Dice coefficient.", "Dice"),
    ],
)

ROUNDS = Table(
    "rounds",
    "rounds.csv",
    "An evaluated round.",
    [
        Column("round", "integer", "The round; 0 is the warm-up."),
        Column("model", "text", "`warm-up` or `student`."),
        Column("labelled", "integer", "Labelled cases that the model learned from.", "cases"),
        Column(
            "pseudo_labelled",
            "integer",
            "Unlabelled cases that it learned from, with any source.",
            "cases",
        ),
        Column(
            "automatic",
            "integer",
            "Pseudo-labels that were accepted by their predicted Dice.",
            "cases",
        ),
        Column("accepted", "integer", "Pseudo-labels that a reviewer accepted.", "cases"),
        Column("corrected", "integer", "Labels that a reviewer corrected.", "cases"),
        Column("rejected", "integer", "Cases that are not used.", "cases"),
        Column("members", "integer", "Ensemble members."),
        Column("test_cases", "integer", "Test cases.", "cases"),
        Column("dice", "number", "Mean test Dice of the ensemble over structures.", "Dice"),
        Column("dice_low", "number", "Lower end of its 95% interval over patients.", "Dice"),
        Column("dice_high", "number", "Upper end of its 95% interval over patients.", "Dice"),
        Column("dice_single", "number", "Mean test Dice of single members.", "Dice"),
        Column("gain", "number", "Difference to the warm-up.", "Dice"),
        Column("gain_low", "number", "Lower end of its 95% interval over patients.", "Dice"),
        Column("gain_high", "number", "Upper end of its 95% interval over patients.", "Dice"),
        Column("p_value", "number", "Wilcoxon signed-rank test over patients.", "0 to 1"),
        Column("note", "text", "Why there is no p-value, or why it means little."),
        Column("hd95_mm", "number", "95th percentile of the surface distance.", "mm"),
        Column("asd_mm", "number", "Average surface distance.", "mm"),
        Column(
            "pseudo_label_dice",
            "number",
            "Dice of the round's pseudo-labels, if withheld labels exist.",
            "Dice",
        ),
        Column(
            "warnings",
            "text",
            "Structures whose scores are no evidence; a round that learned from no unlabelled"
            " case.",
        ),
        Column("dice_of_<structure>", "number", "Mean test Dice of each structure.", "Dice"),
        Column(
            "present_dice_of_<structure>",
            "number",
            "Mean over the cases that have the structure, if some lack it.",
            "Dice",
            optional=True,
        ),
        Column("f1_of_<structure>", "number", "Lesion-wise F1 score.", "0 to 1", optional=True),
        Column(
            "false_positives_of_<structure>", "number", "False lesions.", "per scan", optional=True
        ),
        Column(
            "validation_dice",
            "number",
            "Mean Dice on the validation cases, by which the exported round is chosen.",
            "Dice",
            optional=True,
        ),
        Column(
            "collapse",
            "text",
            "What shows that the model of the round has collapsed (`monitor.json`).",
            optional=True,
        ),
    ],
)

COMPARE_CELLS = Table(
    "compare_cells",
    "compare/cells.csv",
    "A round of a method with a seed.",
    [
        Column("method", "text", "The method."),
        Column("seed", "integer", "The seed."),
        Column("round", "integer", "The round; 0 is the warm-up."),
        Column("dice", "number", "Mean test Dice.", "Dice"),
        Column("hd95_mm", "number", "Mean surface distances.", "mm"),
        Column("asd_mm", "number", "Mean surface distances.", "mm"),
        Column("cpu_s", "number", "CPU time of the jobs of this round, without evaluation.", "s"),
        Column("wall_s", "number", "Wall-clock time of the same jobs.", "s"),
        Column("dice_of_<structure>", "number", "Mean test Dice of each structure.", "Dice"),
    ],
)

COMPARE_TABLE = Table(
    "compare_table",
    "compare/table.csv",
    "A method. Means are over the seeds.",
    [
        Column("method", "text", "The method, or `warm-up`."),
        Column(
            "model",
            "text",
            "What was scored: the ensemble, or one network: the mean of the members' own scores"
            " (ensemble, one network).",
        ),
        Column("seeds", "integer", "Number of seeds."),
        Column("dice", "number", "Mean test Dice.", "Dice"),
        Column("dice_sd", "number", "Standard deviation over the seeds.", "Dice"),
        Column("hd95_mm", "number", "95th percentile of the surface distance.", "mm"),
        Column("hd95_mm_sd", "number", "Standard deviation over the seeds.", "mm"),
        Column("asd_mm", "number", "Average surface distance.", "mm"),
        Column("asd_mm_sd", "number", "Standard deviation over the seeds.", "mm"),
        Column(
            "vs_<reference>",
            "number",
            "Difference to `supervised` or `noisy_student` with the same kind of model, paired by"
            " case.",
            "Dice",
        ),
        Column("vs_<reference>_low", "number", "Lower end of its 95% interval.", "Dice"),
        Column("vs_<reference>_high", "number", "Upper end of its 95% interval.", "Dice"),
        Column("vs_<reference>_p", "number", "Wilcoxon signed-rank test over patients.", "0 to 1"),
        Column(
            "gap_fraction",
            "number",
            "Part of the gap between one network of the warm-up and one of `full` that a network of"
            " the method closes.",
        ),
        Column("label_gap_fraction", "number", "The same, starting from `supervised`."),
        Column("cpu_s", "number", "CPU time of all jobs of a seed.", "s"),
        Column("wall_s", "number", "Wall-clock time of all jobs of a seed.", "s"),
        Column("<metric>_of_<structure>", "number", "Mean for each structure.", "Dice or mm"),
        Column("<metric>_sd_of_<structure>", "number", "Its standard deviation.", "Dice or mm"),
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

TABLES = (
    CASE_SHEET,
    DICOM_SERIES,
    CHECK,
    PREPROCESSED,
    HISTORY,
    TEACHER,
    EXTERNAL,
    REFINE,
    LESIONS,
    LABELS,
    DECISIONS,
    DECISIONS_SEEN,
    EVALUATION,
    EVALUATION_CASES,
    VALIDATION_CASES,
    EVALUATION_MEMBERS,
    EVALUATION_LESIONS,
    PSEUDO_LABEL_SCORES,
    SCALES,
    ROUNDS,
    COMPARE_CELLS,
    COMPARE_TABLE,
    PREDICT,
    SUGGEST,
    SET_ASIDE,
    NNUNET_CASES,
    DICOMSEG,
)
"""All tables, for the documentation."""
