"""``predict:`` and ``evaluate:``, the final inference and its scores."""

from typing import Literal

from pydantic import Field, field_validator

from hstf.config.precision import Precision
from hstf.config.section import Axes, Section


class PredictConfig(Section):
    """Sliding-window inference of the final model (``hstf predict`` and ``evaluate``)."""

    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a fraction of the patch."""
    flip_axes: Axes = ()
    """Axes that are mirrored, one at a time, as test-time augmentation; none: no test-time
    augmentation."""
    clean: bool = True
    """Apply the anatomy rules of the labelled cases, as refinement does: remove surplus and small
    components, and fill holes of classes that have none. Lesions are not changed."""
    window_batch: int = Field(2, ge=1)
    """Windows that are predicted at once."""
    amp: Precision = "auto"
    """bfloat16: on devices that compute it natively (``auto``), always (``bf16``) or never
    (``off``)."""


class DetectionConfig(Section):
    """Lesion-wise scores of the classes in ``lesions:``: what a lesion is, and when it is found."""

    measure: Literal["iou", "dice"] = "iou"
    """Overlap by which predicted lesions are matched with lesions of the reference, one to one."""
    minimum: float = Field(0.1, ge=0, le=1)
    """Minimum overlap of a match, 0.1 as in nnDetection and PI-CAI; 0: one voxel in common is
    enough."""
    connectivity: Literal[6, 18, 26] = 26
    """Voxels with a common face (6), also edge (18), also corner (26) belong to one lesion."""
    minimum_mm3: float = Field(0.0, ge=0)
    """Smaller lesions (mm3) are ignored, both as missed lesions and as false positives; 0: every
    voxel counts."""
    size_bins_mm3: tuple[float, ...] = (65.0, 524.0, 4189.0)
    """Bounds (mm3) of the size bins of the recall: spheres of 5, 10 and 20 mm diameter."""

    @field_validator("size_bins_mm3")
    @classmethod
    def _check_size_bins(cls, bins: tuple[float, ...]) -> tuple[float, ...]:
        is_ascending = list(bins) == sorted(set(bins))
        if not is_ascending or min(bins, default=1.0) <= 0:
            raise ValueError(
                f"size_bins_mm3 must be volumes above 0 in ascending order, found {list(bins)}"
            )
        return bins


class EvaluateConfig(Section):
    """Scores of the test cases, in native space."""

    empty: Literal["exclude", "one"] = "exclude"
    """A class that neither reference nor prediction has: ``exclude`` leaves it out of the means of
    overlap and distance, as nnU-Net does; ``one`` assigns it overlap 1 and distance 0, as the BraTS
    challenges do, which rewards a model that never predicts it. With both, its accuracy is 1 and
    its volumes are 0. A class that only one of the two has gets overlap 0 and the diagonal of the
    volume (mm) as distance in both cases."""
    detection: DetectionConfig = DetectionConfig()
    """Lesion-wise scores: found, missed and false lesions."""
    save_predictions: bool = True
    """Keep the predictions of the test cases as NIfTI."""
    bootstrap: int = Field(2000, ge=100)
    """Bootstrap samples of each confidence interval."""
    control: bool = False
    """Also train ``method: supervised`` with the same seed, warm-up, rounds and steps, on the
    labels only, and show it beside the last round: the difference is what the unlabelled scans add.
    With validation cases, a sentence states if it is better on them, and how to export it. This
    adds the time of the students. It needs ``method: hstf``, a round, unlabelled scans and test
    cases; without them it is ignored with a message."""
