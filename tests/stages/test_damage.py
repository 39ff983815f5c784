"""Whoever reads a file checks it: one flipped bit in any file of an experiment is noticed.

A stage that is run again skips what is up to date and then reads nothing. Its results are removed
first, so that it reads its files.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.damage import flip_bit
from support.evaluation_files import evaluate_shard, summarise_round
from support.finished_experiment import TEST, UNLABELLED, finish_experiment
from support.stages import (
    calibrate,
    export,
    labels,
    learn_anatomy,
    merge_labels,
    merge_refined,
    refine,
    student,
    teacher,
    warmup,
)

from hstf.commands.predict import predict
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.runtime.errors import HstfError

Reader = Callable[[Config], object]


def train_fold(config: Config) -> None:
    shutil.rmtree(Layout.of(config).training_state(0, "fold_0"))
    warmup(config, "fold_0")


def train_student(config: Config) -> None:
    shutil.rmtree(Layout.of(config).training_state(1, "seed_0"))
    student(config, 1, "seed_0")


def predict_unlabelled(config: Config) -> None:
    shutil.rmtree(Layout.of(config).teacher(1) / ".records")
    teacher(config, 1, UNLABELLED)


def refine_unlabelled(config: Config) -> None:
    shutil.rmtree(Layout.of(config).pseudo_labels(1) / ".records")
    refine(config, 1, UNLABELLED)


def label_unlabelled(config: Config) -> None:
    shutil.rmtree(Layout.of(config).labels(1) / ".records")
    labels(config, 1, UNLABELLED)


def evaluate_test(config: Config) -> None:
    shutil.rmtree(Layout.of(config).evaluation(1) / ".records")
    evaluate_shard(config, 1, TEST)


def predict_scan(config: Config) -> None:
    predict(Layout.of(config).export, Path("images"), Path("segmentations"), "cpu", "overwrite")


READERS: list[tuple[Reader, list[str]]] = [
    (
        train_fold,
        [
            "preprocessed/case_*/image.b2nd",
            "preprocessed/case_*/label.b2nd",
            "preprocessed/case_*/locations.npy",
        ],
    ),
    (
        calibrate,
        [
            "round_0/out_of_fold/*/probabilities.b2nd",
            "round_0/out_of_fold/*/uncertainty.b2nd",
            "round_0/out_of_fold/*/agreement.json",
            "preprocessed/case_003/label.b2nd",
            "preprocessed/case_003/geometry.json",
        ],
    ),
    (
        predict_unlabelled,
        ["round_0/model/seed_0/weights.pt", "preprocessed/case_007/image.b2nd"],
    ),
    (
        refine_unlabelled,
        [
            "round_1/teacher/case_007/probabilities.b2nd",
            "round_1/teacher/case_007/uncertainty.b2nd",
            "round_1/teacher/case_007/agreement.json",
            "preprocessed/case_007/geometry.json",
            "preprocessed/case_007/image.b2nd",
        ],
    ),
    (lambda config: merge_refined(config, 1), ["round_1/pseudo_labels/case_007.lesions.csv"]),
    (
        label_unlabelled,
        [
            "preprocessed/case_007/geometry.json",
            "round_1/pseudo_labels/case_007.nii.gz",
            "round_1/pseudo_labels/case_007.weight.nii.gz",
            "round_1/pseudo_labels/case_007.target.b2nd",
        ],
    ),
    (
        train_student,
        [
            "round_0/model/seed_0/weights.pt",
            "preprocessed/case_*/image.b2nd",
            "preprocessed/case_*/label.b2nd",
            "round_1/labels/*/target.b2nd",
            "round_1/labels/*/locations.npy",
            "round_1/labels/case_007.nii.gz",
            "round_1/labels/case_007.weight.nii.gz",
        ],
    ),
    (
        evaluate_test,
        [
            "round_1/model/seed_0/weights.pt",
            "../../images/case_005.nii.gz",
            "../../labels/case_005.nii.gz",
        ],
    ),
    (
        lambda config: summarise_round(config, 1),
        [
            "round_1/evaluation/scores/case_005.json",
            "round_1/evaluation/predictions/case_005.nii.gz",
            "round_1/pseudo_labels/case_007.nii.gz",
            "round_1/pseudo_labels/case_007.weight.nii.gz",
            "../../labels/case_007.nii.gz",
        ],
    ),
    (export, ["round_1/model/seed_0/weights.pt"]),
    (predict_scan, ["export/members/seed_0.pt"]),
]
FLIPS = [(reader, pattern) for reader, patterns in READERS for pattern in patterns]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """Return a finished experiment with paths relative to its folder."""
    folder = tmp_path_factory.mktemp("finished")
    before = Path.cwd()
    os.chdir(folder)
    try:
        return finish_experiment(folder), folder
    finally:
        os.chdir(before)


@pytest.fixture
def experiment(
    finished: tuple[Config, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Config]:
    """Return a copy of the finished experiment, in the current folder."""
    config, folder = finished
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield config
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(("read", "pattern"), FLIPS, ids=[pattern for _, pattern in FLIPS])
def test_reader_refuses_a_file_with_a_flipped_bit(
    experiment: Config, read: Reader, pattern: str
) -> None:
    root = Layout.of(experiment).root
    paths = sorted(root.glob(pattern))
    assert paths
    for path in paths:
        flip_bit(path)
    with pytest.raises(HstfError) as caught:
        read(experiment)
    names = [os.path.normpath(path) for path in paths]
    assert any(name in str(caught.value) for name in names)


TABLES: list[tuple[Reader, str]] = [
    (train_fold, "preprocessed/labelled_0.csv"),
    (calibrate, "preprocessed/labelled_0.csv"),
    (calibrate, "round_0/out_of_fold/fold_1.csv"),
    (learn_anatomy, "round_0/out_of_fold/fold_0.csv"),
    (predict_unlabelled, "preprocessed/unlabelled_0.csv"),
    (refine_unlabelled, "preprocessed/unlabelled_0.csv"),
    (refine_unlabelled, "round_1/teacher/unlabelled_0.csv"),
    (lambda config: merge_refined(config, 1), "round_1/pseudo_labels/unlabelled_0.csv"),
    (label_unlabelled, "round_1/pseudo_labels/unlabelled_0.csv"),
    (label_unlabelled, "round_1/refine.csv"),
    (label_unlabelled, "preprocessed/unlabelled_0.csv"),
    (lambda config: merge_labels(config, 1), "round_1/labels/unlabelled_0.csv"),
    (train_student, "round_1/labels.csv"),
    (train_student, "preprocessed/unlabelled_0.csv"),
    (lambda config: summarise_round(config, 1), "round_1/evaluation/test_0.csv"),
    (lambda config: summarise_round(config, 1), "round_1/refine.csv"),
    (lambda config: summarise_round(config, 1), "round_1/pseudo_labels/unlabelled_0.csv"),
    (export, "round_1/labels.csv"),
]


@pytest.mark.parametrize("kept", ["header", "all but the last case"])
@pytest.mark.parametrize(
    ("read", "name"), TABLES, ids=[f"{number}-{table[1]}" for number, table in enumerate(TABLES)]
)
def test_reader_refuses_a_table_without_all_cases(
    experiment: Config, read: Reader, name: str, kept: str
) -> None:
    table = Layout.of(experiment).root / name
    lines = table.read_text().splitlines(keepends=True)
    last = lines[-1].partition(",")[0]
    table.write_text("".join(lines[:1] if kept == "header" else lines[:-1]))
    with pytest.raises(HstfError, match=rf"(?s){table.parent.name}.*{last}: is missing"):
        read(experiment)
