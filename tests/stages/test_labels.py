"""The labels stage on files: a person's word comes first, and targets hold what the student should learn."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.pseudo_label_files import AFFINE, CASES, SHAPE, SHARD, make_experiment, write_verdicts
from support.stages import labels, merge_labels

from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.tables import LABELS
from hstf.imaging.arrays import read_array
from hstf.imaging.volumes import read_label
from hstf.runtime.errors import HstfError
from hstf.runtime.shards import read_shard
from hstf.stages.labels import training_target


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = make_experiment(tmp_path, refine={"accepted_fraction": [1.0]})
    write_verdicts(config)
    return config


def correct(
    config: Config, case_id: str, data: np.ndarray, number: int = 1, affine: np.ndarray = AFFINE
) -> Path:
    path = Layout.of(config).override(number, case_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data.astype(np.uint8), affine), path)
    return path


def decide(config: Config, *lines: str) -> None:
    path = Layout.of(config).decisions
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["round,case_id,action,reviewer,date,reason", *lines, ""]))


def rows(config: Config) -> dict[str, dict[str, Any]]:
    return read_shard(LABELS, Layout.of(config).labels_shard_table(1, SHARD))


def block() -> np.ndarray:
    data = np.zeros(SHAPE)
    data[8:20, 6:18, 4:12] = 3
    data[0:4] = 9
    return data


def test_where_label_and_probabilities_differ_two_classes_change_places() -> None:
    label = np.array([[[0, 1, 1, 255]]], np.uint8)
    probabilities = np.array([[[[200, 90, 200, 255]]], [[[55, 165, 55, 0]]]], np.uint8)
    weight = np.array([[[250, 100, 30, 40]]], np.uint8)
    target = training_target(label, weight, 2, probabilities)
    assert target[:, 0, 0, 0].tolist() == [200, 55, 250]
    assert target[:, 0, 0, 1].tolist() == [90, 165, 100]
    assert target[:, 0, 0, 2].tolist() == [55, 200, 30]
    assert target[:, 0, 0, 3].tolist() == [128, 128, 0]
    hard = training_target(label, weight, 2, None)
    assert hard[:2, 0, 0, :3].tolist() == [[255, 0, 0], [0, 255, 255]]


@given(st.integers(0, 500), st.sampled_from([2, 6]))
@settings(max_examples=30, deadline=None)
def test_the_label_is_a_most_likely_class_of_its_target(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(classes), (3, 4, 5)).transpose(3, 0, 1, 2)
    probabilities = np.floor(255 * p).astype(np.uint8)
    label = rng.integers(0, classes, (3, 4, 5)).astype(np.uint8)
    target = training_target(label, np.full(label.shape, 9, np.uint8), classes, probabilities)
    np.testing.assert_array_equal(
        np.take_along_axis(target, label[None], 0)[0], target[:classes].max(axis=0)
    )
    np.testing.assert_array_equal(np.sort(target[:classes], axis=0), np.sort(probabilities, axis=0))


def test_automatic_labels_are_used_and_rejected_ones_are_not(config: Config) -> None:
    assert labels(config, 1, SHARD) == 2
    layout = Layout.of(config)
    good, bad = (rows(config)[case_id] for case_id in CASES)
    assert (good["source"], good["round"], good["predicted_dice"]) == ("automatic", 1, 0.95)
    assert (bad["source"], bad["files"], bad["sha256"]) == ("rejected", [], [])
    assert not (layout.labels(1) / "bad.nii.gz").exists()
    for name in ("good.nii.gz", "good.weight.nii.gz"):
        pseudo, used = (
            read_label(folder / name).data for folder in (layout.pseudo_labels(1), layout.labels(1))
        )
        np.testing.assert_array_equal(pseudo, used)
    target = read_array(layout.labels(1) / "good" / "target.b2nd")
    centre = tuple(n // 2 for n in target.shape[1:])
    assert target[:2, centre[0], centre[1], centre[2]].tolist() == [60, 195]  # the filled hole
    beside = target[:, centre[0] + 2, centre[1], centre[2]]
    assert beside[:2].tolist() == [25, 230] and beside[2] > 150  # the teacher's probability
    locations = np.load(layout.labels(1) / "good" / "locations.npy")
    assert locations.dtype == np.int32 and set(locations[:, 0]) == {1}
    assert np.all(target[1][tuple(locations[:, 1:].T)] > 127)


def test_a_corrected_label_replaces_even_a_rejected_case(config: Config) -> None:
    correct(config, "bad", block())
    decide(config, '1,bad,replace,Dr. Mo,2026-01-02,"leak, apex"')
    labels(config, 1, SHARD)
    row = rows(config)["bad"]
    assert (row["source"], row["reviewer"], row["reason"]) == ("corrected", "Dr. Mo", "leak, apex")
    assert row["predicted_dice"] is None
    folder = Layout.of(config).labels(1)
    np.testing.assert_array_equal(read_label(folder / "bad.nii.gz").data, block())
    weight = read_label(folder / "bad.weight.nii.gz").data
    np.testing.assert_array_equal(weight, np.where(block() == 9, 0, 255))
    target = read_array(folder / "bad" / "target.b2nd")
    ignored = target[2] == 0
    assert ignored.any() and set(np.unique(target[2])) == {0, 255}
    assert (target[:2, ignored] == 128).all(), "nothing of the pseudo-label is left there"
    assert set(np.unique(target[:2, ~ignored])) == {0, 255}


def test_a_scribbled_correction_is_learned_from_where_it_is_scribbled(config: Config) -> None:
    """The grid has 1.5 mm for the file's 1 mm and 1.2 mm: every curve stays, though it is a voxel wide."""
    data = np.full(SHAPE, 9)
    data[3, 2:20, 5], data[11, 2:20, 6] = 0, 3
    correct(config, "bad", data)
    labels(config, 1, SHARD)
    folder = Layout.of(config).labels(1)
    np.testing.assert_array_equal(read_label(folder / "bad.nii.gz").data, data)
    target = read_array(folder / "bad" / "target.b2nd")
    learned = target[2] == 255
    assert all(12 <= np.sum(learned & (target[k] == 255)) <= 13 for k in range(2)), "18 mm each"
    assert set(np.load(folder / "bad" / "locations.npy")[:, 0]) == {0, 1}


def test_a_file_alone_is_a_persons_word(config: Config) -> None:
    correct(config, "good", block())
    labels(config, 1, SHARD)
    assert (rows(config)["good"]["source"], rows(config)["good"]["reviewer"]) == ("corrected", "")


def test_accept_and_reject(config: Config) -> None:
    decide(config, "1,bad,accept,Mo,,fine", "1,good,reject,Mo,,motion")
    labels(config, 1, SHARD)
    good, bad = (rows(config)[case_id] for case_id in CASES)
    assert (bad["source"], bad["reason"], bad["predicted_dice"]) == ("accepted", "fine", 0.3)
    assert (Layout.of(config).labels(1) / "bad" / "target.b2nd").is_file()
    assert (good["source"], good["files"]) == ("rejected", [])


def test_a_change_redoes_its_case_alone_and_removes_what_is_no_longer_used(config: Config) -> None:
    labels(config, 1, SHARD)
    assert labels(config, 1, SHARD) == 0
    decide(config, "1,good,reject,Mo,,motion")
    assert labels(config, 1, SHARD) == 1
    assert not (Layout.of(config).labels(1) / "good" / "target.b2nd").exists()
    decide(config)
    correct(config, "bad", block())
    assert labels(config, 1, SHARD) == 2
    correct(config, "bad", np.where(block() == 9, 0, block()))
    assert labels(config, 1, SHARD) == 1


def test_hard_targets(config: Config) -> None:
    hard = config.model_copy(
        update={"student": config.student.model_copy(update={"soft_targets": False})}
    )
    labels(config, 1, SHARD)
    assert labels(hard, 1, SHARD) == 2
    assert set(np.unique(read_array(Layout.of(config).labels(1) / "good" / "target.b2nd")[:2])) == {
        0,
        255,
    }


def test_corrected_labels_are_checked_all_at_once(config: Config) -> None:
    shifted = AFFINE.copy()
    shifted[0, 3] += 5
    correct(config, "good", np.full(SHAPE, 7), affine=shifted)
    correct(config, "bad", np.zeros((5, 5, 5)))
    with pytest.raises(HstfError) as error:
        labels(config, 1, SHARD)
    for part in (
        "3 problems",
        "has the values 7, expected only 0, 3, 9",
        "up to 5 mm away",
        "has shape (5, 5, 5), the image",
    ):
        assert part in str(error.value), part


def test_an_edited_pseudo_label_is_refused_with_the_way_to_an_override(config: Config) -> None:
    path = Layout.of(config).pseudo_labels(1) / "good.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), path)
    with pytest.raises(HstfError, match=r"good\.nii\.gz was changed .* overrides folder"):
        labels(config, 1, SHARD)


def test_joined_table(config: Config) -> None:
    labels(config, 1, SHARD)
    merge_labels(config, 1)
    good, bad = LABELS.records(Layout.of(config).labels_table(1))
    assert good["files"][2] == "labels/good/target.b2nd"
    assert list(good) == [
        "case_id", "round", "source", "reviewer", "reason", "predicted_dice", "weight_mean", "files", "sha256"
    ]  # fmt: skip
    assert bad["files"] == []
