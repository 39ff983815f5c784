"""A small experiment, from synthetic scans to the exported model, run in this process."""

import shlex
from pathlib import Path
from typing import Any

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from support.evaluation_files import evaluate_shard, summarise_round
from support.stages import (
    bound_lesions,
    calibrate,
    check,
    export,
    labels,
    members,
    merge_labels,
    merge_refined,
    out_of_fold,
    plan,
    preprocess,
    refine,
    student,
    teacher,
    trained,
    warmup,
)

UNLABELLED = "unlabelled_0"
TEST = "test_0"
SECTIONS: dict[str, Any] = {
    "experiment": "finished",
    "cases": "cases.csv",
    "labels": {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "lesion": 4},
    "lesions": ["lesion"],
    "overrides": "overrides",
    "rounds": 1,
    "device": "cpu",
    "phantom": {"folder": ".", "cases": 9, "labelled": 4, "test": 2, "size": [20, 20, 20]},
    "check": {"workers": 1},
    "preprocess": {"workers": 1},
    "plan": {"patch_size": [16, 16, 16], "batch_size": 2, "base_channels": 4, "stages": 2},
    "network": {"transformer_layers": 1, "transformer_heads": 2},
    "warmup": {"folds": 2, "seeds": 1, "steps": 2},
    "student": {"members": 1, "steps": 2, "start": "previous_round"},
    "refine": {"select_cases": False, "minimum_predicted_dice": 0.0},
    "teacher": {"scales": [1.0]},
    "evaluate": {"bootstrap": 100},
    "export": {"programs": []},
    # Tiny networks lose classes by chance.
    "monitor": {
        "minimum_volume": 0,
        "minimum_presence": 0,
        "minimum_agreement": 0,
        "minimum_weight": 0,
    },
}


def finish_experiment(folder: Path) -> Config:
    """Run all stages of an experiment in ``folder``, which must be the current folder.

    Its networks learn almost nothing, and its student learns from all pseudo-labels.
    """
    assert folder.samefile(Path.cwd())
    config = resolve_config(SECTIONS)
    assert config.phantom is not None
    assert main(["phantom", *shlex.split(config.phantom.options())]) == 0
    check(config)
    plan(config)
    for shard in ("labelled_0", UNLABELLED):
        preprocess(config, shard)
    for member in trained(config, 0):
        warmup(config, member)
    out_of_fold(config)
    calibrate(config)
    teacher(config, 1, UNLABELLED)
    bound_lesions(config, 1)
    refine(config, 1, UNLABELLED)
    merge_refined(config, 1)
    labels(config, 1, UNLABELLED)
    merge_labels(config, 1)
    for member in members(config, 1):
        student(config, 1, member)
    evaluate_shard(config, 1, TEST)
    summarise_round(config, 1)
    export(config)
    return config
