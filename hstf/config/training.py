"""Keys that ``warmup:`` and ``student:`` share: they run one training loop."""

from typing import Literal

from pydantic import Field

from hstf.config.section import Axes, ScaleRange, Section


class AugmentationConfig(Section):
    """Random changes of a training patch; each probability is per case of a batch. Turns, zooms and deformations are those
    of the anatomy, in millimetres. Slices over three times as thick as the finest voxel edge stay as they are: patches
    turn, grow and bend within them."""

    flip_axes: Axes = (0,)
    """Axes (0, 1, 2 of the RAS volume: left-right, back-front, foot-head) that may be mirrored. Where front and back are
    told by their place (anterior and posterior parts, say), mirroring them costs more than it gives."""
    rotation_degrees: tuple[float, float, float] = (15.0, 15.0, 15.0)
    """Largest rotation about each axis; out of thick slices nothing is turned, whatever stands here."""
    scale_range: ScaleRange = (0.8, 1.25)
    """Isotropic zoom, drawn log-uniformly."""
    anisotropy: float = Field(0.1, ge=0, lt=1)
    """Further zoom of each axis by up to this share."""
    affine_probability: float = Field(0.5, ge=0, le=1)
    """Chance of rotation and zoom."""
    elastic_probability: float = Field(0.2, ge=0, le=1)
    """Chance of a smooth random deformation."""
    elastic_voxels: float = Field(4.0, ge=0)
    """Standard deviation (finest voxel edges) of the deformation at its control points, 16 of them apart."""
    intensity_probability: float = Field(0.3, ge=0, le=1)
    """Chance of each change that the modality allows. ``mr``, ``other``: contrast, brightness, gamma, bias field, blur, low
    resolution, noise. ``ct``: the same without bias field, with noise of up to 30 HU. ``pet``: contrast, gamma, blur, low
    resolution, noise of counts. ``us``: gain, gamma, blur, low resolution, speckle."""
    fourier_probability: float = Field(0.0, ge=0, le=1)
    """Chance that a labelled patch takes on the look of an unlabelled one of its batch, by the low frequencies of its
    amplitude (FDA): for unlabelled scans of another hospital. Batches of labelled patches alone, and mixed ones, stay as
    they are."""


class MixingConfig(Section):
    """Mixing of the patches of a batch (bidirectional copy-paste): each takes a box of one of the other kind, labelled or
    unlabelled, with its image, target and weight. In the warm-up all are labelled."""

    probability: float = Field(0.0, ge=0, le=1)
    """Chance that a batch is mixed; 0: never."""
    share: float = Field(2 / 3, gt=0, lt=1)
    """Share of each side of the patch that the box has."""


class TrainingConfig(Section):
    """The training loop. The schedule is fixed and the last EMA weights are the result: nothing is selected."""

    steps: int = Field(2000, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW, for weights of convolutions and linear layers."""
    warmup_steps: int = Field(50, ge=0)
    """Steps of linear growth of the learning rate, before its polynomial decay (power 0.9) to zero."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Decay of the exponential moving average of the weights; it grows from 0 as min(decay, (step+1)/(step+10))."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    foreground_fraction: float = Field(0.5, ge=0, le=1)
    """Share of patches centred on a voxel of a random foreground class; the others lie anywhere, as do all of unlabelled
    images that have no pseudo-label."""
    amp: Literal["auto", "bf16", "off"] = "auto"
    """bfloat16 where it is faster: on GPUs and CPUs with native bf16 (auto), always, or never."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Seconds between checkpoints of the resumable state."""
    snapshots: int = Field(0, ge=0, le=5)
    """States of the network along the training, at even distances, that are kept beside the last one: how far they agree
    with the teacher about a scan is one more sign of its pseudo-label's quality (stability, as in ST++)."""
    held_gb: float = Field(8.0, ge=0)
    """Memory (GB) of the GPU for the scans that are learned from: read once, cut there. Those beyond it, and all on a CPU,
    are read from disk patch by patch."""
    gpus: int = Field(1, ge=1)
    """GPUs that share each batch of a training, on one node. The batch stays as it is: the more GPUs, the fewer patches on
    each, and the losses are those of one GPU to rounding; only what augmentation draws is other."""
    history_every: int = Field(20, ge=1)
    """Steps averaged in one row of ``history.csv``."""
    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training patches."""
    mixing: MixingConfig = MixingConfig()
    """Boxes that patches exchange."""


class WarmupConfig(TrainingConfig):
    """Round 0: supervised training on the labelled cases alone."""

    folds: int = Field(3, ge=2)
    """Members, each trained without one fold of the labelled cases (whole groups), which it then predicts."""
    seeds: int = Field(0, ge=0)
    """Further members trained on all labelled cases."""


class CscConfig(Section):
    """Cross-scale consistency between the EMA teacher at scale 1 and the student at another scale."""

    prediction_weight: float = Field(0.3, ge=0)
    """Weight of the consistency of predictions."""
    feature_weight: float = Field(0.05, ge=0)
    """Weight of the consistency of deep features at matched positions (1 - cosine)."""
    pyramid_weight: float = Field(0.0, ge=0)
    """Weight of the consistency of the coarser decoder levels with the teacher's finest."""
    segmentation_weight: float = Field(0.5, ge=0)
    """Weight of the segmentation loss of the student's view at the other scale: scale augmentation, no consistency. The
    controls without consistency keep it, so that what is compared is consistency and not augmentation."""
    scale_range: ScaleRange = (0.7, 1.4)
    """Scale of the student's view, drawn log-uniformly."""
    ramp: float = Field(0.3, gt=0, le=1)
    """Share of the steps over which the weight grows (sigmoid ramp)."""
    every: int = Field(2, ge=1)
    """Steps from one consistency step to the next: it costs a teacher pass and a second student pass."""

    @property
    def consistent(self) -> bool:
        """Whether any part of the consistency counts."""
        return self.prediction_weight + self.feature_weight + self.pyramid_weight > 0

    @property
    def zoomed(self) -> bool:
        """Whether the student sees another scale at all."""
        return self.consistent or self.segmentation_weight > 0


class ConsistencyConfig(Section):
    """What unlabelled images teach in the objectives that need no pseudo-labels on disk."""

    weight: float = Field(0.1, ge=0)
    """Weight of the loss on unlabelled images."""
    ramp: float = Field(1.0, gt=0, le=1)
    """Share of the steps over which the weight grows (sigmoid ramp)."""
    distance: Literal["mse", "kl"] = "mse"
    """``mean_teacher`` and ``uamt``: how far the student's probabilities are from the EMA network's."""
    passes: int = Field(4, ge=2)
    """``uamt``: passes of the EMA network with noise and dropout that say how certain it is. The paper has 8."""
    noise: float = Field(0.1, ge=0)
    """``uamt``: standard deviation of the noise in these passes, for normalised intensities."""


class StudentConfig(TrainingConfig):
    """Round 1 and on: labelled and unlabelled cases together, with cross-scale consistency."""

    learns_from: Literal["pseudo_labels", "images", "labels"] = "pseudo_labels"
    """What there is besides the labelled cases: pseudo-labels; unlabelled images without any; or nothing. Without
    pseudo-labels the stages teacher, refine and labels do not run."""
    objective: Literal["self_training", "mean_teacher", "uamt", "cross_teaching", "bcp"] = (
        "self_training"
    )
    """What is learned from a batch; `method` sets it. ``self_training`` has CSC, mixing and EMA blend."""
    members: int = Field(1, ge=1)
    """Students of a round that differ by seed; their mean prediction is the round's model."""
    cross_fit: bool = True
    """With two or more members, member k leaves out part k of the pseudo-labelled patients, and it alone labels them in the
    next round: nobody labels what it has learned from."""
    start: Literal["scratch", "warmup"] = "scratch"
    """First weights: random, or those of the previous round's member of the same index."""
    labelled_fraction: float = Field(0.5, gt=0, le=1)
    """Share of patches drawn from the labelled cases."""
    pseudo_weight: float = Field(1.0, ge=0)
    """Weight of the loss on pseudo-labelled voxels, on top of each voxel's own weight."""
    soft_targets: bool = True
    """Learn the teacher's calibrated probabilities where they agree with the pseudo-label, not only its class."""
    ema_blend: float = Field(0.0, ge=0, le=1)
    """Share of the EMA network's own prediction in the target of pseudo-labelled voxels: 0 in the first 30% of the steps,
    then growing, this from 70% on."""
    csc: CscConfig = CscConfig()
    """Cross-scale consistency."""
    consistency: ConsistencyConfig = ConsistencyConfig()
    """Objectives other than self-training."""
