"""``report:``, the HTML report."""

from pydantic import Field

from hstf.config.section import Section


class ReportConfig(Section):
    """What one HTML file can carry."""

    gallery: int = Field(60, ge=0)
    """Most pseudo-label pictures embedded for a round, least certain first."""
    gallery_pixels: int = Field(720, ge=64)
    """Longer side (pixels) of an embedded picture; the full pictures stay in the overlays folder."""
