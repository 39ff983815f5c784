"""``calibrate:`` and ``refine:``, pseudo-label refinement (PLR)."""

from pydantic import Field, field_validator

from hstf.config.section import Section


class CalibrateConfig(Section):
    """What is learned from the out-of-fold predictions of the labelled cases."""

    target_precision: float = Field(0.8, gt=0, lt=1)
    """The threshold of a class is the lowest confidence whose own out-of-fold voxels are right this often."""
    threshold_bounds: tuple[float, float] = (0.5, 0.95)
    """Bounds of the class-wise confidence thresholds."""
    bins: int = Field(100, ge=10)
    """Bins of the confidence histograms."""

    @field_validator("threshold_bounds")
    @classmethod
    def _rising(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(f"the bounds rise within 0..1, found {bounds}")
        return bounds


class RefineConfig(Section):
    """How a teacher's prediction becomes a pseudo-label, its voxel weights and a verdict."""

    entropy_weight: float = Field(1.0, ge=0)
    """Strength of the normalised entropy H in the voxel weight (1-H)^a exp(-b V) (1-D)^c: the exponent a."""
    scale_variance_weight: float = Field(4.0, ge=0)
    """Strength b of the variance across scales V (mean KL divergence)."""
    disagreement_weight: float = Field(1.0, ge=0)
    """Strength c of the disagreement of members and views D."""
    below_threshold_weight: float = Field(0.1, ge=0, le=1)
    """Factor on the weight of voxels whose confidence is below their class's threshold; 0 leaves them out."""
    changed_weight: float = Field(0.3, ge=0, le=1)
    """Weight of voxels that the structural clean-up or the previous round's label contradicts."""
    keep_components: bool = True
    """Remove components smaller than those of the labelled cases, or beyond their number."""
    fill_holes: bool = True
    """Fill holes of classes whose labelled cases have none."""
    minimum_predicted_dice: float | None = Field(None, ge=0, le=1)
    """Cases with a lower predicted Dice are rejected; null: the bound comes from the out-of-fold cases."""
    previous_round: bool = True
    """From round 2 on, lower the weight of voxels on which two rounds disagree."""
    overlays: int = Field(200, ge=0)
    """Most overlay pictures of a shard, least certain cases first."""
