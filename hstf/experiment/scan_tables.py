"""Tables of the scans: where they come from, what is wrong with them, and their arrays."""

from hstf.experiment.file_columns import FILES, SHA256
from hstf.runtime.tables import Column, Table

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
