"""``calibrate:`` and ``refine:``, pseudo-label refinement (PLR)."""

from typing import Annotated

from pydantic import Field, field_validator

from hstf.config.section import Section


class CalibrateConfig(Section):
    """What is learned from the out-of-fold predictions of the labelled cases."""

    target_precision: float = Field(0.8, gt=0, lt=1)
    """The threshold of a class is the lowest confidence whose own out-of-fold voxels are right this often."""
    threshold_bounds: tuple[float, float] = (0.5, 0.95)
    """Bounds of the class-wise confidence thresholds."""
    minimum_pass_fraction: float = Field(0.5, ge=0, le=1)
    """At least this share of the out-of-fold voxels of a class reaches its threshold, so that no class dies out."""
    bins: int = Field(100, ge=10)
    """Bins of the confidence histograms."""

    @field_validator("threshold_bounds")
    @classmethod
    def _rising(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] <= bounds[1] <= 1:
            raise ValueError(f"the bounds rise within 0..1, found {bounds}")
        return bounds


class RefineConfig(Section):
    """How a teacher's prediction becomes a pseudo-label, its voxel weights and a verdict.

    With all parts off, a pseudo-label is the most likely class of every voxel of every case, all with weight 1.
    """

    calibrate: bool = True
    """Part: bring the teacher's probabilities to the temperature of the out-of-fold cases."""
    keep_components: bool = True
    """Part: remove components smaller than those of the labelled cases, or beyond their number. Lesions are left alone."""
    judge_lesions: bool = True
    """Part: keep or drop each component of the classes in ``lesions:`` by its own probability, and ignore voxels where there
    may be one."""
    fill_holes: bool = True
    """Part: fill holes of classes whose labelled cases have none."""
    voxel_weights: bool = True
    """Part: weigh voxels by (1-H)^a exp(-b V) (1-D)^c of the entropy H, the variance across scales V, the disagreement D."""
    thresholds: bool = True
    """Part: lower the weight of voxels whose confidence is below the threshold of their class."""
    previous_round: bool = True
    """Part: from round 2 on, lower the weight of voxels on which two rounds disagree."""
    select_cases: bool = True
    """Part: reject cases by their predicted Dice."""

    entropy_weight: float = Field(1.0, ge=0)
    """Strength of the normalised entropy H in the voxel weight: the exponent a."""
    scale_variance_weight: float = Field(4.0, ge=0)
    """Strength b of the variance across scales V (mean KL divergence)."""
    disagreement_weight: float = Field(1.0, ge=0)
    """Strength c of the disagreement of members and views D."""
    below_threshold_weight: float = Field(0.1, ge=0, le=1)
    """Factor on the weight of voxels whose confidence is below their class's threshold; 0 leaves them out."""
    changed_weight: float = Field(0.3, ge=0, le=1)
    """Weight of voxels that the structural clean-up or the previous round's label contradicts."""
    lesion_probability: float = Field(0.5, ge=0, le=1)
    """Components of lesion classes that are less likely are dropped."""
    possible_lesion_weight: float = Field(0.0, ge=0, le=1)
    """Largest weight of voxels of other classes where a lesion is possible; 0 ignores them: neither a lesion nor its absence
    is learned there."""
    minimum_predicted_dice: float | None = Field(None, ge=0, le=1)
    """Cases with a lower predicted Dice are rejected; null: the bound comes from the out-of-fold cases."""
    accepted_fraction: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field((0.8, 1.0), min_length=1)
    """Maximum fraction of the cases that is accepted in each round, best predicted Dice first. The last value applies to all
    further rounds."""
    overlays: int = Field(200, ge=0)
    """Most overlay pictures of a shard, least certain cases first."""

    def accepted_fraction_in(self, number: int) -> float:
        """Return the maximum fraction (0 to 1) of the cases that round ``number`` (from 1) accepts."""
        return self.accepted_fraction[min(number, len(self.accepted_fraction)) - 1]
