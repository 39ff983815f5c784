"""``preprocess:``, how scans reach the planned grid."""

from pydantic import Field

from hstf.config.section import Section


class PreprocessConfig(Section):
    """Resampling and storage of the planned arrays."""

    crop: bool = True
    """Crop to the box of voxels that differ from the empty background of the scan. No label is looked at."""
    chunk: int = Field(32, ge=8)
    """Edge (voxels) of the compressed chunks: a patch reads only the chunks that it touches."""
    workers: int = Field(0, ge=0)
    """Processes that preprocess scans side by side; 0 means one for each available core."""
