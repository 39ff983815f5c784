"""``calibrate:`` and ``refine:``, pseudo-label refinement (PLR)."""

from typing import Annotated

from pydantic import Field, field_validator

from hstf.config.section import Section


class CalibrateConfig(Section):
    """Calibration on the out-of-fold predictions of the labelled cases."""

    target_precision: float = Field(0.8, gt=0, lt=1)
    """Precision at the confidence threshold: the threshold of a class is the lowest confidence at
    which this fraction of its out-of-fold voxels is correct."""
    threshold_bounds: tuple[float, float] = (0.5, 0.95)
    """Minimum and maximum of the confidence thresholds."""
    minimum_pass_fraction: float = Field(0.5, ge=0, le=1)
    """At least this fraction of the out-of-fold voxels of a class reaches its threshold, even if it
    is then below ``threshold_bounds``, so that no class disappears."""
    bins: int = Field(100, ge=10)
    """Bins of the confidence histograms."""

    @field_validator("threshold_bounds")
    @classmethod
    def _check_threshold_bounds(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(
                f"expected a minimum and a maximum within 0 to 1, found {list(bounds)}"
            )
        return bounds


class RefineConfig(Section):
    """How a prediction of the teacher becomes a pseudo-label with voxel weights and a verdict.

    With all parts off, a pseudo-label is the most likely class of every voxel of every case, with
    weight 1.
    """

    calibrate: bool = True
    """Part: apply the calibrated temperature to the probabilities of the teacher."""
    keep_components: bool = True
    """Part: remove components that are smaller or more numerous than in the labelled cases. Lesions
    are not changed."""
    judge_lesions: bool = True
    """Part: keep or drop each component of the classes in ``lesions:`` by its own probability, and
    lower the weight of voxels where a lesion is possible."""
    fill_holes: bool = True
    """Part: fill holes of classes that have none in the labelled cases."""
    voxel_weights: bool = True
    """Part: weight voxels by (1-H)^a exp(-b V) (1-D)^c of the entropy H, the scale variance V and
    the disagreement D."""
    thresholds: bool = True
    """Part: lower the weight of voxels whose confidence is below the threshold of their class."""
    previous_round: bool = True
    """Part: from round 2, lower the weight of voxels on which two rounds disagree."""
    select_cases: bool = True
    """Part: reject cases by their predicted Dice."""

    entropy_weight: float = Field(1.0, ge=0)
    """Exponent a of the normalised entropy H in the voxel weight."""
    scale_variance_weight: float = Field(4.0, ge=0)
    """Factor b of the scale variance V (mean KL divergence)."""
    disagreement_weight: float = Field(1.0, ge=0)
    """Exponent c of the disagreement D of ensemble members and TTA views."""
    below_threshold_weight: float = Field(0.1, ge=0, le=1)
    """Factor on the weight of voxels whose confidence is below the threshold of their class; 0
    leaves them out."""
    changed_weight: float = Field(0.3, ge=0, le=1)
    """Maximum weight of voxels that the clean-up has changed or that differ from the label of the
    previous round."""
    lesion_probability: float = Field(0.5, ge=0, le=1)
    """Minimum probability of a component of a lesion class; others are dropped, unless too few are
    kept (``minimum_lesion_fraction``)."""
    minimum_lesion_fraction: float = Field(0.5, ge=0, le=1)
    """Minimum fraction of the expected number of lesions that is kept in each round, the most
    probable first. Expected is the mean number of the labelled cases times the number of unlabelled
    cases. 0, or scribbles as the only labels: only ``lesion_probability`` decides."""
    possible_lesion_weight: float = Field(0.0, ge=0, le=1)
    """Maximum weight of voxels of other classes where a lesion is possible. At 0 the student learns
    there neither that there is a lesion nor that there is none."""
    minimum_predicted_dice: float | None = Field(None, ge=0, le=1)
    """Cases with a lower predicted Dice are rejected; null: the out-of-fold cases give the
    bound."""
    accepted_fraction: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.8, 1.0), min_length=1
    )
    """Maximum fraction of all cases that is accepted in each round, best predicted Dice first. The
    last value applies to all further rounds."""
    overlays: int = Field(200, ge=0)
    """Maximum number of overlay pictures of a shard, lowest predicted Dice first."""

    def accepted_fraction_in(self, number: int) -> float:
        """Return the maximum fraction (0 to 1) of accepted cases in round ``number`` (from 1)."""
        return self.accepted_fraction[min(number, len(self.accepted_fraction)) - 1]
