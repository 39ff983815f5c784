"""Mean teacher, UA-MT, cross-teaching and BCP have known values."""

import math
from pathlib import Path

import pytest
import torch
from support.objectives import online, pair_state
from support.training_files import (
    CLASSES,
    fresh_network,
)
from torch import Tensor, nn

from hstf.config.training import StudentConfig
from hstf.method.csc import sigmoid_ramp
from hstf.method.objectives.bcp import label_with_ema
from hstf.method.objectives.ema_labels import one_hot_label
from hstf.method.objectives.mean_teacher import consistency_weight, prediction_distance
from hstf.method.objectives.registry import student_objective
from hstf.method.objectives.uamt import (
    add_noise,
    dropout_enabled,
    entropy_bound,
    relative_entropy,
)
from hstf.training.losses import pyramid_loss, soft_dice
from hstf.training.mixing import mix


def test_distances_by_hand() -> None:
    log_p = torch.tensor([0.5, 0.5]).log().reshape(1, 2, 1, 1, 1)
    log_t = torch.tensor([0.25, 0.75]).log().reshape(1, 2, 1, 1, 1)
    assert prediction_distance(log_p, log_t, "mse").item() == pytest.approx(0.0625)
    kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert prediction_distance(log_p, log_t, "kl").item() == pytest.approx(kl, rel=1e-5)
    assert (
        prediction_distance(log_t, log_t, "kl").item()
        == prediction_distance(log_t, log_t, "mse").item()
        == 0
    )


def test_consistency_weight_grows_to_its_maximum() -> None:
    training = StudentConfig.model_validate(
        {"steps": 10, "consistency": {"weight": 0.2, "ramp": 0.5}}
    )
    found = [consistency_weight(training, step) for step in (0, 2, 5, 9)]
    expected = [0.2 * sigmoid_ramp(t) for t in (0, 0.4, 1, 1)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_mean_teacher_compares_unlabelled_voxels_inside_the_scan(tmp_path: Path, kind: str) -> None:
    config, state, batch = online(
        tmp_path, "mean_teacher", consistency={"weight": 0.5, "distance": kind}
    )
    state.ema = fresh_network(7).eval().requires_grad_(False)
    terms = student_objective(config)(state, batch)
    student = state.network.pyramid(batch.weak).logits[0].log_softmax(1)
    teacher = state.ema.pyramid(batch.weak).logits[0].log_softmax(1)
    expected_distance = prediction_distance(student, teacher, kind)[1, :, 4:].mean()
    assert terms["consistency"].item() == pytest.approx(0.5 * expected_distance.item(), rel=1e-4)
    logits = state.network.pyramid(batch.weak[:1]).logits
    supervised = pyramid_loss(logits, batch.target[:1], batch.weight[:1])
    assert terms["supervised"].item() == pytest.approx(supervised.item(), rel=1e-4)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in state.ema.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in state.network.parameters())


def test_mean_teacher_has_no_loss_if_the_networks_agree(tmp_path: Path) -> None:
    config, state, batch = online(tmp_path, "mean_teacher")
    assert student_objective(config)(state, batch)["consistency"].item() == pytest.approx(
        0, abs=1e-10
    )


def test_relative_entropy_and_bound_equal_values_by_hand() -> None:
    even = torch.full((1, CLASSES, 1, 1, 1), 1 / CLASSES)
    sure = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1, 1)
    half = torch.tensor([0.5, 0.5, 0]).reshape(1, 3, 1, 1, 1)
    found = [relative_entropy(p).item() for p in (even, sure, half)]
    assert found == pytest.approx([1, 0, math.log(2) / math.log(3)], abs=1e-6)
    assert entropy_bound(0) == pytest.approx(0.75 + 0.25 * math.exp(-5))
    assert entropy_bound(1) == 1


def test_add_noise_is_clipped() -> None:
    found = add_noise(torch.zeros(20, 20, 20), 0.1, torch.Generator().manual_seed(0))
    assert found.abs().max().item() == pytest.approx(0.2)
    assert found.std().item() == pytest.approx(0.1 * 0.959, abs=0.003)


def test_dropout_enabled_ends_with_the_block() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.Dropout(0.5)).eval()
    with dropout_enabled(network):
        assert network[1].training
    assert not any(m.training for m in network.modules())


class Constant(nn.Module):
    """A network that predicts the same for every image."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.calls = logits, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.logits.expand(len(x), *self.logits.shape[1:])


def test_uamt_ignores_uncertain_voxels(tmp_path: Path) -> None:
    config, state, batch = online(
        tmp_path, "uamt", step=3, consistency={"weight": 1.0, "passes": 3}
    )
    logits = torch.zeros(1, CLASSES, 8, 8, 8)
    logits[:, 1, :, :4] = 5.0  # certain in one half, uniform in the other
    state.ema = Constant(logits)  # type: ignore[assignment]
    terms = student_objective(config)(state, batch)
    assert state.ema.calls == 1 + 3
    student = state.network.pyramid(batch.weak).logits[0].log_softmax(1)
    expected_distance = prediction_distance(student[1:], logits.log_softmax(1), "mse")[
        0, :, 4:, :4
    ].mean()
    assert terms["consistency"].item() == pytest.approx(
        sigmoid_ramp(0.5) * expected_distance.item(), rel=1e-4
    )


def test_uamt_counts_doubtful_voxels_only_late(tmp_path: Path) -> None:
    """A relative entropy of 0.865 is above the bound in the middle of the training."""
    found = []
    for step in (3, 6):
        config, state, batch = online(tmp_path, "uamt", step=step)
        doubtful = torch.tensor([0.6, 0.2, 0.2]).log().reshape(1, 3, 1, 1, 1)
        state.ema = Constant(doubtful.expand(1, 3, 8, 8, 8))  # type: ignore[assignment]
        found.append(student_objective(config)(state, batch)["consistency"].item())
    assert found[0] == 0
    assert found[1] > 0


def test_uamt_measures_certainty_with_noise_and_dropout(tmp_path: Path) -> None:
    config, state, batch = online(tmp_path, "uamt", consistency={"passes": 3})
    seen: list[tuple[Tensor, bool]] = []

    class Recording(Constant):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((x, self.training))
            return super().forward(x)

    state.ema = Recording(torch.zeros(1, CLASSES, 8, 8, 8)).eval()  # type: ignore[assignment]
    student_objective(config)(state, batch)
    (plain, in_training), *noisy = seen
    assert torch.equal(plain, batch.weak[1:])
    assert not in_training
    assert all(in_training for _, in_training in noisy)
    assert len({x.sum().item() for x, _ in noisy}) == 3
    assert all(0 < (x - plain).abs().max() <= 0.2 + 1e-6 for x, _ in noisy)


def test_cross_teaching_teaches_each_network_the_label_of_the_other(tmp_path: Path) -> None:
    config, _, batch = online(tmp_path, "cross_teaching", consistency={"weight": 0.4})
    state = pair_state(config)
    terms = student_objective(config)(state, batch)
    answers = [part.pyramid(batch.weak).logits for part in state.network.parts]
    one, other = (a[0][1:].softmax(1) for a in answers)
    inside = batch.inside[1:]
    expected = {
        "supervised_first": pyramid_loss(answers[0], batch.target, batch.weight),
        "supervised_second": pyramid_loss(answers[1], batch.target, batch.weight),
        "first_taught": 0.4 * soft_dice(one, one_hot_label(other), inside),
        "second_taught": 0.4 * soft_dice(other, one_hot_label(one), inside),
    }
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-4
    )
    first, second = (list(part.parameters()) for part in state.network.parts)
    gradients = torch.autograd.grad(
        terms["first_taught"], [*first, *second], allow_unused=True, retain_graph=True
    )
    assert any(g is not None and g.abs().max() > 0 for g in gradients[: len(first)])
    assert all(g is None for g in gradients[len(first) :])


def test_one_hot_label_is_the_most_likely_class() -> None:
    p = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]).T.reshape(1, 3, 2, 1, 1)
    assert one_hot_label(p)[0, :, :, 0, 0].T.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_label_with_ema_labels_unlabelled_patches_inside_the_scan(tmp_path: Path) -> None:
    _, state, batch = online(tmp_path, "bcp")
    state.ema = fresh_network(3).eval()
    found = label_with_ema(state, batch)
    assert torch.equal(found.target[0], batch.target[0])
    assert torch.equal(found.weight[0], batch.weight[0])
    classes = state.ema(batch.weak)[1].argmax(0)
    assert torch.equal(found.target[1, :, 4:].argmax(0), classes[4:])
    assert torch.equal(found.target[1].sum(0), found.weight[1, 0])
    assert found.weight[1, 0, :, 0, 0].tolist() == [0] * 4 + [1] * 4
    assert batch.weight[1].max() == 0, "the given batch is not changed"


def test_bcp_has_separate_terms_for_labelled_and_unlabelled_voxels(
    tmp_path: Path,
) -> None:
    config, state, batch = online(tmp_path, "bcp")
    again = online(tmp_path, "bcp")[2]
    mixed = mix(label_with_ema(state, again), config.student.mixing)
    assert 0 < mixed.pseudo[0].float().mean() < 1
    logits = state.network.pyramid(mixed.weak).logits
    expected = {
        "labelled": pyramid_loss(logits, mixed.target, mixed.weight * ~mixed.pseudo),
        "unlabelled": 0.5 * pyramid_loss(logits, mixed.target, mixed.weight * mixed.pseudo),
    }
    found = student_objective(config)(state, batch)
    assert {name: term.item() for name, term in found.items()} == pytest.approx(
        {name: term.item() for name, term in expected.items()}, rel=1e-5
    )
