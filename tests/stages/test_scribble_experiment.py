"""An experiment with scribbles as labels."""

from pathlib import Path

import numpy as np
from support.stages import plan, predict_fold, preprocess, warmup

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.datasets.phantom.dataset import case_seed, write_dataset
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.imaging.probabilities import most_likely
from hstf.imaging.sparse_labels import is_sparse
from hstf.scoring.confusion import structure_dice

OPTIONS = PhantomOptions(
    cases=5,
    labelled=4,
    test=1,
    size=(24, 24, 24),
    lesions=0,
    variation=0.3,
    noise=0.02,
    scribbles=True,
    oblique=False,
)
ORGANS = {"liver": (1,), "spleen": (2,), "kidney": (3,)}


def write_experiment(folder: Path) -> Config:
    """Write scans and scribbles below ``folder`` and return the configuration."""
    labels = dict(PHANTOM_LABELS)
    del labels["lesion"]
    labels["ignore"] = 255
    return resolve_config(
        {
            "experiment": "e",
            "output": str(folder / "results"),
            "cases": str(write_dataset(folder, OPTIONS)),
            "labels": labels,
            "device": "cpu",
            "preprocess": {"workers": 1},
            "teacher": {"scales": [1.0], "flip_axes": []},
            "plan": {
                "patch_size": [24, 24, 24],
                "batch_size": 2,
                "base_channels": 8,
                "stages": 3,
            },
            "network": {"name": "cnn"},
            "warmup": {
                "folds": 2,
                "steps": 60,
                "warmup_steps": 4,
                "learning_rate": 0.02,
                "augmentation": {"flip_axes": []},
            },
        }
    )


def test_warmup_learns_from_scribbles(tmp_path: Path) -> None:
    """Out-of-fold predictions are compared with dense labels, which no stage has read.

    They are better than the same voxels in random order.
    """
    config = write_experiment(tmp_path)
    plan(config)
    preprocess(config, "labelled_0")
    warmup(config, "fold_0")
    predict_fold(config, "fold_0")
    layout = Layout.of(config)
    dices = []
    chances = []
    for number, case in enumerate(read_cases(config).of(Split.LABELLED)):
        folder = layout.out_of_fold / case.case_id
        if not folder.is_dir():
            continue  # a case of the other fold
        assert is_sparse(read_array(layout.preprocessed / case.case_id / "label.b2nd"))
        predicted = most_likely(read_array(folder / "probabilities.b2nd"))
        shuffled = np.random.default_rng(0).permutation(predicted.reshape(-1))
        dense = generate_case(case_seed(OPTIONS.seed, number), OPTIONS).label
        dices.append(structure_dice(predicted, dense, ORGANS).mean())
        chance = structure_dice(shuffled.reshape(dense.shape), dense, ORGANS)
        chances.append(chance.mean())
    assert len(dices) == 2
    assert np.mean(dices) > 0.3
    assert np.mean(chances) < 0.1
