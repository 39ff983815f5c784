"""What patches of scribbles teach."""

from pathlib import Path

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.training_files import CLASSES, new_state, write_experiment

from hstf.config.training import AugmentationConfig
from hstf.imaging.arrays import write_array
from hstf.imaging.label_values import IGNORED
from hstf.method.objectives.self_training import self_training
from hstf.method.plr.targets import training_target
from hstf.training.batch import Batch
from hstf.training.patches import PatchSource, RawBatch, Region, TrainingCase

SHAPE = (10, 10, 10)


def batch_of(label: np.ndarray, seed: int, **augmentation: object) -> Batch:
    """Return a patch of a labelled case, rotated and deformed.

    Args:
        label: ``(X, Y, Z)`` class indices.
        seed: seed of image and augmentation.
        augmentation: settings of the augmentation.
    """
    source = PatchSource([], [], CLASSES, (8, 8, 8), 1, 0.5, 0.5, seed)
    image = np.random.default_rng(seed).normal(size=(1, *label.shape)).astype(np.float32)
    labels = torch.from_numpy(label.astype(np.int16))
    region = Region(torch.from_numpy(image), labels, CLASSES, ignored=IGNORED in label)
    sections = {"affine_probability": 1.0, "elastic_probability": 1.0} | augmentation
    config = AugmentationConfig(**sections)
    raw = RawBatch((region,), (False,), ("a",))
    return Batch.draw(raw, source, config, torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_batch_keeps_the_class_of_rotated_scribbles(seed: int) -> None:
    """Curves of one class have no other class in the target, and weight only where they are.

    They are in all parts of the region. A single curve may leave the patch when it is deformed.
    """
    label = np.full(SHAPE, IGNORED, np.uint8)
    label[1::4, 1::4, 1:9] = 2
    batch = batch_of(label, seed)
    target = batch.target[0]
    drawn = batch.weight[0, 0] > 1e-3
    assert drawn.any()
    assert batch.weight.max() <= 1 + 1e-6
    torch.testing.assert_close(target[2][drawn], batch.inside[0, 0][drawn], atol=1e-3, rtol=0)
    assert target[:2][:, drawn].max() < 1e-3
    undrawn = batch.weight[0, 0] == 0
    torch.testing.assert_close(target[0][undrawn], target[2][undrawn])


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_batch_of_a_dense_label_has_the_weight_of_its_target(seed: int) -> None:
    label = np.random.default_rng(seed).integers(0, CLASSES, SHAPE).astype(np.uint8)
    batch = batch_of(label, seed)
    torch.testing.assert_close(batch.target.sum(1, keepdim=True), batch.weight)


def test_corrected_scribbles_keep_their_class_whatever_the_other_patch_is(tmp_path: Path) -> None:
    """The target of a corrected pseudo-label has probabilities; its ignored voxels weigh 0."""
    scribbles = np.full(SHAPE, IGNORED, np.uint8)
    scribbles[1::4, 1::4, 1:9] = 2
    full = np.full(SHAPE, 255, np.uint8)
    write_array(tmp_path / "image.b2nd", np.ones((1, *SHAPE), np.float16), 8)
    write_array(tmp_path / "target.b2nd", training_target(scribbles, full, CLASSES, None), 8)
    corrected = TrainingCase(
        "corrected", tmp_path / "image.b2nd", tmp_path / "target.b2nd", None, pseudo=False
    )
    region = corrected.region(np.zeros(3, int), SHAPE, CLASSES)
    dense = Region(region.image, torch.zeros(SHAPE, dtype=torch.int16), CLASSES, ignored=False)
    sparse = Region(
        region.image, torch.from_numpy(scribbles.astype(np.int16)), CLASSES, ignored=True
    )
    source = PatchSource([], [], CLASSES, (8, 8, 8), 2, 0.5, 0.5, 0)
    config = AugmentationConfig(affine_probability=1.0, elastic_probability=1.0)
    targets = []
    for other in (dense, sparse):
        raw = RawBatch((region, other), (False, False), ("corrected", "other"))
        batch = Batch.draw(raw, source, config, torch.Generator().manual_seed(0))
        drawn = batch.weight[0, 0] > 0.01
        assert drawn.any()
        assert batch.target[0, :2][:, drawn].max() < 0.01
        targets.append(batch.target[0])
    torch.testing.assert_close(*targets)


def test_self_training_uses_ignored_voxels_for_consistency_only(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    state = new_state(config)
    label = np.full(SHAPE, IGNORED, np.uint8)
    batch = batch_of(label, 0, affine_probability=0.0, elastic_probability=0.0)
    assert float(batch.inside.min()) > 0.9
    assert not batch.weight.any()
    terms = self_training(config)(state, batch)
    assert float(terms["segmentation"].detach()) == 0
    assert float(terms["csc_predictions"].detach()) > 0
    sum(terms.values()).backward()  # type: ignore[union-attr]
    gradients = [weights.grad for weights in state.network.parameters()]
    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)
