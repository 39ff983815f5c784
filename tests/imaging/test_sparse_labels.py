"""Scribbles: what is learned from a few labelled voxels among ignored ones."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import plan, preprocess, warmup
from support.training_files import CLASSES, new_state, write_experiment

from hstf.config.load import resolve_config
from hstf.config.training import AugmentationConfig
from hstf.datasets.phantom.dataset import case_seed, write_dataset
from hstf.datasets.phantom.options import PHANTOM_LABELS, PhantomOptions
from hstf.datasets.phantom.scan import generate_case
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.imaging.sparse_labels import is_sparse, unknown_structures
from hstf.method.objectives.self_training import self_training
from hstf.scoring.metrics import structure_dice
from hstf.training.batch import Batch
from hstf.training.patches import PatchSource, RawBatch


def test_more_than_half_ignored_is_sparse() -> None:
    label = np.array([0, 1, 255, 255], np.uint8)
    assert not is_sparse(label) and not unknown_structures(label, {"a": (1,), "b": (2,)}).any()
    label[0] = 255
    assert is_sparse(label)
    assert unknown_structures(label, {"a": (1,), "b": (2,), "ab": (1, 2)}).tolist() == [
        False,
        True,
        False,
    ]


def batch_of(label: np.ndarray, seed: int, **augmentation: object) -> Batch:
    """A patch of a labelled case, turned and deformed."""
    source = PatchSource([], [], CLASSES, (8, 8, 8), 1, 0.5, 0.5, seed)
    one_hot = (label == np.arange(CLASSES).reshape(-1, 1, 1, 1)).astype(np.float32)
    one_hot[:, label == 255] = 1 / CLASSES
    image = np.random.default_rng(seed).normal(size=(1, *label.shape)).astype(np.float32)
    region = np.concatenate([image, one_hot, (label != 255)[None].astype(np.float32)])
    config = AugmentationConfig(
        **({"affine_probability": 1.0, "elastic_probability": 1.0} | augmentation)
    )
    raw = RawBatch(torch.from_numpy(region)[None], torch.tensor([False]), ("a",))
    return Batch.draw(raw, source, config, torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_turned_scribbles_keep_their_class(seed: int) -> None:
    """A curve of one class has no other class in its target, wherever interpolation puts it, and counts where it is."""
    label = np.full((10, 10, 10), 255, np.uint8)
    label[5, 4, 1:9] = 2
    batch = batch_of(label, seed)
    drawn = batch.weight[0, 0] > 1e-3
    assert drawn.any() and batch.weight.max() <= 1 + 1e-6
    torch.testing.assert_close(
        batch.target[0, 2][drawn], batch.inside[0, 0][drawn], atol=1e-3, rtol=0
    )
    assert batch.target[0, :2][:, drawn].max() < 1e-3
    undrawn = batch.weight[0, 0] == 0
    torch.testing.assert_close(batch.target[0, 0][undrawn], batch.target[0, 2][undrawn])


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_targets_of_dense_labels_are_as_they_were_interpolated(seed: int) -> None:
    label = np.random.default_rng(seed).integers(0, CLASSES, (10, 10, 10)).astype(np.uint8)
    batch = batch_of(label, seed)
    torch.testing.assert_close(batch.target.sum(1, keepdim=True), batch.weight)


def test_ignored_voxels_teach_consistency_and_no_class(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    state = new_state(config)
    batch = batch_of(
        np.full((10, 10, 10), 255, np.uint8), 0, affine_probability=0.0, elastic_probability=0.0
    )
    assert float(batch.inside.min()) > 0.9 and not batch.weight.any()
    terms = self_training(config)(state, batch)
    assert float(terms["segmentation"].detach()) == 0
    assert float(terms["csc_predictions"].detach()) > 0
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in state.network.parameters())


def test_scribbles_of_phantoms_are_learned_from(tmp_path: Path) -> None:
    """Out of fold, against dense labels that no stage has seen, and against the same voxels anywhere."""
    options = PhantomOptions(
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
    config = resolve_config({
        "experiment": "e", "output": str(tmp_path / "results"), "cases": str(write_dataset(tmp_path, options)),
        "labels": {name: value for name, value in PHANTOM_LABELS.items() if name != "lesion"} | {"ignore": 255},
        "device": "cpu", "preprocess": {"workers": 1}, "teacher": {"scales": [1.0], "flip_axes": []},
        "plan": {"patch_size": [24, 24, 24], "batch_size": 2, "base_channels": 8, "stages": 3},
        "network": {"name": "cnn"},
        "warmup": {
            "folds": 2, "steps": 60, "warmup_steps": 4, "learning_rate": 0.02, "augmentation": {"flip_axes": []},
        },
    })  # fmt: skip
    plan(config)
    preprocess(config, "labelled_0")
    warmup(config, "fold_0")
    dices = []
    for number, case in enumerate(read_cases(config).of(Split.LABELLED)):
        folder = Layout.of(config).out_of_fold / case.case_id
        if folder.is_dir():
            predicted = read_array(folder / "probabilities.b2nd").argmax(axis=0).astype(np.uint8)
            assert is_sparse(
                read_array(Layout.of(config).preprocessed / case.case_id / "label.b2nd")
            )
            dense = generate_case(case_seed(options.seed, number), options).label
            anywhere = (
                np.random.default_rng(0).permutation(predicted.reshape(-1)).reshape(predicted.shape)
            )
            organs = {"liver": (1,), "spleen": (2,), "kidney": (3,)}
            dices.append(
                [structure_dice(label, dense, organs).mean() for label in (predicted, anywhere)]
            )
    found, chance = np.mean(dices, axis=0)
    assert len(dices) == 2 and found > 0.3 and chance < 0.1, dices
