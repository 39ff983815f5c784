"""``predict:`` and ``evaluate:``."""

from typing import Literal

from pydantic import Field

from hstf.config.section import Section


class PredictConfig(Section):
    """The sliding window of the final prediction (``hstf predict`` and ``evaluate``)."""

    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a share of the patch."""
    flip_axes: tuple[int, ...] = ()
    """Axes mirrored one by one as further views; none: the plain network."""
    window_batch: int = Field(2, ge=1)
    """Windows predicted at once."""
    amp: bool = True
    """bfloat16 where the device has it natively."""


class EvaluateConfig(Section):
    """Scores of the test cases, in native space."""

    empty: Literal["one", "exclude"] = "one"
    """A class absent from both reference and prediction: overlap 1 and distance 0, or left out of all means. Absent from
    one of them, it has overlap 0 and the diagonal of the volume (mm) as distance, in either case."""
    save_predictions: bool = True
    """Keep the predictions of the test cases as NIfTI."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the cases behind each confidence interval."""
