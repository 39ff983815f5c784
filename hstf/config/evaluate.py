"""``predict:`` and ``evaluate:``."""

from typing import Literal

from pydantic import Field, field_validator

from hstf.config.precision import Precision
from hstf.config.section import Axes, Section


class PredictConfig(Section):
    """The sliding window of the final prediction (``hstf predict`` and ``evaluate``)."""

    overlap: float = Field(0.5, ge=0, lt=1)
    """Overlap of neighbouring windows, as a share of the patch."""
    flip_axes: Axes = ()
    """Axes mirrored one by one as further views; none: the plain network."""
    clean: bool = True
    """Bring the segmentation to the structure of the labelled cases, as refinement does: surplus and too small components
    go, holes are filled where no labelled case has any. Lesions stay as they are."""
    window_batch: int = Field(2, ge=1)
    """Windows predicted at once."""
    amp: Precision = "auto"
    """bfloat16: on devices that compute it natively (``auto``), always (``bf16``) or never
    (``off``)."""


class DetectionConfig(Section):
    """What counts as a lesion and as found, for the classes that ``lesions:`` names."""

    measure: Literal["iou", "dice"] = "iou"
    """Overlap by which a predicted lesion is matched with one of the reference, one to one."""
    minimum: float = Field(0.1, ge=0, le=1)
    """Least overlap of a match, 0.1 as in nnDetection and PI-CAI; 0: a voxel in common is enough."""
    connectivity: Literal[6, 18, 26] = 26
    """Voxels that touch by a face (6), also by an edge (18), also by a corner (26) belong to one lesion."""
    minimum_mm3: float = Field(0.0, ge=0)
    """Smaller lesions count for nothing (mm3), neither as missed nor as false positives; 0: every voxel counts."""
    size_bins_mm3: tuple[float, ...] = (65.0, 524.0, 4189.0)
    """Volumes (mm3) that part small from larger lesions in the recall by size: spheres of 5, 10 and 20 mm diameter."""

    @field_validator("size_bins_mm3")
    @classmethod
    def _bins_ascend(cls, bins: tuple[float, ...]) -> tuple[float, ...]:
        if list(bins) != sorted(set(bins)) or min(bins, default=1.0) <= 0:
            raise ValueError(
                f"size_bins_mm3 are volumes above 0 in ascending order, found {list(bins)}"
            )
        return bins


class EvaluateConfig(Section):
    """Scores of the test cases, in native space."""

    empty: Literal["exclude", "one"] = "exclude"
    """A class absent from both reference and prediction: left out of all means, as nnU-Net does, or overlap 1 and distance
    0, as the BraTS challenges do, which pays a model that never predicts it. Absent from one of the two, it has overlap 0
    and the diagonal of the volume (mm) as distance, in either case."""
    detection: DetectionConfig = DetectionConfig()
    """Lesions as objects: found, missed, invented."""
    save_predictions: bool = True
    """Keep the predictions of the test cases as NIfTI."""
    bootstrap: int = Field(2000, ge=100)
    """Resamples of the cases behind each confidence interval."""
