"""``method:``, the methods that can be compared: each the same stages, rounds and steps with other switches."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Method = Literal[
    "hstf", "hstf_without_csc", "hstf_without_plr", "hstf_without_csc_and_plr", "hstf_without_transformer",
    "hstf_with_convolutions", "supervised", "noisy_student", "mean_teacher", "uamt", "cross_teaching", "bcp", "full",
]  # fmt: skip


@dataclass(frozen=True)
class Preset:
    """What a method sets, whatever files and command line say; everything else is theirs."""

    description: str
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def online(self) -> bool:
        """Whether it learns from the unlabelled images themselves, as its paper says, and sees no other scale."""
        return self.overrides.get("student", {}).get("learns_from") == "images"


NO_CONSISTENCY = {"prediction_weight": 0.0, "feature_weight": 0.0, "pyramid_weight": 0.0}
NO_REFINEMENT = {
    "calibrate": False, "keep_components": False, "judge_lesions": False, "fill_holes": False, "voxel_weights": False,
    "thresholds": False, "previous_round": False, "select_cases": False,
}  # fmt: skip
HARD_LABELS = {"soft_targets": False, "cross_fit": False, "ema_blend": 0.0}
NO_MIXING = {"probability": 0.0}
ON_AND_ON = {
    "start": "previous_round"
}  # without pseudo-labels a round is worth what it learns on top of the one before
LABELS_ALONE = {
    "learns_from": "labels", "objective": "self_training", "csc": NO_CONSISTENCY, "ema_blend": 0.0, **ON_AND_ON,
}  # fmt: skip


def _online(objective: str, **student: Any) -> dict[str, Any]:
    """A student that learns from the unlabelled images themselves, without pseudo-labels on disk."""
    return {"student": {"learns_from": "images", "objective": objective, **ON_AND_ON, **student}}


METHODS: dict[Method, Preset] = {
    "hstf": Preset("self-training with cross-scale consistency (CSC) and pseudo-label refinement (PLR)"),
    "hstf_without_csc": Preset(
        "`hstf` with the weights of CSC at 0; the view at another scale is still segmented",
        {"student": {"csc": NO_CONSISTENCY}},
    ),
    "hstf_without_plr": Preset(
        "`hstf` with hard pseudo-labels of all cases, each voxel as the teacher says it and with weight 1",
        {"refine": NO_REFINEMENT, "student": HARD_LABELS},
    ),
    "hstf_without_csc_and_plr": Preset(
        "`hstf` without both", {"refine": NO_REFINEMENT, "student": {**HARD_LABELS, "csc": NO_CONSISTENCY}}
    ),
    "hstf_without_transformer": Preset(
        "`hstf` with the identity in place of the transformer", {"network": {"name": "hybrid_identity"}}
    ),
    "hstf_with_convolutions": Preset(
        "`hstf` with as many parameters of convolutions in place of the transformer", {"network": {"name": "cnn"}}
    ),
    "supervised": Preset(
        "the labelled cases alone, for as many rounds and steps as the others", {"student": LABELS_ALONE}
    ),
    "noisy_student": Preset(
        "hard pseudo-labels of all cases, nothing refined, consistent or mixed (Xie et al., CVPR 2020)",
        {
            "refine": NO_REFINEMENT,
            "student": {
                **HARD_LABELS, "learns_from": "pseudo_labels", "objective": "self_training", "pseudo_weight": 1.0,
                "csc": NO_CONSISTENCY, "mixing": NO_MIXING,
            },
        },
    ),
    "mean_teacher": Preset(
        "agreement with the EMA network on unlabelled images (Tarvainen and Valpola, NeurIPS 2017)",
        _online("mean_teacher"),
    ),
    "uamt": Preset(
        "`mean_teacher` where the EMA network, with dropout, is certain (Yu et al., MICCAI 2019)",
        {"network": {"dropout": 0.3}, **_online("uamt")},
    ),
    "cross_teaching": Preset(
        "two networks (`network.pair`) learn from each other's labels (Luo et al., MIDL 2022)",
        {"network": {"name": "pair"}, **_online("cross_teaching")},
    ),
    "bcp": Preset(
        "bidirectional copy-paste with the EMA network's labels (Bai et al., CVPR 2023)",
        _online("bcp", mixing={"probability": 1.0, "fraction": 2 / 3}, consistency={"weight": 0.5, "ramp": 0.1}),
    ),
    "full": Preset(
        "`supervised` with the withheld labels of the unlabelled cases: the ceiling of a benchmark",
        {"withheld_labels": True, "student": LABELS_ALONE},
    ),
}  # fmt: skip
