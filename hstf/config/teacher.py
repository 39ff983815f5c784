"""``teacher:``, how the previous round's ensemble predicts the unlabelled cases."""

from pydantic import Field, field_validator

from hstf.config.external import ExternalTeacher
from hstf.config.precision import Precision
from hstf.config.section import Axes, Section


class TtaConfig(Section):
    """Test-time augmentation (TTA) of the teacher.

    The mean of the TTA views is the prediction, and their spread is the uncertainty.
    """

    scales: tuple[float, ...] = (0.8, 1.0, 1.25)
    """Scales of the input; 1.0 must be one of them."""
    flip_axes: Axes = ()
    """Axes that are mirrored, one at a time, as further TTA views of each ensemble member and
    scale."""
    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a fraction of the patch."""
    window_batch: int = Field(2, ge=1)
    """Windows that are predicted at once."""
    amp: Precision = "auto"
    """bfloat16: on devices that compute it natively (``auto``), always (``bf16``) or never
    (``off``)."""

    @field_validator("scales")
    @classmethod
    def _check_scales(cls, scales: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in scales:
            raise ValueError(f"1.0 must be among the scales, found {list(scales)}")
        if min(scales) < 0.25 or max(scales) > 4 or len(set(scales)) < len(scales):
            raise ValueError(f"expected different scales within 0.25 to 4, found {list(scales)}")
        return scales


class TeacherConfig(TtaConfig):
    """Test-time augmentation (TTA) of the teacher, and models of others.

    The mean of the TTA views is the prediction, and their spread is the uncertainty.
    """

    external: dict[str, ExternalTeacher] = {}
    """Models of others that predict beside the ensemble, by name, with the keys below. Each class
    of each of them has a weight, which is measured on the labelled cases."""

    @property
    def tta(self) -> TtaConfig:
        """The test-time augmentation, without external teachers."""
        return TtaConfig.model_validate(
            {name: getattr(self, name) for name in TtaConfig.model_fields}
        )
