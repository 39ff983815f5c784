"""``teacher:``, how the previous round's models label the unlabelled cases."""

from pydantic import Field

from hstf.config.section import Section


class TeacherConfig(Section):
    """Views over which predictions are averaged and whose spread is the uncertainty."""

    scales: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Zooms of the input; 1.0 must be among them."""
    flip_axes: tuple[int, ...] = ()
    """Axes mirrored one by one as further views of each member and scale."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a share of the patch."""
    window_batch: int = Field(2, ge=1)
    """Windows predicted at once."""
    amp: bool = True
    """bfloat16 where the device has it natively."""
