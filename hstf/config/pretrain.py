"""``pretrain:``, self-supervised pre-training."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from hstf.config.section import Section
from hstf.config.training import AugmentationConfig, LoopConfig, TrainingConfig

TASKS: dict[str, str] = {
    "masked": "hstf.method.pretraining.masked:Masked",
    "denoise": "hstf.method.pretraining.denoise:Denoise",
    "contrastive": "hstf.method.pretraining.contrastive:Contrastive",
    "fusion": "hstf.method.pretraining.fusion:Fusion",
}
"""Name of each task, and the module and the class of it. The list stores the place of the code as
text because the configuration must not import torch."""
NO_TASK = "none"

if TYPE_CHECKING:
    TaskName = str
else:
    # The names come from the list of tasks, so that a new one needs no second edit here.
    TaskName = Literal[(NO_TASK, *TASKS)]

Probability = Annotated[float, Field(ge=0, le=1)]


class MaskedConfig(Section):
    """Task ``masked``: restore cubes that are hidden from the network."""

    ratio: float = Field(0.6, gt=0, lt=1)
    """Fraction of the cubes that are masked. The edge of a cube is the total stride of the network.
    Across thick slices it is one slice: squares are masked in each slice on its own."""


class DenoiseConfig(Section):
    """Task ``denoise``: restore a corrupted patch, in the manner of Models Genesis.

    Each probability is per patch.
    """

    intensity: Probability = 0.9
    """Probability of a monotone non-linear change of the intensities (a Bézier curve)."""
    noise: Probability = 0.5
    """Probability of Gaussian noise."""
    low_resolution: Probability = 0.3
    """Probability of a lower resolution."""
    shuffling: Probability = 0.5
    """Probability that voxels are shuffled within small blocks."""
    painting: Probability = 0.9
    """Probability that a part of the patch is replaced by noise."""
    outer: Probability = 0.8
    """Fraction of these patches of which the outer part is replaced (out-painting). In the others,
    boxes are replaced (in-painting)."""


class ContrastiveConfig(Section):
    """Task ``contrastive``: recognise two crops of the same patient (SimCLR, MICLe).

    Only the encoder and the transformer are trained.
    """

    temperature: float = Field(0.1, gt=0)
    """Temperature of the loss (NT-Xent)."""
    crop: tuple[int, int, int] | None = None
    """Size of a crop (voxels). null: half of the planned patch along each axis, as a multiple of
    the total stride of the network."""
    pairs: int | None = Field(None, ge=2)
    """Pairs of crops of a batch. All crops of other patients are negatives of a crop. null: 8 to
    64, so that the crops have about twice as many voxels as a planned batch."""
    other_scan: Probability = 0.5
    """Probability that the second crop comes from another scan of the patient, if there is one, at
    the same relative position. Otherwise it overlaps the first one in the same scan."""
    dimensions: int = Field(128, ge=2)
    """Dimensions of the projection in which crops are compared."""


class FusionConfig(Section):
    """Task ``fusion``: segment how strongly another scan is blended in (VolumeFusion)."""

    levels: int = Field(4, ge=2, le=16)
    """Number K of blending levels: the coefficients are 1/K, 2/K … 1, and 0 elsewhere."""
    shapes: int = Field(10, ge=1)
    """Maximum number of boxes and ellipsoids in a patch."""


class PretrainConfig(LoopConfig):
    """Self-supervised pre-training on the images of all labelled and unlabelled cases.

    No label is read. All trainings that would start from random weights start from its result,
    except for the output layers. It is off by default.
    """

    task: TaskName = NO_TASK
    """``none``; ``masked``: restore masked cubes; ``denoise``: restore corrupted patches;
    ``contrastive``: recognise crops of the same patient; ``fusion``: segment blended shapes."""
    masked: MaskedConfig = MaskedConfig()
    denoise: DenoiseConfig = DenoiseConfig()
    contrastive: ContrastiveConfig = ContrastiveConfig()
    fusion: FusionConfig = FusionConfig()
    augmentation: AugmentationConfig | None = None
    """Random changes of the patches before the task corrupts them; null: those of ``warmup``."""
    examples: int = Field(4, ge=1, le=16)
    """Number of patches in ``pretrain/examples.png``."""

    @property
    def is_on(self) -> bool:
        """Whether the stage runs."""
        return self.task != NO_TASK

    @property
    def training(self) -> TrainingConfig:
        """The training loop without the augmentation. Patches have random positions."""
        values = self.model_dump(include=set(LoopConfig.model_fields))
        return TrainingConfig.model_validate({**values, "foreground_fraction": 0.0})
