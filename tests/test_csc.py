"""Cross-scale consistency: nothing to learn from agreement, known values, doubtful voxels, matched positions."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.csc import (
    consistency,
    feature_consistency,
    prediction_consistency,
    sigmoid_ramp,
    zoomed_size,
)
from hstf.losses import soft_dice
from hstf.models import HybridNet, NetworkSpec

SPEC = NetworkSpec(
    "hybrid", 1, 3, (4, 8), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1.0, 1.0, 1.0), 1, 1, drop_path=0.0
)
LOG3 = math.log(3)


def voxels(*rows: list[float]) -> Tensor:
    """``(1, K, N, 1, 1)`` from one row per channel."""
    return torch.tensor(rows)[None, :, :, None, None]


@pytest.fixture(scope="module")
def network() -> HybridNet:
    torch.manual_seed(0)
    return HybridNet(SPEC).eval()


@pytest.fixture(scope="module")
def smooth() -> Tensor:
    coarse = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(16, 16, 16), mode="trilinear")


def test_the_same_network_at_the_same_scale_agrees(network: HybridNet, smooth: Tensor) -> None:
    with torch.no_grad():
        teacher = network.pyramid(smooth)
        predictions, features = consistency(network, teacher, smooth, 1.0, torch.ones_like(smooth))
    assert predictions.item() == pytest.approx(0, abs=1e-5)
    assert features.item() == pytest.approx(0, abs=1e-5)


def test_other_scales_and_other_networks_differ(network: HybridNet, smooth: Tensor) -> None:
    torch.manual_seed(1)
    other, inside = HybridNet(SPEC).eval(), torch.ones_like(smooth)
    with torch.no_grad():
        teacher = network.pyramid(smooth)
        scaled = consistency(network, teacher, smooth, 1.3, inside)
        foreign = consistency(other, teacher, smooth, 1.0, inside)
    assert min(scaled) > 1e-4
    assert foreign[0] > scaled[0]
    assert foreign[1] > scaled[1]


def test_the_student_learns_and_the_teacher_does_not(smooth: Tensor) -> None:
    torch.manual_seed(0)
    student, teacher = HybridNet(SPEC), HybridNet(SPEC).requires_grad_(False)
    answer = teacher.pyramid(smooth)
    sum(consistency(student, answer, smooth, 0.8, torch.ones_like(smooth))).backward()
    # only the coarser heads (here: none) may stay without a gradient
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_the_true_zoom_of_the_rounded_size_is_told_to_the_network(
    network: HybridNet, smooth: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], float]] = []
    pyramid = HybridNet.pyramid

    def spy(self: HybridNet, x: Tensor, zoom: float = 1.0) -> object:
        seen.append((tuple(x.shape[2:]), zoom))
        return pyramid(self, x, zoom)

    with torch.no_grad():
        teacher = network.pyramid(smooth)
        monkeypatch.setattr(HybridNet, "pyramid", spy)
        consistency(network, teacher, smooth, 1.27, torch.ones_like(smooth))
    assert seen == [((20, 20, 20), pytest.approx(1.25))]


def test_divergence_by_hand() -> None:
    """Teacher 3/4 against student 1/2; no foreground of the teacher's is wrong, so Dice follows by hand too."""
    teacher, student = voxels([0.0], [LOG3]), voxels([0.0], [0.0])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    dice = 1 - (1.25 - 0.25) / 1.25
    found = prediction_consistency(student, teacher, voxels([1.0]))
    assert found.item() == pytest.approx(kl + dice, abs=1e-4)


def test_voxels_count_less_where_the_two_differ_more() -> None:
    teacher = voxels([0.0, 0.0], [LOG3, 4.0])
    student = voxels([0.0, 0.0], [0.0, -4.0])
    log_p, log_t = student.log_softmax(1), teacher.log_softmax(1)
    kl = (log_t.exp() * (log_t - log_p)).sum(1).flatten()
    weight = torch.exp(-kl)
    assert weight[1] < 0.1 * weight[0]
    expected = (kl * weight).sum() / weight.sum()
    expected = expected + soft_dice(log_p.exp(), log_t.exp(), weight.reshape(1, 1, 2, 1, 1))
    ones = voxels([1.0, 1.0])
    assert prediction_consistency(student, teacher, ones).item() == pytest.approx(expected.item(), rel=1e-5)
    student.requires_grad_()
    prediction_consistency(student, teacher, ones).backward()
    assert student.grad is not None
    assert student.grad[0, :, 1].abs().sum() < student.grad[0, :, 0].abs().sum()


def test_what_lies_outside_the_scan_has_no_say() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(1, 3, 4, 1, 1, generator=g), torch.randn(1, 3, 4, 1, 1, generator=g)
    inside = voxels([1.0, 1.0, 0.0, 0.0])
    student.requires_grad_()
    loss = prediction_consistency(student, teacher, inside)
    loss.backward()
    assert student.grad is not None
    assert not student.grad[:, :, 2:].any()
    alone = prediction_consistency(student[:, :, :2], teacher[:, :, :2], inside[:, :, :2])
    assert loss.item() == pytest.approx(alone.item(), rel=1e-6)
    assert prediction_consistency(student, teacher, torch.zeros_like(inside)).item() == pytest.approx(
        0, abs=1e-6
    )


def positions(size: int) -> Tensor:
    """Features that are a direction turning along the first axis of the field of view."""
    angle = ((torch.arange(size) + 0.5) / size * 2).reshape(1, 1, size, 1, 1).expand(1, 1, size, 4, 4)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def test_features_are_compared_at_the_same_places_of_the_field_of_view() -> None:
    assert feature_consistency(positions(12), positions(8)).item() < 1e-3
    assert feature_consistency(positions(8), positions(8)).item() == pytest.approx(0, abs=1e-6)
    assert feature_consistency(positions(12).flip(2), positions(8)).item() > 0.1
    assert feature_consistency(-positions(8), positions(8)).item() == pytest.approx(2, abs=1e-5)
    assert feature_consistency(7 * positions(8), positions(8)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("shape", "zoom", "divisor", "expected"),
    [
        ((16, 16, 16), 1.0, (8, 8, 8), (16, 16, 16)),
        ((64, 64, 64), 1.3, (8, 8, 8), (80, 80, 80)),
        ((64, 64, 16), 0.7, (16, 16, 4), (48, 48, 12)),
        ((16, 16, 16), 0.7, (8, 8, 8), (16, 16, 16)),  # one voxel at the deepest level could not be normed
        ((32, 32, 8), 0.25, (8, 8, 8), (16, 16, 8)),
    ],
)
def test_zoomed_sizes_are_multiples_of_the_divisor(
    shape: tuple[int, int, int],
    zoom: float,
    divisor: tuple[int, int, int],
    expected: tuple[int, int, int],
) -> None:
    assert zoomed_size(torch.Size(shape), zoom, divisor) == expected


def test_small_patches_can_be_zoomed_out() -> None:
    spec = replace(SPEC, strides=((1, 1, 1), (4, 4, 4)))
    network, image = HybridNet(spec).eval(), torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        terms = consistency(network, network.pyramid(image), image, 0.6, torch.ones_like(image))
    assert all(term.isfinite() for term in terms)


def test_the_ramp_grows_from_almost_nothing_to_one() -> None:
    values = [sigmoid_ramp(t / 10) for t in range(11)]
    assert values[0] == pytest.approx(math.exp(-5))
    assert values[5] == pytest.approx(math.exp(-1.25))
    assert values == sorted(values)
    assert values[10] == sigmoid_ramp(3.0) == 1
