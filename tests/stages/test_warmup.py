"""The stage ``warmup``: folds of whole patients, training, and out-of-fold predictions."""

import os
from collections import Counter
from pathlib import Path

import pytest
import torch
from support.stages import held_out_cases, predict_fold, warmup
from support.training_files import write_experiment

from hstf.cli import main
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.folds import refuse_too_many_folds
from hstf.experiment.layout import Layout
from hstf.experiment.plan import Plan
from hstf.models.registry import load_network
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, sha256_file
from hstf.training import member as member_module
from hstf.training.patches import PatchSource, TrainingCase


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


@pytest.mark.parametrize(
    ("groups", "folds"), [("abcd", 2), ("aabbbcdde", 3), ("aaabc", 3), ("abcdefg", 7)]
)
def test_held_out_cases_holds_out_each_patient_once(
    tmp_path: Path, groups: str, folds: int
) -> None:
    config, _ = write_experiment(
        tmp_path, groups, unlabelled=0, warmup={"folds": folds, "seeds": 1}
    )
    labelled = read_cases(config).of(Split.LABELLED)
    parts = [held_out_cases(config, f"fold_{k}", labelled) for k in range(folds)]
    assert Counter(case.case_id for part in parts for case in part) == Counter(
        c.case_id for c in labelled
    )
    patients = []
    for part in parts:
        patients.append({case.group for case in part})
    assert sum(map(len, patients)) == len(set(groups)), "a patient is in two folds"
    assert max(map(len, patients)) - min(map(len, patients)) <= 1
    assert held_out_cases(config, "seed_0", labelled) == []
    assert parts == [
        held_out_cases(config, f"fold_{k}", labelled[::-1])[::-1] for k in range(folds)
    ]


def test_held_out_cases_holds_out_the_scans_of_a_single_patient(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path, "aa", unlabelled=0)
    labelled = read_cases(config).of(Split.LABELLED)
    parts = [held_out_cases(config, f"fold_{number}", labelled) for number in range(2)]
    assert sorted(case.case_id for part in parts for case in part) == ["l_0", "l_1"]
    assert [len(part) for part in parts] == [1, 1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("aa", "there are 2 labelled scans, all of one patient: .* or set warmup.folds to 2"),
        ("a", "there are 1 labelled scans, all of one patient: label more patients[.]$"),
    ],
)
def test_refuse_too_many_folds_states_a_number_that_is_possible(
    tmp_path: Path, groups: str, message: str
) -> None:
    config, _ = write_experiment(tmp_path, groups, unlabelled=0)
    labelled = read_cases(config).of(Split.LABELLED)
    with pytest.raises(HstfError, match=message):
        refuse_too_many_folds(labelled, 3)


def test_held_out_cases_depends_on_the_seed(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path, "abcdef", unlabelled=0)
    labelled = read_cases(config).of(Split.LABELLED)
    found = set()
    for seed in range(6):
        part = held_out_cases(config.model_copy(update={"seed": seed}), "fold_0", labelled)
        found.add(frozenset(case.case_id for case in part))
    assert len(found) > 1


@pytest.mark.parametrize("member", ["fold_0", "seed_0"])
def test_warmup_refuses_too_few_patients(tmp_path: Path, member: str) -> None:
    config, path = write_experiment(tmp_path, "aab", warmup={"folds": 3, "seeds": 1})
    with pytest.raises(HstfError, match=r"warmup\.folds is 3, but there are 2 labelled patients"):
        warmup(config, member)
    assert main(["warmup", "--config", str(path), "--member", member]) == 1


def test_warmup_refuses_an_unknown_member(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    with pytest.raises(HstfError, match=r"--member fold_2: .* There are fold_0, fold_1\."):
        warmup(config, "fold_2")


def test_warmup_does_not_read_the_fold_that_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of the held-out cases are out of reach while the member learns."""
    config, _ = write_experiment(tmp_path, "aabc")
    layout = Layout.of(config)
    sheet = read_cases(config)
    held_out = {case.case_id for case in held_out_cases(config, "fold_1", sheet.of(Split.LABELLED))}
    sources: list[PatchSource] = []
    read: set[str] = set()
    region = TrainingCase.region
    train = member_module.train

    def hidden(state, source, *arguments):  # type: ignore[no-untyped-def]
        sources.append(source)
        for case_id in held_out:
            (layout.preprocessed / case_id).rename(tmp_path / case_id)
        train(state, source, *arguments)

    def watched(case: TrainingCase, *arguments):  # type: ignore[no-untyped-def]
        read.add(case.case_id)
        return region(case, *arguments)

    monkeypatch.setattr(member_module, "train", hidden)
    monkeypatch.setattr(TrainingCase, "region", watched)
    warmup(config, "fold_1")
    for case_id in held_out:
        (tmp_path / case_id).rename(layout.preprocessed / case_id)
    predict_fold(config, "fold_1")
    everyone = {case.case_id for case in sheet.of(Split.LABELLED)}
    assert {case.case_id for case in sources[0].labelled} == everyone - held_out == read
    assert not sources[0].pseudo
    table = read_csv(layout.out_of_fold_table("fold_1"))
    assert {row["case_id"] for row in table} == held_out
    network, meta = load_network(layout.weights(0, "fold_1"))
    assert set(meta["held_out"]) == held_out
    assert set(meta["trained_on"]) == everyone - held_out
    assert (meta["round"], meta["member"], meta["steps"]) == (0, "fold_1", 6)
    assert [row["step"] for row in read_csv(layout.history(0, "fold_1"))] == ["4", "6"]
    assert network(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_warmup_is_reproducible_for_each_member(tmp_path: Path) -> None:
    keys = {"warmup": {"steps": 2, "folds": 2, "seeds": 2}}
    digests = []
    for name in ("first", "second"):
        config, path = write_experiment(tmp_path / name, **keys)
        assert main(["warmup", "--config", str(path), "--member", "seed_0"]) == 0
        digests.append(sha256_file(Layout.of(config).weights(0, "seed_0")))
    warmup(config, "seed_1")
    assert digests[0] == digests[1] != sha256_file(Layout.of(config).weights(0, "seed_1"))


def test_warmup_fine_tunes_a_fold_on_all_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"steps": 4, "folds": 2, "seeds": 2, "seed_start": "fold", "seed_steps": 2}
    config, _ = write_experiment(tmp_path, warmup=keys)
    layout = Layout.of(config)
    starts = []
    initial_network = member_module.initial_network

    def watched(*arguments):  # type: ignore[no-untyped-def]
        starts.append(arguments[-1])
        return initial_network(*arguments)

    monkeypatch.setattr(member_module, "initial_network", watched)
    for member in ("fold_1", "seed_1"):
        warmup(config, member)
    assert starts == [None, layout.weights(0, "fold_1")]
    fold, seed = (load_network(layout.weights(0, name))[1] for name in ("fold_1", "seed_1"))
    everyone = {case.case_id for case in read_cases(config).of(Split.LABELLED)}
    assert set(fold["trained_on"]) < everyone == set(seed["trained_on"])
    assert (fold["steps"], seed["steps"]) == (4, 2)


class Stopped(Exception):
    """Raised in place of a training."""


@pytest.mark.parametrize(
    ("keys", "flips", "turns"),
    [({}, (0, 1), (2,)), ({"flip_axes": [1], "quarter_turns": []}, (1,), ())],
)
def test_warmup_turns_patches_as_planned_unless_keys_are_set(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    keys: dict[str, list[int]],
    flips: tuple[int, ...],
    turns: tuple[int, ...],
) -> None:
    config, _ = write_experiment(tmp_path, warmup={"augmentation": keys})
    path = Layout.of(config).plan
    planned = {"flip_axes": (0, 1), "quarter_turns": (2,)}
    Plan.load(path).model_copy(update=planned).save(path)

    def stop(_state, source, _objective, training, *_):  # type: ignore[no-untyped-def]
        assert training.augmentation.flip_axes == flips
        assert training.augmentation.quarter_turns == source.quarter_turns == turns
        raise Stopped

    monkeypatch.setattr(member_module, "train", stop)
    with pytest.raises(Stopped):
        warmup(config, "fold_0")


def test_warmup_without_deep_supervision_keeps_the_coarse_heads(tmp_path: Path) -> None:
    config, _ = write_experiment(
        tmp_path, network={"deep_supervision": False}, warmup={"steps": 2, "seeds": 1}
    )
    layout = Layout.of(config)
    warmup(config, "seed_0")
    assert load_network(layout.weights(0, "seed_0"))[1]["steps"] == 2


def test_warmup_lowers_the_loss_on_easy_scans(tmp_path: Path) -> None:
    keys = {
        "steps": 60,
        "seeds": 1,
        "learning_rate": 1e-2,
        "history_every": 10,
        "checkpoint_seconds": 60,
    }
    config, _ = write_experiment(tmp_path, warmup=keys)
    warmup(config, "seed_0")
    losses = [float(row["loss"]) for row in read_csv(Layout.of(config).history(0, "seed_0"))]
    assert len(losses) == 6
    assert losses[-1] < 0.75 * losses[0]
