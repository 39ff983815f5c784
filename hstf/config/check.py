"""``check:``, how strictly the scans are examined before any compute is spent."""

from pydantic import Field

from hstf.config.section import Section


class CheckConfig(Section):
    """Tolerances of ``hstf check``."""

    affine_tolerance_mm: float = Field(0.01, gt=0, le=1)
    """Largest distance (mm) between where the image's and the label's affine put a corner of the volume."""
    workers: int = Field(0, ge=0)
    """Processes that read scans side by side; 0 means one for each available core."""
