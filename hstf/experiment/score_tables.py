"""Tables of scores: of cases, of rounds and of methods."""

from hstf.experiment.file_columns import FILES, SHA256
from hstf.runtime.tables import Column, Table

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
