"""``check:``, how strictly scans and labels are checked before any compute is spent."""

from pydantic import Field

from hstf.config.section import Section


class CheckConfig(Section):
    """Tolerances of ``hstf check``."""

    affine_tolerance_mm: float = Field(0.01, gt=0, le=1)
    """Maximum distance (mm) between the corners of the volume by the affine of the image and by
    that of the label."""
    workers: int = Field(0, ge=0)
    """Number of processes that read scans; 0: one for each core of the job."""
