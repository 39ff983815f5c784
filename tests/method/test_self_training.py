"""Objectives: what the networks see, and the terms of self-training and of supervision."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.objectives import online, pair_state
from support.training_files import (
    fresh_network,
    new_state,
    some_batch,
    write_experiment,
)
from torch import Tensor

from hstf.method.csc import consistency_terms, sigmoid_ramp
from hstf.method.objectives.ema_labels import label_of_ema
from hstf.method.objectives.registry import student_objective
from hstf.method.objectives.supervision import supervised
from hstf.models.base import Pyramid, SegmentationNetwork
from hstf.training.batch import Batch
from hstf.training.losses import pyramid_loss
from hstf.training.mixing import mix


@pytest.mark.parametrize("method", ["hstf", "mean_teacher", "uamt", "cross_teaching", "bcp"])
def test_objectives_show_strong_patches_to_the_student_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    config, state, batch = online(tmp_path, method, ema_blend=0.5)
    state = pair_state(config) if method == "cross_teaching" else state
    monkeypatch.setattr(Batch, "strong", lambda self: self.weak + 100)
    seen = [watched(monkeypatch, network) for network in (state.network, state.ema)]
    terms = student_objective(config)(state, batch)
    assert all(term.isfinite() for term in terms.values())
    by_student, by_teacher = seen
    assert by_student and min(by_student) > 50
    assert max(by_teacher, default=0) < 50
    assert bool(by_teacher) == (method != "cross_teaching")


def watched(monkeypatch: pytest.MonkeyPatch, network: SegmentationNetwork) -> list[float]:
    """Return a list that gets the mean intensity of each batch that ``network`` sees."""
    seen: list[float] = []
    for part in network.parts:
        pyramid = part.pyramid

        def record(x: Tensor, *zoom: Any, inner: Any = pyramid) -> Pyramid:
            seen.append(x.mean().item())
            return inner(x, *zoom)

        monkeypatch.setattr(part, "pyramid", record)
    return seen


def test_self_training_compares_voxels_inside_the_scan_with_the_ema_network(
    tmp_path: Path,
) -> None:
    """At scale 1 the box is the whole patch. The weight of the pseudo-label does not matter."""
    csc = {"scale_range": (1.0, 1.0), "every": 1, "ramp": 1.0}
    off = {"mixing": {"probability": 0.0}, "ema_blend": 0.0}
    config, state, batch = online(tmp_path, "hstf", step=3, csc=csc, **off)
    state.ema = fresh_network(7).eval().requires_grad_(False)
    batch.weight[1, :, 4:] = 0.2
    assert batch.inside[1, 0, :, 0, 0].tolist() == [0] * 4 + [1] * 4
    found = student_objective(config)(state, batch)
    terms = consistency_terms(
        config.student.csc,
        state.network.pyramid(batch.weak),
        state.ema.pyramid(batch.weak),
        batch.inside,
    )
    expected = {name: sigmoid_ramp(0.5) * term.item() for name, term in terms.items()}
    assert len(expected) == 2
    assert {name: found[name].item() for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("method", "name"), [("cross_teaching", "first_taught"), ("bcp", "unlabelled")]
)
def test_objectives_ramp_the_loss_on_unlabelled_voxels(
    tmp_path: Path, method: str, name: str
) -> None:
    terms = []
    for step in (0, 6):
        config, state, batch = online(tmp_path, method, step=step)
        state = pair_state(config, step) if method == "cross_teaching" else state
        terms.append(student_objective(config)(state, batch)[name].item())
    first, last = terms
    assert last > 0
    assert first / last == pytest.approx(math.exp(-5), rel=1e-4)


def test_supervised_mixes_patches_as_configured_for_the_warmup(tmp_path: Path) -> None:
    config, _ = write_experiment(
        tmp_path, warmup={"mixing": {"probability": 1.0}}, student={"mixing": {"probability": 0.0}}
    )
    state = new_state(config)
    mixed = mix(some_batch(config, [False, False]), config.warmup.mixing)
    logits = state.network.pyramid(mixed.weak).logits
    expected = pyramid_loss(logits, mixed.target, mixed.weight)
    found = supervised(config)(state, some_batch(config, [False, False]))
    assert found["supervised"].item() == pytest.approx(expected.item(), rel=1e-5)
    plain = supervised(config.model_copy(update={"warmup": config.student}))
    unmixed = plain(state, some_batch(config, [False, False]))
    assert unmixed["supervised"].item() != pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("method", ["mean_teacher", "uamt", "cross_teaching"])
def test_objectives_have_supervised_terms_only_for_labelled_patches(
    tmp_path: Path, method: str
) -> None:
    config, state, batch = online(tmp_path, method)
    state = pair_state(config) if method == "cross_teaching" else state
    nowhere = torch.zeros_like(batch.pseudo)
    labelled = replace(batch, pseudo=nowhere, unlabelled=(False,) * len(nowhere))
    assert all(name.startswith("supervised") for name in student_objective(config)(state, labelled))


def test_self_training_of_a_pair_is_the_sum_of_its_networks(
    tmp_path: Path,
) -> None:
    csc = {
        "pyramid_weight": 0.1,
        "segmentation_weight": 0.3,
        "scale_range": (1.25, 1.25),
        "every": 1,
    }
    config, _ = write_experiment(tmp_path, student={"steps": 10, "csc": csc, "ema_blend": 0.5})
    both = pair_state(config, step=6)
    terms = {}
    for index in range(2):
        one = pair_state(config, step=6)
        one.network, one.ema = (n.parts[index] for n in (one.network, one.ema))
        blended = {"student": {**config.student.model_dump(), "ema_blend": 0.0}}
        objective = student_objective(config.model_validate(config.model_dump() | blended))
        terms[index] = objective(one, some_batch(config, [False, False]))
    found = student_objective(config)(
        both, some_batch(config, [False, False])
    )  # labels are not blended
    assert found.keys() == terms[0].keys()
    assert {"csc_predictions", "zoomed_segmentation"} <= found.keys()
    for name, value in found.items():
        assert value.item() == pytest.approx((terms[0][name] + terms[1][name]).item(), rel=1e-4)
    sum(found.values()).backward()
    assert all(p.grad is not None for part in both.network.parts for p in part.parameters())


def test_label_of_ema_of_a_pair_is_that_of_the_mean_probability(tmp_path: Path) -> None:
    config, _ = write_experiment(tmp_path)
    state = pair_state(config, step=0)
    batch = some_batch(config, [False, True])
    first, second = (part(batch.weak[1:]).softmax(1) for part in state.ema.parts)
    found = label_of_ema(state, batch)
    assert torch.equal(found.argmax(1), (first + second).argmax(1))
    assert torch.equal(found.sum(1), torch.ones_like(found[:, 0]))
