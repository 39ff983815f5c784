"""``warmup:`` and ``student:``, which run the same training loop as ``pretrain:``."""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hstf.config.objectives import OBJECTIVES
from hstf.config.precision import Precision
from hstf.config.section import Axes, ScaleRange, Section

if TYPE_CHECKING:
    ObjectiveName = str
else:
    # The names come from the list of objectives, so that a new one needs no second edit here.
    ObjectiveName = Literal[tuple(OBJECTIVES)]


class AugmentationConfig(Section):
    """Random changes of a training patch.

    Each probability is per case of a batch. Rotation, zoom and deformation act on the anatomy, in
    millimetres. An axis with slices over three times as thick as the finest voxel edge is left
    unchanged: patches are rotated, zoomed and deformed within the slices.
    """

    flip_axes: Axes | None = None
    """Axes that may be mirrored, 0, 1 and 2 of the RAS volume: left-right, back-front, foot-head.
    Do not mirror an axis along which classes differ by their position, such as anterior and
    posterior parts of an organ. null: as planned, which is left-right, or both axes of thick slices
    whose orientation is unknown."""
    quarter_turns: Axes | None = None
    """Axes about which a patch is turned by a random multiple of 90 degrees. Voxels are not
    interpolated if their edges in the plane are equal. null: as planned, which is no axis, or that
    of thick slices whose orientation is unknown."""
    rotation_degrees: tuple[float, float, float] = (15.0, 15.0, 15.0)
    """Maximum rotation about each axis. A rotation that would mix thick slices is never done."""
    scale_range: ScaleRange = (0.8, 1.25)
    """Range of the isotropic zoom, which is drawn log-uniformly."""
    anisotropy: float = Field(0.1, ge=0, lt=1)
    """Maximum additional zoom of each axis, as a fraction."""
    affine_probability: float = Field(0.5, ge=0, le=1)
    """Probability of rotation and zoom."""
    elastic_probability: float = Field(0.2, ge=0, le=1)
    """Probability of a smooth random deformation."""
    elastic_voxels: float = Field(4.0, ge=0)
    """Standard deviation of the displacement at the control points of the deformation, in finest
    voxel edges. The control points are at least 16 finest voxel edges apart."""
    intensity_probability: float = Field(0.3, ge=0, le=1)
    """Probability of each intensity change of a modality. ``mr`` and ``other``: contrast,
    brightness, gamma, bias field, blur, low resolution, noise. ``ct``: the same without bias field,
    and noise of at most 30 HU. ``pet``: contrast, gamma, blur, low resolution, Poisson-like noise.
    ``us``: gain, gamma, blur, low resolution, speckle."""
    fourier_probability: float = Field(0.0, ge=0, le=1)
    """Probability that a labelled patch gets the low-frequency amplitudes of an unlabelled patch of
    its batch (FDA). Use it when the unlabelled scans come from another hospital. It has no effect
    on batches without unlabelled patches. Where patches exchange boxes (``mixing``), it comes after
    the exchange."""

    @property
    def mirrored_axes(self) -> tuple[int, ...]:
        """Axes that may be mirrored, left-right without a plan."""
        return (0,) if self.flip_axes is None else self.flip_axes

    def planned(
        self, flip_axes: tuple[int, ...], quarter_turns: tuple[int, ...]
    ) -> "AugmentationConfig":
        """Return the augmentation with the axes of the plan where the key is null."""
        values: dict[str, tuple[int, ...]] = {}
        if self.flip_axes is None:
            values["flip_axes"] = flip_axes
        if self.quarter_turns is None:
            values["quarter_turns"] = quarter_turns
        return self.model_copy(update=values)


class MixingConfig(Section):
    """Bidirectional copy-paste: the patches of a batch exchange boxes.

    Each patch gets a box of a patch of the other kind, labelled or unlabelled, with its image,
    target and weight. In the warm-up, all patches are labelled.
    """

    probability: float = Field(0.0, ge=0, le=1)
    """Probability that a batch is mixed; 0 turns mixing off."""
    fraction: float = Field(2 / 3, gt=0, lt=1)
    """Size of the box along each axis, as a fraction of the patch."""


class LoopConfig(Section):
    """The training loop.

    The number of steps is fixed. The result is the EMA weights after the last step, so no
    checkpoint is selected.
    """

    steps: int = Field(2000, ge=1)
    """Optimiser steps."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of AdamW, for weights of convolutions and linear layers."""
    warmup_steps: int = Field(50, ge=0)
    """Steps over which the learning rate grows linearly. It then decays to zero (polynomial decay,
    power 0.9)."""
    ema_decay: float = Field(0.999, ge=0, lt=1)
    """Maximum decay of the exponential moving average (EMA) of the weights. The decay of a step is
    min(ema_decay, (step + 1) / (step + 10))."""
    gradient_clip: float = Field(1.0, gt=0)
    """Maximum norm of the gradient."""
    amp: Precision = "auto"
    """bfloat16: on devices that compute it natively (``auto``), always (``bf16``) or never
    (``off``)."""
    checkpoint_seconds: float = Field(60.0, ge=0)
    """Seconds between two checkpoints of the training state."""
    gpu_cache_gb: float = Field(8.0, ge=0)
    """GPU memory (GB) for the training scans. Scans in this cache are read once. All others, and
    all scans of a training on a CPU, are read from disk for each patch."""
    compile: bool = False
    """Compile the network with ``torch.compile``. This takes a minute for each training and then
    makes its steps faster. It pays for trainings of many thousand steps and needs a C++ compiler.
    Results differ from those without it by rounding."""
    history_every: int = Field(20, ge=1)
    """Number of steps that are averaged in a row of ``history.csv``."""


class TrainingConfig(LoopConfig):
    """A supervised or semi-supervised training."""

    augmentation: AugmentationConfig = AugmentationConfig()
    """Random changes of the training patches."""
    foreground_fraction: float = Field(0.5, ge=0, le=1)
    """Fraction of patches that are centred on a voxel of a random foreground class. The position of
    all other patches is random, also of those from unlabelled images without a pseudo-label."""
    snapshots: int = Field(0, ge=0, le=5)
    """Number of earlier EMA weights, at even distances of steps, that are stored with the last
    ones. Their agreement with the teacher on a scan is a quality feature of its pseudo-label
    (stability, as in ST++)."""
    gpus: int = Field(1, ge=1)
    """Number of GPUs of one machine that compute each batch together. The batch size does not
    change. The losses are those of one GPU, except for rounding and for random augmentation."""
    mixing: MixingConfig = MixingConfig()
    """Boxes that patches exchange."""


class WarmupConfig(TrainingConfig):
    """Round 0: initial supervised training on the labelled cases only."""

    folds: int = Field(3, ge=2)
    """Number of networks that are each trained without one fold of the labelled cases and then
    predict this fold, for the calibration. All cases of a group are in the same fold."""
    fold_members: int = Field(1, ge=1, le=2)
    """Number of networks that are trained without each fold. With 2, each labelled case is
    predicted by two networks that have not seen it, and their agreement can be a quality feature
    (``calibrate`` decides). This doubles the trainings of the folds."""
    seeds: int = Field(3, ge=0)
    """Number of ensemble members that are trained on all labelled cases. They are the model of
    round 0: the teacher of round 1, from which students start. 0: the networks of the folds are the
    model, although none of them has seen all labels."""
    seed_start: Literal["fold", "scratch"] = "fold"
    """Initial weights of a member that sees all labelled cases: those of the fold with the same
    index, which are fine-tuned (``fold``), or random ones (``scratch``), as for the folds. With
    ``pretrain:`` or ``network.start``, these weights take the place of random ones."""
    seed_steps: int | None = Field(None, ge=1)
    """Optimiser steps of such a member. null: half of ``steps`` from a fold, and ``steps`` from
    scratch."""
    extra_steps: int = Field(0, ge=0)
    """Steps in addition to ``steps`` of each network that starts from random weights. The method
    ``supervised_longer`` sets it to ``pretrain.steps``, as a control of pre-training."""

    def of_member(self, member: str) -> TrainingConfig:
        """Return the training of a member: folds and seeds differ in their steps."""
        values = self.model_dump(include=set(TrainingConfig.model_fields))
        is_fold = not member.startswith("seed_")
        values["steps"] = self.steps if is_fold else self.steps_of_seeds
        if is_fold or self.seed_start == "scratch":
            values["steps"] += self.extra_steps
        return TrainingConfig.model_validate(values)

    @property
    def steps_of_seeds(self) -> int:
        """Steps of a member that sees all labelled cases."""
        if self.seed_steps is not None:
            return self.seed_steps
        return self.steps if self.seed_start == "scratch" else max(1, self.steps // 2)


class CscConfig(Section):
    """Cross-scale consistency (CSC).

    The student sees a patch at another scale and must agree with the EMA teacher at scale 1.
    """

    prediction_weight: float = Field(0.3, ge=0)
    """Weight of the consistency of predictions."""
    feature_weight: float = Field(0.05, ge=0)
    """Weight of the consistency of deep features at corresponding positions (1 - cosine)."""
    pyramid_weight: float = Field(0.0, ge=0)
    """Weight of the consistency of the coarser decoder levels with the finest level of the
    teacher."""
    segmentation_weight: float = Field(0.5, ge=0)
    """Weight of the segmentation loss of the patch at the other scale. This is scale augmentation
    without consistency. The controls without consistency keep it, so that a comparison measures the
    consistency and not the augmentation."""
    scale_range: ScaleRange = (0.7, 1.4)
    """Range of the other scale, which is drawn log-uniformly. At scales above 1 the student sees a
    box of the patch, so that it computes at most as many voxels as the patch has."""
    ramp: float = Field(0.3, gt=0, le=1)
    """Fraction of the steps over which the weights grow (sigmoid ramp)."""
    every: int = Field(3, ge=1)
    """Number of steps from one consistency step to the next. A consistency step needs an additional
    forward pass of the teacher and an additional pass of the student."""

    @property
    def consistent(self) -> bool:
        """Whether any consistency weight is above 0."""
        return self.prediction_weight + self.feature_weight + self.pyramid_weight > 0

    @property
    def zoomed(self) -> bool:
        """Whether the student sees another scale at all."""
        return self.consistent or self.segmentation_weight > 0


class ConsistencyConfig(Section):
    """Loss on unlabelled images of the objectives that need no pseudo-labels on disk."""

    weight: float = Field(0.1, ge=0)
    """Weight of the loss on unlabelled images."""
    ramp: float = Field(1.0, gt=0, le=1)
    """Fraction of the steps over which the weight grows (sigmoid ramp)."""
    distance: Literal["mse", "kl"] = "mse"
    """``mean_teacher`` and ``uamt``: distance between the probabilities of the student and of the
    EMA network."""
    passes: int = Field(4, ge=2)
    """``uamt``: passes of the EMA network with noise and dropout, from which its uncertainty is
    computed. The paper uses 8."""
    noise: float = Field(0.1, ge=0)
    """``uamt``: standard deviation of the noise in these passes, in normalised intensities."""


class StudentConfig(TrainingConfig):
    """Round 1 and later: training on labelled and unlabelled cases."""

    learns_from: Literal["pseudo_labels", "images", "labels"] = "pseudo_labels"
    """Training data in addition to the labelled cases: pseudo-labels, unlabelled images without
    pseudo-labels (``images``), or nothing (``labels``). Without pseudo-labels the stages teacher,
    refine and labels do not run."""
    objective: ObjectiveName = "self_training"
    """Training objective; `method` sets it. CSC, mixing and EMA blending belong to
    ``self_training``."""
    members: int = Field(2, ge=1)
    """Number of ensemble members of a round, which differ by their seed. The prediction of the
    round is the mean over the members, and all of them label each case in the next round. The time
    of a round is proportional to it."""
    cross_fit: bool = False
    """With two or more members, member k is not trained on part k of the pseudo-labelled patients,
    and only member k labels this part in the next round. No case is then labelled by a network that
    was trained on it, but no case is labelled by an ensemble either."""
    start: Literal["scratch", "previous_round"] = "previous_round"
    """Initial weights: those of the member of the previous round with the same index
    (``previous_round``), or random ones (``scratch``). With ``pretrain:`` or ``network.start``,
    ``scratch`` starts from these weights. The control ``supervised`` always continues from the
    previous round, so that with ``scratch`` it has more steps than the students."""
    labelled_fraction: float = Field(0.5, gt=0, le=1)
    """Fraction of patches that come from the labelled cases. A batch of two or more patches has
    patches of both kinds."""
    fine_tune: float = Field(0.0, ge=0, lt=1)
    """Fraction of the steps, at the end of the training, with manual labels only: those of the
    labelled cases and corrected pseudo-labels."""
    pseudo_weight: float = Field(1.0, ge=0)
    """Factor on the weights of pseudo-labelled voxels."""
    soft_targets: bool = True
    """Use the calibrated probabilities of the teacher as targets where they agree with the
    pseudo-label. Otherwise use its class."""
    ema_blend: float = Field(0.0, ge=0, le=1)
    """Final fraction of the label of the EMA network in the target of pseudo-labelled voxels: the
    pseudo-labels are renewed during the training. The fraction grows linearly over the first half
    of the steps. Renewed voxels have weight 1, except those with weight 0. Pseudo-labels that a
    reviewer has accepted or corrected are not renewed."""
    csc: CscConfig = CscConfig()
    """Cross-scale consistency."""
    consistency: ConsistencyConfig = ConsistencyConfig()
    """Other objectives than self-training."""
