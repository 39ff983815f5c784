"""All tables, in the order in which the workflow writes them.

Reading, writing and checking of a table use its description, and the reference of output files is
generated from it. To add a column, add a line to the description and write the value in the stage.
"""

from hstf.experiment.product_tables import DICOMSEG, NNUNET_CASES, PREDICT
from hstf.experiment.review_tables import DECISIONS, DECISIONS_SEEN, SET_ASIDE, SUGGEST
from hstf.experiment.round_tables import EXTERNAL, HISTORY, LABELS, LESIONS, REFINE, TEACHER
from hstf.experiment.scan_tables import CASE_SHEET, CHECK, DICOM_SERIES, PREPROCESSED
from hstf.experiment.score_tables import (
    COMPARE_CELLS,
    COMPARE_TABLE,
    EVALUATION,
    EVALUATION_CASES,
    EVALUATION_LESIONS,
    EVALUATION_MEMBERS,
    PSEUDO_LABEL_SCORES,
    ROUNDS,
    SCALES,
    VALIDATION_CASES,
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
