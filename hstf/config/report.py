"""``report:``, the HTML report."""

from pydantic import Field

from hstf.config.section import Section


class ReportConfig(Section):
    """Pictures in the report."""

    gallery: int = Field(60, ge=0)
    """Maximum number of pseudo-label pictures of a round, lowest predicted Dice first."""
    gallery_pixels: int = Field(720, ge=64)
    """Longer side (pixels) of a picture in the report. The full pictures are stored in the folder
    ``overlays``."""
