"""Labelled cases whose predictions and anatomy rules are known."""

import numpy as np

from hstf.method.plr.anatomy import AnatomyRule
from hstf.method.plr.anatomy_rules import AnatomyRules
from hstf.method.plr.out_of_fold import LabelledCase
from support.pseudo_label_files import tta_summary

FOREGROUND = {"foreground": (1,)}
RULES = {
    "foreground": AnatomyRule(
        maximum_components=1, minimum_mm3=100.0, has_holes=False, may_be_absent=False
    )
}
KNOWN = AnatomyRules(classes=FOREGROUND, rules=RULES)
UNKNOWN = AnatomyRules(classes=FOREGROUND, rules={})


def ball_case(case_id: str, error: int) -> LabelledCase:
    """Return a cube that is predicted ``error`` voxels too long.

    The confidence falls with the error. The clean-up removes a stray voxel.
    """
    label = np.zeros((16, 16, 16), np.uint8)
    label[4:10, 4:10, 4:10] = 1
    probabilities = np.zeros((2, 16, 16, 16), np.uint8)
    probabilities[1, 4 : 10 + error, 4:10, 4:10] = 230 - 5 * error
    probabilities[1, 15, 15, 15] = 200
    probabilities[0] = 255 - probabilities[1]
    quality = {"foreground": 1 - error / 10}
    agreement = {
        "scales": {"0.8": quality, "1.0": quality},
        "flips": {"none": quality, "0": quality},
        "foreground_entropy": {"foreground": 0.1},
    }
    return LabelledCase(
        case_id, tta_summary(probabilities, probabilities[[0, 0, 0]], agreement), label, 1.0
    )
