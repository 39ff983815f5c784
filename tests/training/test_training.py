"""The training loop, its resumable state, and the training of an ensemble member."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.recovery import Record, recovery
from support.stages import warmup as stage
from support.training_files import (
    CLASSES,
    PLAN,
    SHAPE,
    TRAINING,
    cases_in,
    scan,
    source_of,
    write_experiment,
)
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import StudentConfig, TrainingConfig
from hstf.experiment.context import StageContext
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import write_array
from hstf.method.objectives.supervision import supervised
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.runtime.errors import HstfError
from hstf.runtime.files import read_csv, sha256_file
from hstf.training.augmentations.acquisition import Acquisition
from hstf.training.batch import Batch
from hstf.training.fingerprint import _training_values, training_fingerprint
from hstf.training.initial_weights import initial_network
from hstf.training.loop import (
    Objective,
    compute_gradients,
    learning_rate,
    snapshot_steps,
    train,
)
from hstf.training.losses import pyramid_loss
from hstf.training.member import batch_warnings, member_seed, train_member
from hstf.training.patches import TrainingCase
from hstf.training.state import Averages, TrainingState, parameter_groups, update_ema
from hstf.training.step_values import NORM, StepValues, Waiting


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def labelled_only(steps: int = 5) -> tuple[TrainingConfig, Objective]:
    def objective(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        return {
            "supervised": pyramid_loss(
                state.network.pyramid(batch.strong()).logits, batch.target, batch.weight
            )
        }

    return TrainingConfig(**{**TRAINING, "steps": steps}), objective


def new_state(config: TrainingConfig) -> TrainingState:
    torch.manual_seed(0)
    spec = NetworkSpec(
        "hybrid", 1, CLASSES, PLAN.channels, PLAN.strides, PLAN.kernels, PLAN.spacing, 1, 1
    )
    return TrainingState.start(HybridNet(spec), config)


# ---- schedule, EMA, averages


def test_learning_rate_grows_and_then_decays_to_zero() -> None:
    config = TrainingConfig(steps=100, warmup_steps=10, learning_rate=2e-3)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(2e-4)
    assert rates[9] == pytest.approx(2e-3 * 0.91**0.9)
    assert rates[50] == pytest.approx(2e-3 * 0.5**0.9)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 4e-5
    assert learning_rate(0, TrainingConfig(steps=1, warmup_steps=0)) == pytest.approx(1e-3)


def test_update_ema_moves_by_its_decay() -> None:
    ema, network = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    before = ema.weight.detach().clone()
    update_ema(ema, network, 0.75)
    assert torch.allclose(ema.weight, 0.75 * before + 0.25 * network.weight)
    update_ema(ema, network, 0.0)
    assert torch.equal(ema.weight, network.weight)


def test_parameter_groups_decay_kernels_and_matrices_only() -> None:
    config = TrainingConfig(weight_decay=0.3)
    network = new_state(config).network
    decaying, free = parameter_groups(network, config)
    assert (decaying["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in decaying["params"]} == {2, 5}
    assert {p.ndim for p in free["params"]} == {1}
    assert len(decaying["params"]) + len(free["params"]) == len(list(network.parameters()))


def test_averages_compute_means_of_loss_and_terms() -> None:
    averages = Averages()
    averages.add({"loss": 1.0, "a": 1.0})
    averages = Averages(**json.loads(json.dumps(asdict(averages))))
    averages.add({"loss": 3.0, "a": 2.0, "b": 1.0})
    assert averages.pop() == {"loss": 2.0, "a": 1.5, "b": 0.5}
    assert averages.note == "loss 2.000"
    assert averages == Averages()


def test_values_of_a_gpu_are_read_one_step_later() -> None:
    config = TrainingConfig(**{**TRAINING, "steps": 3, "history_every": 1})
    state = new_state(config)
    values = StepValues(state, config)
    for step in range(3):
        numbers = torch.tensor([step + 1.0, math.nan if step == 2 else 1.0])
        values.waiting.append(Waiting(step, ("a", "b"), 0.1, ["loss", NORM], numbers, None))
        values.read(later=1)
    assert [row["step"] for row in state.history] == [1, 2]
    with pytest.raises(HstfError, match=r"not finite at step 2 .*gradient norm nan.* of a, b"):
        values.read()


def test_compute_gradients_clips_their_norm() -> None:
    config = TrainingConfig(gradient_clip=0.5)
    state = new_state(config)
    weight = state.network.heads[0].weight
    norm = compute_gradients(state, 3 * weight.sum(), config)
    assert norm.item() == pytest.approx(3 * math.sqrt(weight.numel()))
    assert weight.grad is not None
    assert weight.grad.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_parameter_groups_give_taken_weights_their_own_rate() -> None:
    config = TrainingConfig(learning_rate=1e-2, weight_decay=0.0)
    network = new_state(config).network
    state = TrainingState.start(network, config, taken=["heads.0.weight"], rate=0.1)
    taken, other = network.heads[0].weight, network.encoder[0].first.weight
    before = taken.detach().clone(), other.detach().clone()
    (taken.sum() + other.sum()).backward()
    state.optimizer.step()
    # The first step of Adam is the learning rate in the direction of the gradient.
    torch.testing.assert_close(before[0] - taken, torch.full_like(taken, 1e-3), rtol=1e-3, atol=0)
    torch.testing.assert_close(before[1] - other, torch.full_like(other, 1e-2), rtol=1e-3, atol=0)


# ---- the loop


def test_train_takes_all_steps_and_records_history(tmp_path: Path) -> None:
    config, objective = labelled_only(6)
    state, source = new_state(config), source_of(cases_in(tmp_path, 2), [])
    train(state, source, objective, config, tmp_path / "state", "x", "test")
    assert state.step == 6
    assert [row["step"] for row in state.history] == [4, 6]
    assert all(row["loss"] == pytest.approx(row["supervised"]) for row in state.history)
    assert state.history[0]["learning_rate"] == pytest.approx(learning_rate(3, config))
    assert not state.ema.training
    assert any(
        not torch.equal(a, b)
        for a, b in zip(state.ema.parameters(), state.network.parameters(), strict=True)
    )


def test_train_lets_the_ema_decay_grow(tmp_path: Path) -> None:
    config, objective = labelled_only(3)
    state, source = new_state(config), source_of(cases_in(tmp_path, 2), [])
    expected = state.ema.heads[0].weight.clone()
    decays = []

    def watched(s: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        nonlocal expected
        if s.step:
            decays.append(min(config.ema_decay, s.step / (s.step + 9)))
            expected = decays[-1] * expected + (1 - decays[-1]) * s.network.heads[0].weight.detach()
            assert torch.allclose(s.ema.heads[0].weight, expected, atol=1e-6)
        return objective(s, batch)

    train(state, source, watched, config, tmp_path / "state", "x", "test")
    assert decays == [1 / 10, 2 / 11]


@pytest.mark.parametrize("broken_part", ["loss", "gradient"])
def test_train_raises_for_a_loss_that_is_not_finite(tmp_path: Path, broken_part: str) -> None:
    config, objective = labelled_only(6)
    state, source = new_state(config), source_of(cases_in(tmp_path, 2), [])

    def broken(s: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        terms = dict(objective(s, batch))
        if s.step == 3 and broken_part == "loss":
            terms["supervised"] = terms["supervised"] * math.nan
        if s.step == 3 and broken_part == "gradient":  # the root of 0 has an infinite slope
            terms["bad"] = (0 * s.network.heads[0].weight).abs().sum().sqrt()
        return terms

    with pytest.raises(
        HstfError, match=r"not finite at step 3 .*batch of l_\d, l_\d.*learning_rate"
    ) as error:
        train(state, source, broken, config, tmp_path / "state", "x", "test")
    assert all(case_id in str(error.value) for case_id in source.batch(3).case_ids)
    kept = new_state(config)
    assert kept.resume(tmp_path / "state", "x") == "resumes at step 3"
    for network in (kept.network, kept.ema, state.network, state.ema):
        assert all(p.isfinite().all() for p in network.parameters())


def test_train_learns_an_easy_scan(tmp_path: Path) -> None:
    config, objective = labelled_only(60)
    config = config.model_copy(
        update={"learning_rate": 1e-2, "checkpoint_seconds": 1e9, "history_every": 10}
    )
    state, source = new_state(config), source_of(cases_in(tmp_path, 2), [])
    train(state, source, objective, config, tmp_path / "state", "x", "test")
    losses = [row["loss"] for row in state.history]
    assert losses[-1] < 0.7 * losses[0]
    image, label = scan("l_1")
    with torch.no_grad():
        found = state.network.eval()(torch.from_numpy(image[None, :, :, :10, :8]).float()).argmax(
            1
        )[0]
    assert (found.numpy() == label[:, :10, :8]).mean() > 0.8


# ---- the state


def test_train_resumed_ends_as_uninterrupted(tmp_path: Path) -> None:
    """It is interrupted twice between two rows of the history, each time after a snapshot."""
    config, objective = labelled_only(9)
    config = config.model_copy(update={"snapshots": 2})
    assert snapshot_steps(config) == [3, 6]
    cases = cases_in(tmp_path, 3)
    whole, source = new_state(config), source_of(cases, [])
    train(whole, source, objective, config, tmp_path / "whole", "x", "test")

    def interrupted(at: int) -> Objective:
        def stop(s: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
            if s.step == at:
                raise KeyboardInterrupt
            return objective(s, batch)

        return stop

    for at in (3, 6):
        parts = new_state(config)
        parts.resume(tmp_path / "parts", "x")
        with pytest.raises(KeyboardInterrupt):
            train(
                parts,
                source_of(cases, []),
                interrupted(at),
                config,
                tmp_path / "parts",
                "x",
                "test",
            )
    last = new_state(config)
    assert last.resume(tmp_path / "parts", "x") == "resumes at step 6"
    train(last, source_of(cases, []), objective, config, tmp_path / "parts", "x", "test")
    assert last.history == whole.history
    for a, b in ((last.network, whole.network), (last.ema, whole.ema)):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert len(last.snapshots) == len(whole.snapshots) == 2
    for one, other in zip(last.snapshots, whole.snapshots, strict=True):
        assert all(torch.equal(weights, other[name]) for name, weights in one.items())
    first, second = (torch.cat([w.flatten() for w in kept.values()]) for kept in last.snapshots)
    assert not first.equal(second), "the snapshots are of different steps"


def test_resume_refuses_a_state_of_other_inputs_or_a_damaged_state(tmp_path: Path) -> None:
    config, _ = labelled_only()
    state = new_state(config)
    assert state.resume(tmp_path, "a") == "starts at step 0"
    state.step = 4
    state.save(tmp_path, "a")
    fresh = new_state(config)
    assert "another configuration" in fresh.resume(tmp_path, "b")
    assert fresh.step == 0
    assert fresh.resume(tmp_path, "a") == "resumes at step 4"
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:1000])
    broken = new_state(config)
    assert "state.pt is damaged" in broken.resume(tmp_path, "a")
    assert broken.step == 0


def test_resume_removes_half_of_a_state_that_a_killed_training_left(tmp_path: Path) -> None:
    config, _ = labelled_only()
    leftover = tmp_path / ".tmp-0123abcd-state.pt"
    leftover.write_bytes(b"half")
    new_state(config).resume(tmp_path, "a")
    assert not leftover.exists()


def test_resume_raises_for_a_state_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user owns the file, or a network disk does not answer: the file is whole."""
    config, _ = labelled_only()
    state = new_state(config)
    state.step = 4
    state.save(tmp_path, "a")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(HstfError, match=r"state\.pt: .*Permission denied.* readable"):
            new_state(config).resume(tmp_path, "a")
    assert new_state(config).resume(tmp_path, "a") == "resumes at step 4"


def test_training_fingerprint_depends_on_inputs_and_configuration(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    cases = cases_in(tmp_path / "cases", 3)

    def fingerprint(
        cases: list[TrainingCase] = cases, config: Config = config, **keys: object
    ) -> str:
        training = config.warmup.model_copy(update=keys)
        return training_fingerprint(config, training, PLAN, source_of(cases, []), None)

    base = fingerprint()
    assert fingerprint() == base
    assert fingerprint(checkpoint_seconds=5) == base
    others = [
        fingerprint(steps=7),
        fingerprint(learning_rate=0.1),
        fingerprint(cases[::-1]),
        fingerprint(cases[:2]),
    ]
    network = config.network.model_copy(update={"dropout": 0.1})
    others.append(fingerprint(config=config.model_copy(update={"network": network})))
    np.save(cases[0].locations_path, np.ones((1, 4), np.int32))
    others.append(fingerprint())
    write_array(cases[0].target_path, np.zeros(SHAPE, np.uint8), 8)
    others.append(fingerprint())
    assert len({base, *others}) == 1 + len(others)


def test_training_values_leave_out_newer_keys_at_their_default() -> None:
    """An interrupted training resumes after an update that adds such a key."""
    assert "fine_tune" not in _training_values(StudentConfig())
    assert _training_values(StudentConfig(fine_tune=0.3))["fine_tune"] == 0.3


def test_training_fingerprint_depends_on_modalities_and_not_on_folders(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    source = source_of(cases_in(tmp_path / "cases", 2), [])
    shutil.copytree(tmp_path / "cases", tmp_path / "moved")
    moved = source_of([_moved(case, tmp_path / "moved") for case in source.labelled], [])
    ultrasound = replace(source, acquisition=Acquisition.of(PLAN, ["us"]))
    base, same, other = (
        training_fingerprint(config, config.warmup, PLAN, used, None)
        for used in (source, moved, ultrasound)
    )
    assert base == same
    assert base != other


def _moved(case: TrainingCase, folder: Path) -> TrainingCase:
    """Return a case with its files in another folder."""
    paths = [folder / path.relative_to(case.image_path.parents[1]) for path in case.files]
    return replace(case, image_path=paths[0], target_path=paths[1], locations_path=paths[2])


# ---- a member


def test_member_seed_differs_between_members(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    seeds = {member_seed(s, r, m) for s in (0, 1) for r in (0, 1) for m in ("fold_0", "seed_0")}
    assert len(seeds) == 8
    first, same, other = (
        initial_network(config, PLAN, seed, None).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("training_key", ["network", "steps"])
def test_train_member_starts_again_after_a_change_of_configuration(
    tmp_path: Path, training_key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = (
        {"network": {"deep_supervision": False}}
        if training_key == "network"
        else {"warmup": {"steps": 5}}
    )
    for name in ("stale", "fresh"):
        config, _ = write_experiment(tmp_path / name, **(changed if name == "fresh" else {}))
        if name == "stale":
            state = new_state(config.warmup)
            state.step = 3
            state.save(Layout.of(config).training_state(0, "seed_0"), "of another configuration")
            config, _ = write_experiment(tmp_path / name, **changed)
        objective = supervised(config)
        cases = cases_in(tmp_path / "cases", 2)
        context = StageContext.of(config, "warmup")
        train_member(context, "seed_0", config.warmup, objective, cases, [])
        assert ("another configuration" in capsys.readouterr().out) == (name == "stale")
    weights = [sha256_file(p) for p in sorted(tmp_path.rglob("seed_0/weights.pt"))]
    assert len(weights) == 2
    assert len(set(weights)) == 1


@pytest.mark.parametrize(
    ("keys", "batch_size", "fraction", "expected"),
    [
        ({}, 2, 0.5, []),
        ({}, 1, 0.25, []),
        ({"mixing": {"probability": 0.5}}, 2, 0.5, []),
        ({"mixing": {"probability": 0.5}}, 1, 0.5, ["patches are not mixed"]),
        ({"augmentation": {"fourier_probability": 0.5}}, 1, 0.5, ["patches are not mixed"]),
        ({}, 2, 0.25, ["labelled_fraction is 0.25, but 0.5 of the patches"]),
        ({}, 4, 1.0, ["labelled_fraction is 1, but 0.75 of the patches"]),
    ],
)
def test_batch_warnings_name_keys_without_effect_on_a_small_batch(
    tmp_path: Path,
    keys: dict[str, dict[str, float]],
    batch_size: int,
    fraction: float,
    expected: list[str],
) -> None:
    training = TrainingConfig.model_validate(keys)
    cases, others = cases_in(tmp_path, 1), cases_in(tmp_path, 1, "u")
    source = source_of(cases, others, batch_size=batch_size, labelled_fraction=fraction)
    found = batch_warnings(source, training)
    assert len(found) == len(expected)
    assert all(text.startswith(start) for text, start in zip(found, expected, strict=True))
    labelled_only = batch_warnings(replace(source, pseudo=[]), training)
    mixes = "mixing" in keys and batch_size == 1
    assert len(labelled_only) == mixes, "other keys are about unlabelled cases"


CORE = min(os.sched_getaffinity(0))
COMMAND = [
    sys.executable,
    "-c",
    f"""
import os, sys
os.sched_setaffinity(0, {{{CORE}}})
from hstf.cli import main
sys.exit(main(sys.argv[1:]))
""",
]
"""``hstf`` with one thread, as the tests: sums of floating-point numbers depend on it."""


def step_when_killed(arguments: list[str], state: Path) -> int:
    """Start a training in another process and kill it; return the step of its last state."""
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 600  # a busy machine is slow to import torch
    try:
        while not state.is_file() or torch.load(state, weights_only=True)["step"] < 7:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return int(torch.load(state, weights_only=True)["step"])


def test_warmup_killed_ends_in_the_same_bytes_as_uninterrupted(
    tmp_path: Path, record_property: Record
) -> None:
    keys = {"warmup": {"steps": 60, "history_every": 8}}
    config, path = write_experiment(tmp_path / "whole", **keys)
    subprocess.run([*COMMAND, "warmup", "--config", str(path), "--member", "fold_0"], check=True)
    whole = Layout.of(config)
    config, path = write_experiment(tmp_path / "killed", **keys)
    killed, arguments = Layout.of(config), ["warmup", "--config", str(path), "--member", "fold_0"]
    assert 7 <= step_when_killed(arguments, killed.training_state(0, "fold_0") / "state.pt") < 60
    assert not killed.weights(0, "fold_0").exists()
    with recovery(record_property, "SIGKILL of a training", "from its last checkpoint"):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resumes at step" in done.stdout
    assert sha256_file(killed.weights(0, "fold_0")) == sha256_file(whole.weights(0, "fold_0"))
    assert killed.history(0, "fold_0").read_bytes() == whole.history(0, "fold_0").read_bytes()
    assert [row["step"] for row in read_csv(killed.history(0, "fold_0"))] == [
        "8",
        "16",
        "24",
        "32",
        "40",
        "48",
        "56",
        "60",
    ]


def test_warmup_finished_is_not_repeated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = write_experiment(tmp_path, warmup={"steps": 6})
    stage(config, "fold_0")
    weights = Layout.of(config).weights(0, "fold_0")
    before = sha256_file(weights)
    weights.unlink()
    capsys.readouterr()
    stage(config, "fold_0")
    assert "resumes at step 6" in capsys.readouterr().out
    assert sha256_file(weights) == before
