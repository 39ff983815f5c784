"""An experiment with overlapping regions, from synthetic scans to the calibration."""

from pathlib import Path

import numpy as np
import pytest
from support.stages import calibrate, out_of_fold, plan, preprocess, warmup

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.merge import merge
from hstf.config.yaml_files import read_yaml
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.imaging.probabilities import most_likely
from hstf.runtime.files import read_json
from hstf.scoring.confusion import structure_dice

PHANTOM = [
    *("--cases", "4"),
    *("--labelled", "4"),
    *("--test", "0"),
    *("--size", "24", "24", "24"),
    *("--lesions", "3"),
    *("--variation", "0.3"),
    *("--noise", "0.02"),
]
SECTIONS = {
    "device": "cpu",
    "preprocess": {"workers": 1},
    "teacher": {"scales": [1.0, 1.25]},
    "network": {"name": "cnn"},
    "plan": {
        "patch_size": [24, 24, 24],
        "batch_size": 2,
        "base_channels": 8,
        "stages": 3,
    },
    "warmup": {
        "folds": 2,
        "steps": 60,
        "warmup_steps": 4,
        "learning_rate": 0.02,
        "augmentation": {"flip_axes": []},
    },
}


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Train the warm-up of an experiment on synthetic BraTS scans."""
    monkeypatch.chdir(tmp_path)
    assert main(["phantom", "--layout", "brats", "--output", "data", *PHANTOM]) == 0
    assert main(["import", "brats", "data", "--output", "config/x.yaml"]) == 0
    imported = read_yaml(Path("config/x.yaml"))
    config = resolve_config(merge(imported, SECTIONS))
    plan(config)
    preprocess(config, "labelled_0")
    warmup(config, "fold_0")
    warmup(config, "fold_1")
    out_of_fold(config)
    return config


def test_warmup_and_calibrate_learn_regions(config: Config) -> None:
    """Out-of-fold predictions are better than the same voxels in random order."""
    layout = Layout.of(config)
    dices = []
    chances = []
    for case in read_cases(config).of(Split.LABELLED):
        folder = layout.out_of_fold / case.case_id
        predicted = most_likely(read_array(folder / "probabilities.b2nd"))
        shuffled = np.random.default_rng(0).permutation(predicted.reshape(-1))
        label = read_array(layout.preprocessed / case.case_id / "label.b2nd")
        dices.append(structure_dice(predicted, label, config.structures))
        chance = structure_dice(shuffled.reshape(label.shape), label, config.structures)
        chances.append(chance)
        agreement = read_json(folder / "agreement.json")
        for by_region in agreement["scales"].values():
            assert by_region.keys() == config.regions.keys()
    assert (np.mean(dices, axis=0) > 0.35).all()
    assert (np.mean(chances, axis=0) < 0.1).all()
    calibration = calibrate(config)
    assert calibration.dice_models.keys() == config.regions.keys()
    assert calibration.anatomy_rules.keys() == config.regions.keys()
    assert calibration.evidence["dice"].keys() == config.regions.keys()
    assert calibration.lesions.keys() == {"enhancing_tumour"}
    assert list(calibration.thresholds) == config.class_names
