"""``preprocess:``, how scans are brought to the planned grid."""

from pydantic import Field

from hstf.config.section import Section


class PreprocessConfig(Section):
    """Resampling and storage of the preprocessed arrays."""

    crop: bool = True
    """Crop to the bounding box of the voxels that differ from the empty background of the scan.
    Labels are not used."""
    chunk: int = Field(32, ge=8)
    """Edge (voxels) of the compressed chunks. A patch reads only the chunks that it overlaps."""
    workers: int = Field(0, ge=0)
    """Number of processes that preprocess scans; 0: one for each available core."""
