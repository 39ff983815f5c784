"""The student: what it learns from, where it starts, which terms its loss has."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.damage import flip_bit
from support.stages import learned_cases, other_cases, start_weights, student
from support.training_files import (
    CLASSES,
    PLAN,
    SHAPE,
    fresh_network,
    new_state,
    scan,
    some_batch,
    write_experiment,
    write_labels,
)
from torch import Tensor

from hstf.cli import main
from hstf.config.experiment import Config
from hstf.experiment.layout import Layout
from hstf.experiment.round_tables import HISTORY
from hstf.experiment.scan_tables import PREPROCESSED
from hstf.method.csc import draw_zoom, sigmoid_ramp
from hstf.method.objectives.registry import student_objective
from hstf.method.objectives.self_training import blend_fraction, blend_labels, self_training
from hstf.models.hybrid import HybridNet
from hstf.models.registry import build, load_network, network_spec, save_network
from hstf.runtime import recorded_files
from hstf.runtime.errors import HstfError
from hstf.runtime.files import sha256_file
from hstf.stages import student as stage
from hstf.training import member as member_module
from hstf.training.batch import Batch
from hstf.training.loop import Objective
from hstf.training.losses import pyramid_loss
from hstf.training.mixing import mix
from hstf.training.patches import PatchSource
from hstf.training.state import TrainingState


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})


def experiment(folder: Path, **keys: Any) -> tuple[Config, Path]:
    """Round 1 before its student: one of three unlabelled cases was rejected."""
    config, path = write_experiment(folder, **keys)
    write_labels(config, 1, ["u_0", "u_2"], rejected=["u_1"])
    return config, path


def write_warmup(config: Config) -> None:
    """Weights of round 0, for methods whose students go on from them."""
    torch.manual_seed(5)
    network = build(network_spec(config.network, PLAN, 1, CLASSES))
    save_network(Layout.of(config).weights(0, "fold_0"), network, {})


# ---- the stage


def test_student_does_not_learn_from_rejected_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, path = experiment(tmp_path)
    sources: list[PatchSource] = []
    train = member_module.train

    def watched(state, source, *arguments):  # type: ignore[no-untyped-def]
        sources.append(source)
        train(state, source, *arguments)

    monkeypatch.setattr(member_module, "train", watched)
    assert main(["student", "--config", str(path), "--round", "1", "--member", "seed_0"]) == 0
    assert [case.case_id for case in sources[0].pseudo] == ["u_0", "u_2"]
    assert [case.case_id for case in sources[0].labelled] == ["l_0", "l_1", "l_2", "l_3"]
    layout = Layout.of(config)
    _, meta = load_network(layout.weights(1, "seed_0"))
    assert (meta["round"], meta["pseudo_labelled"], meta["steps"]) == (1, 2, 6)
    rows = HISTORY.records(layout.history(1, "seed_0"))
    assert [row["step"] for row in rows] == [4, 6]
    assert all(row["csc_predictions"] > 0 for row in rows)
    terms = ("segmentation", "zoomed_segmentation", "csc_predictions", "csc_features")
    for row in rows:
        total = sum(row[term] for term in terms)
        assert row["loss"] == pytest.approx(total, rel=1e-4)


def test_student_ends_with_manual_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = experiment(tmp_path, student={"steps": 5, "fine_tune": 0.4})
    seen: list[list[bool]] = []
    draw = Batch.draw.__func__  # type: ignore[attr-defined]

    def watched(cls, raw, *arguments):  # type: ignore[no-untyped-def]
        seen.append(list(raw.pseudo))
        return draw(cls, raw, *arguments)

    monkeypatch.setattr(Batch, "draw", classmethod(watched))
    student(config, 1, "seed_0")
    assert [any(kinds) for kinds in seen] == [True, True, True, False, False]


def test_other_cases_treats_corrected_labels_as_labels(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path)
    write_labels(config, 1, ["u_0", "u_1"], rejected=["u_2"], corrected=["u_1"])
    pseudo, corrected = other_cases(config, 1, "seed_0")
    assert (pseudo.pseudo, corrected.pseudo) == (True, False)
    whole = (
        pseudo.region(np.zeros(3, int), SHAPE, CLASSES).channels(),
        corrected.region(np.zeros(3, int), SHAPE, CLASSES).channels(),
    )
    for region, name in zip(whole, ("u_0", "u_1"), strict=True):
        assert (
            region[1:-1].argmax(0).numpy().tolist() == scan(name)[1].tolist()
            and (region[-1] == 1).all()
        )


def test_other_cases_marks_accepted_pseudo_labels(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path)
    names = ["u_0", "u_1", "u_2"]
    write_labels(config, 1, names, corrected=["u_1"], accepted=["u_2"])
    cases = other_cases(config, 1, "seed_0")
    assert [case.pseudo for case in cases] == [True, False, True]
    assert [case.accepted for case in cases] == [False, False, True]


def test_student_learns_from_labelled_cases_and_warns_if_all_others_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = write_experiment(tmp_path, student={"steps": 2})
    write_labels(config, 1, [], rejected=["u_0", "u_1", "u_2"])
    student(config, 1, "seed_0")
    output = capsys.readouterr().out
    warning = "student: warning: round 1 seed_0 learns from no pseudo-label: all 3 unlabelled cases"
    assert f"{warning} are rejected" in output
    assert load_network(Layout.of(config).weights(1, "seed_0"))[1]["pseudo_labelled"] == 0


@pytest.mark.parametrize(
    "method", ["hstf", "mean_teacher", "uamt", "cross_teaching", "bcp", "supervised"]
)
def test_student_after_an_interruption_writes_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The EMA network, zoom, mixing, noise, dropout and the strong batch are restored."""
    digests = []
    student_keys = {
        "mixing": {"probability": 0.5},
        "ema_blend": 0.5,
        "csc": {"segmentation_weight": 0.3},
    }
    for name in ("whole", "parts"):
        config, _ = experiment(tmp_path / name, method=method, student=student_keys)
        layout = Layout.of(config)
        write_warmup(config)
        if name == "parts":
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(
                    stage, "student_objective", lambda c: interrupted(student_objective(c), 3)
                )
                student(config, 1, "seed_0")
            assert not layout.weights(1, "seed_0").exists()
        student(config, 1, "seed_0")
        digests.append(
            (sha256_file(layout.weights(1, "seed_0")), layout.history(1, "seed_0").read_bytes())
        )
    assert digests[0] == digests[1]


def interrupted(objective: Objective, at: int) -> Objective:
    def stop(state: TrainingState, batch: Batch) -> Mapping[str, Tensor]:
        if state.step == at:
            raise KeyboardInterrupt
        return objective(state, batch)

    return stop


@pytest.mark.parametrize(
    ("method", "others"), [("mean_teacher", ["u_0", "u_1", "u_2"]), ("supervised", [])]
)
def test_other_cases_without_pseudo_labels_reads_no_label(
    tmp_path: Path, method: str, others: list[str]
) -> None:
    config, _ = write_experiment(tmp_path, method=method)  # there is no labels/
    found = other_cases(config, 1, "seed_0")
    assert [case.case_id for case in found] == others
    assert all(case.pseudo and case.files == [case.image_path] for case in found)
    write_warmup(config)
    student(config, 1, "seed_0")
    assert load_network(Layout.of(config).weights(1, "seed_0"))[1]["pseudo_labelled"] == 0


def test_other_cases_leaves_out_the_cases_that_the_member_predicts(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, student={"members": 2})
    learned = []
    for member in ("seed_0", "seed_1"):
        found = {case.case_id for case in other_cases(config, 1, member)}
        assert found == set(learned_cases(config, 1, member, ["u_0", "u_2"]))
        learned.append(found)
    assert learned[0] | learned[1] == {"u_0", "u_2"}


@pytest.mark.parametrize("change", ["lost", "edited"])
def test_student_refuses_missing_and_edited_labels(tmp_path: Path, change: str) -> None:
    config, _ = experiment(tmp_path)
    path = Layout.of(config).labels(1) / "u_2" / "locations.npy"
    path.unlink() if change == "lost" else path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(HstfError) as caught:
        student(config, 1, "seed_0")
    message = str(caught.value)
    assert f"u_2: {path}" in message
    assert ("is missing" if change == "lost" else "was changed after it was written") in message
    assert str(Layout.of(config).labels_shard_table(1, "unlabelled_0")) in message
    assert "run the workflow again" in message


def test_student_warns_if_a_member_predicts_all_labelled_cases_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, _ = write_experiment(tmp_path, student={"members": 2, "cross_fit": True})
    write_labels(config, 1, ["u_0"], rejected=["u_1", "u_2"])
    learned = [other_cases(config, 1, member) for member in ("seed_0", "seed_1")]
    assert sorted(map(len, learned)) == [0, 1]
    output = capsys.readouterr().out
    assert output.count("student: warning") == 1
    assert "the 1 cases with a label are those that it predicts itself" in output


def test_other_cases_compares_no_array_before_it_is_opened(tmp_path: Path) -> None:
    """There may be very many cases."""
    config, _ = experiment(tmp_path)
    first, second = other_cases(config, 1, "seed_0")
    flip_bit(second.image_path)
    first.region(np.zeros(3, int), SHAPE, CLASSES).channels()
    with pytest.raises(HstfError, match=rf"u_2: {second.image_path} was changed .*unlabelled_0"):
        second.region(np.zeros(3, int), SHAPE, CLASSES).channels()


def test_region_compares_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = experiment(tmp_path)
    case = other_cases(config, 1, "seed_0")[0]
    compared: list[Path] = []
    sha256 = recorded_files.sha256_file
    monkeypatch.setattr(
        recorded_files, "sha256_file", lambda path: compared.append(path) or sha256(path)
    )
    for _ in range(3):
        case.region(np.zeros(3, int), SHAPE, CLASSES).channels()
        case.locations()
    assert sorted(compared) == sorted(case.files)


def test_labelled_cases_refuses_a_row_without_a_file(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path)
    layout = Layout.of(config)
    table = layout.preprocessed_table("labelled_0")
    rows = PREPROCESSED.records(table)
    rows[1]["files"].pop(1)
    rows[1]["sha256"].pop(1)
    PREPROCESSED.write(table, rows)
    label = layout.preprocessed / "l_1" / "label.b2nd"
    with pytest.raises(HstfError, match=rf"l_1: its row in {table} has no SHA-256 of {label}"):
        student(config, 1, "seed_0")


@pytest.mark.parametrize(
    ("number", "member"), [(0, "seed_0"), (2, "seed_0"), (1, "seed_1"), (1, "fold_0")]
)
def test_student_refuses_unknown_rounds_and_members(
    tmp_path: Path, number: int, member: str
) -> None:
    config, _ = experiment(tmp_path)
    with pytest.raises(
        HstfError,
        match=rf"--round {number} --member {member}: there is no such student\. See 'rounds'",
    ):
        student(config, number, member)


# ---- the first weights


def test_student_starts_from_the_previous_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = experiment(tmp_path, student={"start": "previous_round", "steps": 1})
    layout = Layout.of(config)
    previous = fresh_network(5)
    save_network(layout.weights(0, "fold_0"), previous, {})
    started: list[dict[str, Tensor]] = []

    def watched(state, *_):  # type: ignore[no-untyped-def]
        started.append({name: value.clone() for name, value in state.network.state_dict().items()})

    monkeypatch.setattr(member_module, "train", watched)
    student(config, 1, "seed_0")
    assert all(
        torch.equal(started[0][name], value) for name, value in previous.state_dict().items()
    )


def test_student_names_missing_weights_of_the_previous_round(tmp_path: Path) -> None:
    config, _ = experiment(tmp_path, student={"start": "previous_round"})
    with pytest.raises(HstfError, match=r"fold_0/weights\.pt: the weights are missing"):
        student(config, 1, "seed_0")


def test_start_weights_returns_the_member_of_the_same_position(tmp_path: Path) -> None:
    """Round 2 has three students, round 1 the usual two: the third takes the first again."""
    config, _ = write_experiment(
        tmp_path,
        rounds=2,
        student={"members": 2},
        rounds_overrides={2: {"student": {"members": 3, "start": "previous_round"}}},
    )
    layout = Layout.of(config)
    starts = [start_weights(config, 2, f"seed_{k}") for k in range(3)]
    assert starts == [layout.weights(1, name) for name in ("seed_0", "seed_1", "seed_0")]
    assert start_weights(config, 1, "seed_0") is None


# ---- the objective


def test_self_training_adds_consistency_with_a_ramp(tmp_path: Path) -> None:
    csc = {"every": 3, "ramp": 0.5, "prediction_weight": 0.4, "feature_weight": 0.1}
    config, _ = write_experiment(tmp_path, student={"steps": 12, "csc": csc})
    objective = self_training(config)
    batch = some_batch(config, [False, True])
    terms = {
        step: objective(new_state(config, step), some_batch(config, [False, True]))
        for step in range(7)
    }
    assert {step for step, found in terms.items() if "csc_predictions" in found} == {0, 3, 6}
    assert all({"segmentation"} <= found.keys() for found in terms.values())
    for name in ("csc_predictions", "csc_features"):
        ratio = (terms[3][name] / terms[6][name]).item()
        assert ratio == pytest.approx(sigmoid_ramp(0.5) / sigmoid_ramp(1), rel=1e-4)
    assert batch.inside.shape == (2, 1, 8, 8, 8)
    assert batch.inside.min() == 1


def test_self_training_without_csc_weights_has_no_consistency(tmp_path: Path) -> None:
    config, _ = write_experiment(
        tmp_path, student={"csc": {"prediction_weight": 0, "feature_weight": 0}}
    )
    terms = self_training(config)(new_state(config), some_batch(config, [False, True]))
    assert set(terms) == {"segmentation", "zoomed_segmentation"}


def test_self_training_computes_no_gradient_of_the_ema_network(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    state = new_state(config)
    terms = self_training(config)(state, some_batch(config, [False, True]))
    sum(terms.values()).backward()
    assert all(p.grad is None for p in state.ema.parameters())
    assert all(p.grad is not None for p in state.network.parameters())


def gradient(network: HybridNet, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(network.parameters())))


def test_self_training_with_pseudo_weight_zero_ignores_pseudo_labels(tmp_path: Path) -> None:
    config, _ = write_experiment(
        tmp_path, student={"pseudo_weight": 0, "csc": {"prediction_weight": 0, "feature_weight": 0}}
    )
    state = new_state(config)
    batch = some_batch(config, [False, True])
    found = gradient(state.network, self_training(config)(state, batch)["segmentation"])
    logits = state.network.pyramid(batch.weak[:1]).logits
    expected = gradient(state.network, pyramid_loss(logits, batch.target[:1], batch.weight[:1]))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True))


def test_self_training_multiplies_weights_by_pseudo_weight(tmp_path: Path) -> None:
    no_csc = {"prediction_weight": 0, "feature_weight": 0}
    config, _ = write_experiment(tmp_path, student={"pseudo_weight": 0.3, "csc": no_csc})
    state = new_state(config)
    batch = some_batch(config, [False, True])
    weight = batch.weight * torch.tensor([1, 0.3]).reshape(2, 1, 1, 1, 1)
    expected = pyramid_loss(state.network.pyramid(batch.weak).logits, batch.target, weight)
    assert self_training(config)(state, batch)["segmentation"].item() == pytest.approx(
        expected.item(), rel=1e-5
    )


def test_self_training_without_deep_supervision_uses_the_finest_level(tmp_path: Path) -> None:
    no_csc = {"prediction_weight": 0, "feature_weight": 0}
    config, _ = write_experiment(
        tmp_path, network={"deep_supervision": False}, student={"csc": no_csc}
    )
    state = new_state(config)
    batch = some_batch(config, [False, True])
    expected = pyramid_loss(
        state.network.pyramid(batch.weak).logits[:1], batch.target, batch.weight
    )
    assert self_training(config)(state, batch)["segmentation"].item() == pytest.approx(
        expected.item(), rel=1e-6
    )


def test_draw_zoom_is_uniform_in_the_logarithm() -> None:
    g = torch.Generator().manual_seed(0)
    zooms = torch.tensor([draw_zoom((0.5, 2.0), g) for _ in range(400)])
    assert 0.5 <= zooms.min() < 0.52
    assert 1.92 < zooms.max() <= 2
    assert (zooms < 1).float().mean().item() == pytest.approx(0.5, abs=0.08)


# ---- the view at another scale, and the EMA network


OFF = {"prediction_weight": 0, "feature_weight": 0, "pyramid_weight": 0}


def test_self_training_scores_the_zoomed_view_on_the_grid_of_the_patch(tmp_path: Path) -> None:
    """Without teacher and consistency, the loss at scale 1 is the segmentation loss."""
    csc = {**OFF, "segmentation_weight": 0.25, "scale_range": (1.0, 1.0), "every": 1}
    config, _ = write_experiment(tmp_path, student={"csc": csc, "pseudo_weight": 0.3})
    terms = self_training(config)(new_state(config), some_batch(config, [False, True]))
    assert terms.keys() == {"segmentation", "zoomed_segmentation"}
    assert terms["zoomed_segmentation"].item() == pytest.approx(
        0.25 * terms["segmentation"].item(), rel=1e-5
    )
    other = {**csc, "scale_range": (1.5, 1.5)}
    config, _ = write_experiment(tmp_path, student={"csc": other, "pseudo_weight": 0.3})
    zoomed = self_training(config)(new_state(config), some_batch(config, [False, True]))
    assert zoomed["segmentation"].item() == pytest.approx(terms["segmentation"].item())
    assert zoomed["zoomed_segmentation"].item() != pytest.approx(
        terms["zoomed_segmentation"].item()
    )


def test_self_training_runs_the_ema_network_only_if_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csc = {"every": 2}
    config, _ = write_experiment(tmp_path, student={"steps": 10, "ema_blend": 0.5, "csc": csc})
    objective = self_training(config)
    asked = []
    for step in range(10):
        state = new_state(config, step)
        pyramid = state.ema.pyramid
        monkeypatch.setattr(
            state.ema,
            "pyramid",
            lambda x, p=pyramid, s=step: (asked.append((s, len(x))), p(x))[1],
        )
        terms = objective(state, some_batch(config, [False, True]))
        assert ("csc_predictions" in terms) == (step % 2 == 0)
    labels = [(step, 1) for step in range(1, 10)]  # of the unlabelled patch
    consistency = [(step, 2) for step in range(0, 10, 2)]
    assert sorted(asked) == sorted(labels + consistency)


def test_blend_fraction_rises_over_the_first_half() -> None:
    found = [blend_fraction(t / 10, 0.5) for t in range(11)]
    assert found == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], abs=1e-9)
    assert blend_fraction(0.9, 0.0) == 0


def test_blend_labels_changes_only_pseudo_labels_inside_the_scan(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    batch = some_batch(config, [False, True])
    batch.target[:, :, :3] = 0  # outside
    batch.weight[1] = 0.2
    batch.weight[1, :, 7] = 0  # a possible lesion
    labels = torch.zeros_like(batch.target[1:])
    labels[:, 1] = 1
    found = blend_labels(batch, labels, 0.25)
    assert torch.equal(found.target[0], batch.target[0])
    assert torch.equal(found.weight[0], batch.weight[0])
    assert torch.equal(found.target[:, :, :3], torch.zeros_like(found.target[:, :, :3]))
    expected = 0.75 * batch.target[1, :, 3:] + 0.25 * labels[0, :, 3:]
    assert torch.allclose(found.target[1, :, 3:], expected)
    assert found.weight[1, 0, :, 0, 0].tolist() == pytest.approx(
        [0.15] * 3 + [0.75 * 0.2 + 0.25] * 4 + [0], abs=1e-6
    )
    assert batch.weight[1, 0, 4, 0, 0].item() == pytest.approx(0.2), "the batch is not changed"


def test_self_training_learns_from_the_label_of_the_ema_network(tmp_path: Path) -> None:
    """The EMA network sees the patch before boxes are exchanged."""
    student = {"steps": 10, "ema_blend": 1.0, "csc": OFF, "mixing": {"probability": 1.0}}
    config, _ = write_experiment(tmp_path, student=student)
    state = new_state(config, step=7)
    batch = some_batch(config, [False, True])
    scores = state.ema(batch.weak[1:])  # the EMA is still the network
    label = torch.zeros_like(scores).scatter_(1, scores.argmax(1, keepdim=True), 1.0)
    target = torch.cat([batch.target[:1], label])
    weight = torch.cat([batch.weight[:1], torch.ones_like(batch.weight[1:])])
    mixed = mix(replace(batch, target=target, weight=weight), config.student.mixing)
    expected = pyramid_loss(state.network.pyramid(mixed.weak).logits, mixed.target, mixed.weight)
    found = self_training(config)(state, some_batch(config, [False, True]))
    assert found["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_self_training_keeps_accepted_pseudo_labels(tmp_path: Path) -> None:
    student = {"steps": 10, "ema_blend": 1.0, "csc": OFF, "mixing": {"probability": 0.0}}
    config, _ = write_experiment(tmp_path, student=student)
    state = new_state(config, step=7)
    batch = some_batch(config, [False, True])
    accepted = replace(batch, automatic=(False, False))
    expected = pyramid_loss(state.network.pyramid(batch.weak).logits, batch.target, batch.weight)
    objective = self_training(config)
    kept = objective(state, accepted)["segmentation"].item()
    assert kept == pytest.approx(expected.item(), rel=1e-5)
    assert objective(state, batch)["segmentation"].item() != pytest.approx(kept, rel=1e-5)


def test_self_training_learns_from_mixed_patches(tmp_path: Path) -> None:
    """The weight of a pseudo-label moves with its box."""
    student = {"csc": OFF, "mixing": {"probability": 1.0}, "pseudo_weight": 0.3}
    config, _ = write_experiment(tmp_path, student=student)
    state = new_state(config)
    mixed = mix(some_batch(config, [False, True]), config.student.mixing)
    assert 0 < mixed.pseudo[0].float().mean() < 1
    weight = torch.where(mixed.pseudo, 0.3, 1.0) * mixed.weight
    expected = pyramid_loss(state.network.pyramid(mixed.weak).logits, mixed.target, weight)
    found = self_training(config)(state, some_batch(config, [False, True]))
    assert found["segmentation"].item() == pytest.approx(expected.item(), rel=1e-5)
