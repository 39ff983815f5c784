"""``teacher:``, how the previous round's models label the unlabelled cases."""

from pydantic import Field, field_validator

from hstf.config.precision import Precision
from hstf.config.section import Axes, Section


class TeacherConfig(Section):
    """Views over which predictions are averaged and whose spread is the uncertainty."""

    scales: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Zooms of the input; 1.0 must be among them."""
    flip_axes: Axes = ()
    """Axes mirrored one by one as further views of each member and scale."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a share of the patch."""
    window_batch: int = Field(2, ge=1)
    """Windows predicted at once."""
    amp: Precision = "auto"
    """bfloat16: on devices that compute it natively (``auto``), always (``bf16``) or never
    (``off``)."""

    @field_validator("scales")
    @classmethod
    def _scales_around_one(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in scales:
            raise ValueError(f"1.0 must be among the scales, found {list(scales)}")
        if any(not 0.25 <= scale <= 4 for scale in scales) or len(set(scales)) < len(scales):
            raise ValueError(
                f"scales lie in 0.25..4 and differ from one another, found {list(scales)}"
            )
        return scales
