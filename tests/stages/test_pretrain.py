"""The stage ``pretrain``: what it reads, what it writes, and what starts from it."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.stages import student, warmup
from support.training_files import TRAINING, write_experiment, write_labels

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.experiment.provenance import provenance
from hstf.experiment.reuse import check_reuse
from hstf.models.registry import load_facts, load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, sha256_file
from hstf.stages import pretrain as stage
from hstf.training import member as member_module
from hstf.training.patches import TrainingCase
from hstf.training.state import TrainingState

TASKS = ("masked", "denoise", "contrastive", "fusion")


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def experiment(folder: Path, task: str, **keys: Any) -> tuple[Config, Path]:
    """Write a preprocessed experiment with pre-training."""
    section = {**TRAINING, "task": task, "contrastive": {"pairs": 4, "crop": [4, 4, 4]}}
    section |= keys.pop("pretrain", {})
    return write_experiment(folder, pretrain=section, **keys)


def pretrain(config: Config) -> None:
    stage.pretrain(StageContext.of(config, "pretrain"))


@pytest.mark.parametrize("task", TASKS)
def test_pretrain_resumed_ends_in_the_same_bytes_as_uninterrupted(
    tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config, path = experiment(tmp_path / "whole", task)
    assert main(["pretrain", "--config", str(path)]) == 0
    whole = Layout.of(config)
    network, meta = load_network(whole.pretrained_weights)
    assert (meta["task"], meta["steps"]) == (task, 6)
    assert [row["step"] for row in read_csv(whole.pretraining_history)] == ["4", "6"]
    with Image.open(whole.pretraining_examples) as image:
        assert min(image.size) > 300
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape[1] == (5 if task == "fusion" else 1)

    config, path = experiment(tmp_path / "parts", task)
    parts = Layout.of(config)
    real = stage.train

    def interrupted(state: TrainingState, source: Any, objective: Any, *arguments: Any) -> None:
        def stop(s: TrainingState, batch: Any) -> Any:
            if s.step == 3:
                raise KeyboardInterrupt
            return objective(s, batch)

        real(state, source, stop, *arguments)

    monkeypatch.setattr(stage, "train", interrupted)
    assert main(["pretrain", "--config", str(path)]) == 130
    assert not parts.pretrained_weights.exists()
    monkeypatch.setattr(stage, "train", real)
    capsys.readouterr()
    assert main(["pretrain", "--config", str(path)]) == 0
    assert "images of 7 cases, 6 steps on cpu; resumes at step 3" in capsys.readouterr().out
    for one, other in (
        (whole.pretrained_weights, parts.pretrained_weights),
        (whole.pretraining_history, parts.pretraining_history),
        (whole.pretraining_examples, parts.pretraining_examples),
    ):
        assert sha256_file(one) == sha256_file(other), one.name


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, (0.0, 0.0, 30.0)), ({"rotation_degrees": [5, 5, 5]}, (5.0, 5.0, 5.0))],
)
def test_prepare_takes_the_augmentation_of_the_warmup_without_an_own_one(
    tmp_path: Path, own: dict[str, Any], expected: tuple[float, float, float]
) -> None:
    """Thick slices stay slices in both trainings."""
    section = {"augmentation": own} if own else {}
    warmup = {"augmentation": {"rotation_degrees": [0, 0, 30]}}
    config, _ = experiment(tmp_path, "masked", pretrain=section, warmup=warmup)
    work = stage.prepare(StageContext.of(config, "pretrain"))
    assert tuple(work.training.augmentation.rotation_degrees) == expected


def test_pretrain_reads_images_and_no_label(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = experiment(tmp_path, "masked")
    layout = Layout.of(config)
    labels = [*layout.preprocessed.glob("*/label.b2nd"), *layout.preprocessed.glob("*/loc*.npy")]
    assert len(labels) == 8
    for path in labels:
        path.unlink()
    read = set()
    region = TrainingCase.region

    def watched(case: TrainingCase, *arguments: Any) -> Any:
        assert case.target_path is None
        read.add(case.case_id)
        return region(case, *arguments)

    monkeypatch.setattr(TrainingCase, "region", watched)
    pretrain(config)
    sheet = read_cases(config)
    everyone = {case.case_id for case in sheet.cases if case.split.is_training}
    assert set(load_facts(layout.pretrained_weights)["images_of"]) == everyone == read


def test_pretrain_reads_no_validation_or_test_case(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, "masked")
    sheet = tmp_path / "cases.csv"
    rows = "".join(f"{n}_0,x.nii.gz,x.nii.gz,{n},{n}\n" for n in ("validation", "test"))
    sheet.write_text(sheet.read_text() + rows)
    pretrain(config)
    facts = load_facts(Layout.of(config).pretrained_weights)
    names = {case.case_id for case in read_cases(config).of(Split.TEST)}
    assert names == {"test_0"}
    assert not {"validation_0", "test_0"} & set(facts["images_of"])


def test_pretrain_does_not_depend_on_labels(tmp_path: Path) -> None:
    digests = []
    for name, labels in (("one", {"liver": 1}), ("two", {"liver": 2, "spleen": 7})):
        config, _ = experiment(tmp_path / name, "masked", pretrain={"steps": 1})
        config = config.model_copy(update={"labels": {"background": 0, **labels}})
        pretrain(config)
        digests.append(sha256_file(Layout.of(config).pretrained_weights))
    assert digests[0] == digests[1]


def test_pretrain_refuses_to_run_without_a_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, path = experiment(tmp_path, "none")
    assert main(["pretrain", "--config", str(path)]) == 1
    assert "pretrain.task is none: name a task" in capsys.readouterr().err


# ---- what starts from it


def test_trainings_from_scratch_start_from_the_pre_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {"warmup": {"steps": 1, "seeds": 1, "seed_start": "fold"}, "student": {"steps": 1}}
    config, _ = experiment(tmp_path, "masked", **keys)
    layout = Layout.of(config)
    pretrain(config)
    source, _ = load_network(layout.pretrained_weights)
    firsts = {}
    start = TrainingState.start

    def watched(network: Any, training: Any, taken: Any = (), rate: float = 1.0) -> Any:
        firsts[len(firsts)] = (network.state_dict()["encoder.0.first.weight"].clone(), taken, rate)
        return start(network, training, taken, rate)

    monkeypatch.setattr(member_module.TrainingState, "start", watched)
    capsys.readouterr()
    warmup(config, "fold_0")
    text = capsys.readouterr().out
    assert f"% of the weights) are taken from {layout.pretrained_weights}" in text
    assert "not taken, output layers (2): heads.0.weight, heads.0.bias" in text
    assert "warning" not in text
    warmup(config, "seed_0")
    assert "are taken from" not in capsys.readouterr().out, "it starts from the fold"
    write_labels(config, 1, ["u_0", "u_1"], rejected=["u_2"])
    student(config, 1, "seed_0")
    assert "are taken from" in capsys.readouterr().out
    expected = source.state_dict()["encoder.0.first.weight"]
    assert firsts[0][0].equal(expected) and firsts[2][0].equal(expected)
    assert not firsts[1][0].equal(expected)
    assert "encoder.0.first.weight" in firsts[0][1]
    assert "heads.0.weight" not in firsts[0][1]
    assert firsts[1][1] == []


def test_trainings_start_from_the_weights_of_another_experiment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = write_experiment(tmp_path / "first", warmup={"steps": 1})
    warmup(first, "fold_0")
    weights = Layout.of(first).weights(0, "fold_0")
    network = {"start": str(weights), "start_rate": 0.0}
    warmed = {"steps": 2, "ema_decay": 0.0}
    config, _ = write_experiment(tmp_path / "second", network=network, warmup=warmed)
    capsys.readouterr()
    warmup(config, "fold_1")
    text = capsys.readouterr().out
    assert f"are taken from {weights}" in text
    assert f"start: warning: {weights} was trained on the labels of " in text
    made = provenance(config)
    assert made.initial_weights is not None
    assert made.initial_weights.sha256 == sha256_file(weights)
    theirs = load_network(weights)[0].state_dict()
    ours = load_network(Layout.of(config).weights(0, "fold_1"))[0].state_dict()
    changed = {name for name in ours if not ours[name].equal(theirs[name])}
    assert changed == {"heads.0.weight", "heads.0.bias"}, "start_rate 0 keeps what was taken"


def test_configuration_refuses_two_starts() -> None:
    both = {"network": {"start": "weights.pt"}, "pretrain": {"task": "masked"}}
    with pytest.raises(HstfError, match=r"a training has one start: remove network\.start"):
        resolve_config(both)
    with pytest.raises(HstfError, match="start_keys has no effect without start"):
        resolve_config({"network": {"start_keys": {"a": "b"}}})


def test_methods_of_pre_training_differ_by_the_task_and_the_steps() -> None:
    keys = {"pretrain": {"steps": 70}, "warmup": {"steps": 100, "seed_steps": 40}}
    longer = resolve_config({**keys, "method": "supervised_longer"})
    again = resolve_config(longer.model_dump(mode="json"))
    for config in (longer, again):
        assert config.pretrain.task == "none"
        assert config.warmup.of_member("fold_0").steps == 170
        assert config.warmup.of_member("seed_0").steps == 40
    for task in TASKS:
        supervised = resolve_config({**keys, "method": f"pretrain_{task}"})
        hstf = resolve_config({**keys, "method": f"pretrain_{task}_hstf"})
        assert supervised.pretrain.task == hstf.pretrain.task == task
        assert supervised.student.learns_from == "labels"
        assert hstf.student.learns_from == "pseudo_labels"
        assert supervised.warmup == hstf.warmup


def test_reused_warm_up_needs_the_same_pre_training(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, "masked")
    layout = Layout.of(config)
    layout.config.write_text((tmp_path / "config.yaml").read_text())
    root = str(layout.root)
    content = config.model_dump(mode="json")
    content |= {"experiment": "next", "reuse": {"data": root, "warmup": root}}
    check_reuse(resolve_config(content))
    content["pretrain"]["task"] = "fusion"
    with pytest.raises(HstfError, match=r"reuse.warmup: pretrain is .*masked"):
        check_reuse(resolve_config(content))
    with pytest.raises(HstfError, match="pretrain: this experiment reuses the results"):
        pretrain(resolve_config(content))
