"""An experiment with a comparison of methods, and scores of its cells that are known."""

from pathlib import Path
from typing import Any

import numpy as np

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.layout import Layout
from hstf.experiment.score_tables import EVALUATION_CASES
from support.workspace import write_sheet

CASES = 8
CLASSES = ("anterior", "posterior")
DICE = {"warm-up": 0.6, "supervised": 0.65, "hstf": 0.8, "full": 0.9}
"""Mean Dice of each method; the two seeds are 0.01 below and above."""
GAIN = np.linspace(-0.02, 0.02, CASES)
"""Additional Dice of each case. Without it all cases would have the same difference."""


def configuration(folder: Path, **keys: Any) -> Config:
    """Return an experiment with a comparison, on cases whose files need not exist."""
    write_sheet(folder, ["labelled"] * 3 + ["unlabelled"] * 3 + ["test"] * CASES)
    content = {
        "experiment": "base",
        "output": str(folder / "results"),
        "cases": str(folder / "cases.csv"),
        "rounds": 1,
        "labels": {"background": 0, "anterior": 1, "posterior": 2},
        "compare": {"methods": ["supervised", "hstf", "full"], "seeds": [0, 1]},
    }
    return resolve_config(content | keys)


def dice_of(method: str, seed: int) -> np.ndarray:
    """Return the Dice of each case ``(N,)``. Supervised training has no :data:`GAIN`."""
    gain = 0 * GAIN if method == "supervised" else GAIN
    return DICE[method] + gain + (2 * seed - 1) * 0.01


def write_round(config: Config, number: int, dice: np.ndarray) -> None:
    """Write scores as ``evaluate`` does; the classes are 0.02 below and above the mean."""
    rows = []
    for k, value in enumerate(dice.tolist()):
        for name, shift in zip(CLASSES, (-0.02, 0.02), strict=True):
            row = {
                "case_id": f"case_{k:03d}",
                "group": f"p{k}",
                "class": name,
                "dice": value + shift,
                "hd95_mm": 2 - value,
                "asd_mm": 1 - value,
            }
            rows.append(row)
    EVALUATION_CASES.write(Layout.of(config).evaluation_cases(number), rows)
