"""``preprocess:``, how scans are brought to the planned grid."""

from typing import Literal

from pydantic import Field

from hstf.config.section import Section


class PreprocessConfig(Section):
    """Resampling and storage of the preprocessed arrays."""

    crop: bool = True
    """Crop to the bounding box of the voxels that differ from the empty background of the scan.
    Labels are not used."""
    axes: Literal["anatomical", "slices"] = "anatomical"
    """Axes of the grid: the closest axes of the body (RAS), or those of the slices, whatever their
    direction in the body. With ``slices``, the last axis goes from slice to slice. Use it for
    slices that are tilted against the body, such as those of a short-axis heart, if the scans come
    from several hospitals."""
    chunk: int = Field(32, ge=8)
    """Edge (voxels) of the compressed chunks. A patch reads only the chunks that it overlaps."""
    workers: int = Field(0, ge=0)
    """Number of processes that preprocess scans; 0: one for each core of the job."""
