"""``method:``, the methods that can be compared.

All methods have the same stages, rounds and steps. A method is a set of keys of the configuration.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hstf.config.merge import merge
from hstf.config.pretrain import PretrainConfig

Method = Literal[
    "hstf",
    "hstf_without_csc",
    "hstf_without_plr",
    "hstf_without_csc_and_plr",
    "hstf_without_transformer",
    "hstf_with_convolutions",
    "supervised",
    "noisy_student",
    "mean_teacher",
    "uamt",
    "cross_teaching",
    "bcp",
    "supervised_longer",
    "pretrain_masked",
    "pretrain_denoise",
    "pretrain_contrastive",
    "pretrain_fusion",
    "pretrain_masked_hstf",
    "pretrain_denoise_hstf",
    "pretrain_contrastive_hstf",
    "pretrain_fusion_hstf",
    "full",
]


@dataclass(frozen=True)
class Preset:
    """The keys that a method sets. They win over files and the command line."""

    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    is_longer: bool = False
    """Whether the warm-up has as many additional steps as the pre-training of other methods."""

    def keys_for(self, raw: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the keys that the method sets in a configuration.

        Args:
            raw: the configuration without the keys of the method.
        """
        if not self.is_longer:
            return self.overrides
        section = raw.get("pretrain")
        steps = section.get("steps") if isinstance(section, Mapping) else None
        default = PretrainConfig.model_fields["steps"].default
        return merge(self.overrides, {"warmup": {"extra_steps": steps or default}})

    @property
    def is_online(self) -> bool:
        """Whether the method learns from unlabelled images without pseudo-labels on disk.

        Such methods see no view at another scale, as in their papers.
        """
        student = self.overrides.get("student", {})
        return student.get("learns_from") == "images"


NO_CONSISTENCY = {"prediction_weight": 0.0, "feature_weight": 0.0, "pyramid_weight": 0.0}
NO_REFINEMENT = {
    "calibrate": False,
    "keep_components": False,
    "judge_lesions": False,
    "fill_holes": False,
    "voxel_weights": False,
    "thresholds": False,
    "previous_round": False,
    "select_cases": False,
}
HARD_LABELS = {"soft_targets": False, "cross_fit": False, "ema_blend": 0.0}
NO_MIXING = {"probability": 0.0}

# Without pseudo-labels, a round only adds training steps to those of the round before.
CONTINUED = {"start": "previous_round"}

LABELS_ONLY = {
    "learns_from": "labels",
    "objective": "self_training",
    "csc": NO_CONSISTENCY,
    "ema_blend": 0.0,
    **CONTINUED,
}
NOISY_STUDENT = {
    **HARD_LABELS,
    "learns_from": "pseudo_labels",
    "objective": "self_training",
    "pseudo_weight": 1.0,
    "fine_tune": 0.0,
    "csc": NO_CONSISTENCY,
    "mixing": NO_MIXING,
}


def _online(objective: str, **student: Any) -> dict[str, Any]:
    """Return a student that learns from unlabelled images without pseudo-labels on disk."""
    keys = {"learns_from": "images", "objective": objective, "fine_tune": 0.0}
    keys |= {**CONTINUED, **student}
    return {"student": keys}


def _pretrained(task: str, description: str) -> Preset:
    """Return ``supervised`` after pre-training."""
    overrides = {"pretrain": {"task": task}, "student": LABELS_ONLY}
    return Preset(f"`supervised` after pre-training: {description}", overrides)


def _pretrained_hstf(task: str) -> Preset:
    """Return ``hstf`` after pre-training."""
    return Preset(f"`hstf` after the pre-training `{task}`", {"pretrain": {"task": task}})


METHODS: dict[Method, Preset] = {
    "hstf": Preset(
        "self-training with cross-scale consistency (CSC) and pseudo-label refinement (PLR)"
    ),
    "hstf_without_csc": Preset(
        "`hstf` with the weights of CSC at 0; the view at another scale is still segmented",
        {"student": {"csc": NO_CONSISTENCY}},
    ),
    "hstf_without_plr": Preset(
        "`hstf` with hard pseudo-labels of all cases; every voxel has weight 1",
        {"refine": NO_REFINEMENT, "student": HARD_LABELS},
    ),
    "hstf_without_csc_and_plr": Preset(
        "`hstf` without both",
        {"refine": NO_REFINEMENT, "student": {**HARD_LABELS, "csc": NO_CONSISTENCY}},
    ),
    "hstf_without_transformer": Preset(
        "`hstf` with the identity instead of the transformer",
        {"network": {"name": "hybrid_identity"}},
    ),
    "hstf_with_convolutions": Preset(
        "`hstf` with convolutions of the same number of parameters instead of the transformer",
        {"network": {"name": "cnn"}},
    ),
    "supervised": Preset(
        "the labelled cases only, for as many rounds and steps as the others",
        {"student": LABELS_ONLY},
    ),
    "noisy_student": Preset(
        "hard pseudo-labels of all cases without refinement, consistency and mixing"
        " (Xie et al., CVPR 2020)",
        {"refine": NO_REFINEMENT, "student": NOISY_STUDENT},
    ),
    "mean_teacher": Preset(
        "agreement with the EMA network on unlabelled images (Tarvainen and Valpola, NeurIPS 2017)",
        _online("mean_teacher"),
    ),
    "uamt": Preset(
        "`mean_teacher` where the EMA network with dropout is certain (Yu et al., MICCAI 2019)",
        {"network": {"dropout": 0.3}, **_online("uamt")},
    ),
    "cross_teaching": Preset(
        "two networks (`network.pair`) learn from each other's predictions (Luo et al., MIDL 2022)",
        {"network": {"name": "pair"}, **_online("cross_teaching")},
    ),
    "bcp": Preset(
        "bidirectional copy-paste with the predictions of the EMA network (Bai et al., CVPR 2023)",
        _online(
            "bcp",
            mixing={"probability": 1.0, "fraction": 2 / 3},
            consistency={"weight": 0.5, "ramp": 0.1},
        ),
    ),
    "supervised_longer": Preset(
        "`supervised` with `pretrain.steps` more steps of the warm-up: the control of pre-training",
        {"student": LABELS_ONLY},
        is_longer=True,
    ),
    "pretrain_masked": _pretrained(
        "masked",
        "masked cubes are restored (Zhou et al., self pre-training, ISBI 2023)",
    ),
    "pretrain_denoise": _pretrained(
        "denoise",
        "corrupted patches are restored (in the manner of Models Genesis, Zhou et al., 2019)",
    ),
    "pretrain_contrastive": _pretrained(
        "contrastive",
        "crops of the same patient are recognised (Azizi et al., ICCV 2021)",
    ),
    "pretrain_fusion": _pretrained(
        "fusion",
        "blended shapes are segmented (VolumeFusion, Wang et al., 2023)",
    ),
    "pretrain_masked_hstf": _pretrained_hstf("masked"),
    "pretrain_denoise_hstf": _pretrained_hstf("denoise"),
    "pretrain_contrastive_hstf": _pretrained_hstf("contrastive"),
    "pretrain_fusion_hstf": _pretrained_hstf("fusion"),
    "full": Preset(
        "`supervised` with the withheld labels of the unlabelled cases: the upper bound of a"
        " benchmark",
        {"withheld_labels": True, "student": LABELS_ONLY},
    ),
}
