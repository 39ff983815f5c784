"""Cross-scale consistency: values by hand, agreement, uncertain voxels, matched positions."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.config.experiment import Config
from hstf.config.training import CscConfig
from hstf.imaging.spacing import axis_zooms
from hstf.method.csc import (
    View,
    consistency_terms,
    feature_consistency,
    prediction_consistency,
    pyramid_consistency,
    rectified_divergence,
    sigmoid_ramp,
    view_size,
    zoomed_pyramid,
    zoomed_size,
)
from hstf.method.objectives.self_training import self_training
from hstf.models.base import NetworkSpec, Pyramid, Zoom
from hstf.models.hybrid import HybridNet
from hstf.training.batch import Batch
from hstf.training.losses import soft_dice
from hstf.training.state import TrainingState

SPEC = NetworkSpec(
    "hybrid",
    1,
    3,
    (4, 8, 8),
    ((1, 1, 1), (2, 2, 2), (2, 2, 2)),
    ((3, 3, 3),) * 3,
    (1.0, 1.0, 1.0),
    1,
    1,
    drop_path=0.0,
)
LOG3 = math.log(3)


def voxels(*rows: list[float]) -> Tensor:
    """Return a tensor ``(1, K, N, 1, 1)`` from one row for each channel."""
    return torch.tensor(rows)[None, :, :, None, None]


@pytest.fixture(scope="module")
def network() -> HybridNet:
    torch.manual_seed(0)
    return HybridNet(SPEC).eval()


@pytest.fixture(scope="module")
def smooth() -> Tensor:
    coarse = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(16, 16, 16), mode="trilinear")


ALL = CscConfig(prediction_weight=1, feature_weight=1, pyramid_weight=1)


def parts(student: HybridNet, teacher: HybridNet, image: Tensor, zoom: float) -> dict[str, float]:
    with torch.no_grad():
        answer = zoomed_pyramid(student, image, zoom)
        found = consistency_terms(ALL, answer, teacher.pyramid(image), torch.ones_like(image))
    return {name: value.item() for name, value in found.items()}


def test_consistency_terms_are_zero_for_the_same_network_and_scale(
    network: HybridNet, smooth: Tensor
) -> None:
    found = parts(network, network, smooth, 1.0)
    assert found["csc_predictions"] == pytest.approx(0, abs=1e-5)
    assert found["csc_features"] == pytest.approx(0, abs=1e-5)


def test_consistency_terms_grow_for_other_scales_and_networks(
    network: HybridNet, smooth: Tensor
) -> None:
    torch.manual_seed(1)
    other = HybridNet(SPEC).eval()
    scaled, foreign = parts(network, network, smooth, 1.3), parts(other, network, smooth, 1.0)
    assert min(scaled.values()) > 1e-4
    assert all(foreign[name] > scaled[name] for name in ("csc_predictions", "csc_features"))


def test_consistency_terms_are_multiplied_by_their_weights(
    network: HybridNet, smooth: Tensor
) -> None:
    unweighted = parts(network, network, smooth, 1.3)
    weights = {"prediction_weight": 0.3, "feature_weight": 0.05, "pyramid_weight": 2.0}
    answer, teacher = zoomed_pyramid(network, smooth, 1.3), network.pyramid(smooth)
    terms = dict(zip(weights, ("csc_predictions", "csc_features", "csc_pyramid"), strict=True))
    off = dict.fromkeys(weights, 0.0)
    assert consistency_terms(CscConfig(**off), answer, teacher, torch.ones_like(smooth)) == {}
    for key, weight in weights.items():
        found = consistency_terms(
            CscConfig(**{**off, key: weight}), answer, teacher, torch.ones_like(smooth)
        )
        assert found.keys() == {terms[key]}
        assert found[terms[key]].item() == pytest.approx(weight * unweighted[terms[key]], rel=1e-4)


@pytest.mark.parametrize("classes", [2, 6])
def test_consistency_terms_have_gradients_for_the_student_only(
    smooth: Tensor, classes: int
) -> None:
    torch.manual_seed(0)
    spec = replace(SPEC, classes=classes)
    student, teacher = HybridNet(spec), HybridNet(spec).requires_grad_(False)
    answer = zoomed_pyramid(student, smooth, 0.8)
    terms = consistency_terms(ALL, answer, teacher.pyramid(smooth), torch.ones_like(smooth))
    fine, coarse = student.heads[-1].weight, student.heads[0].weight
    for name, loss in terms.items():
        student.zero_grad()
        loss.backward(retain_graph=True)
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())
        assert student.encoder[0].first.weight.grad.abs().max() > 0
        assert (fine.grad is not None) == (name == "csc_predictions")
        assert (coarse.grad is not None) == (name == "csc_pyramid")


@pytest.mark.parametrize(
    ("spacing", "zoom", "size", "actual"),
    [
        ((1.0, 1.0, 1.0), 1.27, (20, 20, 20), (1.25, 1.25, 1.25)),
        ((1.0, 1.0, 3.0), 1.27, (20, 20, 20), (1.25, 1.25, 1.25)),
        ((1.5, 1.5, 10.0), 1.27, (20, 20, 16), (1.25, 1.25, 1.0)),
        ((6.0, 1.0, 1.0), 0.8, (16, 12, 12), (1.0, 0.75, 0.75)),
    ],
)
def test_zoomed_pyramid_passes_the_actual_zoom_of_each_axis(
    smooth: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    spacing: tuple[float, float, float],
    zoom: float,
    size: tuple[int, ...],
    actual: tuple[float, ...],
) -> None:
    """Sizes are rounded to the divisor, and coarse axes are not zoomed."""
    seen: list[tuple[tuple[int, ...], tuple[float, ...]]] = []
    pyramid = HybridNet.pyramid

    def spy(self: HybridNet, x: Tensor, zoom: tuple[float, ...]) -> object:
        seen.append((tuple(x.shape[2:]), zoom))
        return pyramid(self, x, zoom)

    monkeypatch.setattr(HybridNet, "pyramid", spy)
    with torch.no_grad():
        answer = zoomed_pyramid(HybridNet(replace(SPEC, spacing=spacing)).eval(), smooth, zoom)
    assert seen == [(size, pytest.approx(actual))]
    assert answer.logits[0].shape[2:] == smooth.shape[2:]


def test_axis_zooms_keeps_coarse_axes() -> None:
    assert axis_zooms(1.3, (1.5, 1.5, 1.5)) == (1.3, 1.3, 1.3)
    assert axis_zooms(1.3, (1.5, 1.5, 4.5)) == (1.3, 1.3, 1.3)
    assert axis_zooms(1.3, (1.5, 1.5, 10.0)) == (1.3, 1.3, 1.0)


def compare(logits: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    return prediction_consistency(logits.log_softmax(1), teacher.log_softmax(1), valid)


def test_prediction_consistency_equals_two_classes_by_hand() -> None:
    """Compare a teacher of 3/4 with a student of 1/2."""
    teacher, student = voxels([0.0], [LOG3]), voxels([0.0], [0.0])
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    dice = 1 - (1.25 - 0.25) / 1.25
    found = compare(student, teacher, voxels([1.0]))
    assert found.item() == pytest.approx(kl + dice, abs=1e-4)


def test_prediction_consistency_equals_six_classes_by_hand() -> None:
    """Compare a uniform student with a teacher of 0.4 background and 0.12 for each structure."""
    log_p = voxels(*[[-math.log(6)]] * 6)
    log_t = voxels([math.log(0.4)], *[[math.log(0.12)]] * 5)
    divergence = 0.4 * math.log(0.4 * 6) + 5 * 0.12 * math.log(0.12 * 6)
    # The overlap of each structure is the minimum of target and prediction.
    dice = 2 * 0.12 / (0.12 + 1 / 6)
    # With one voxel the weight cancels, except for the epsilon of Dice.
    weight = math.exp(-divergence)
    found = prediction_consistency(log_p, log_t, voxels([1.0])).item()
    assert found == pytest.approx(divergence + 1 - dice, abs=1e-4)
    assert rectified_divergence(log_p, log_t, voxels([1.0]))[1].item() == pytest.approx(
        weight, abs=1e-6
    )


def test_rectified_divergence_has_a_weight_without_gradient() -> None:
    """Otherwise the loss would fall if the student disagreed more, where it disagrees much."""
    student = voxels([0.0], [-4.0]).requires_grad_()
    log_t = voxels([0.0], [LOG3]).log_softmax(1)
    divergence, weight = rectified_divergence(student.log_softmax(1), log_t, voxels([1.0]))
    assert divergence.requires_grad
    assert not weight.requires_grad


def test_consistency_terms_weight_features_by_agreement_inside_the_scan() -> None:
    """The features of the first half are opposite to the teacher's, those of the other equal."""
    config = CscConfig(prediction_weight=0, feature_weight=1, pyramid_weight=0)
    features = torch.ones(1, 3, 2, 1, 1)
    opposite = torch.cat([-features[:, :, :1], features[:, :, 1:]], dim=2)
    even = voxels([0.0] * 4, [0.0] * 4)
    sure = voxels([0.0] * 4, [LOG3, LOG3, 0.0, 0.0])
    student = Pyramid([even], opposite)
    teacher = Pyramid([sure], features)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    weight = math.exp(-kl)
    found = consistency_terms(config, student, teacher, voxels([1.0] * 4))
    assert found["csc_features"].item() == pytest.approx(2 * weight / (weight + 1), rel=1e-5)
    inside = voxels([0.0, 0.0, 1.0, 1.0])
    found = consistency_terms(config, student, teacher, inside)
    assert found["csc_features"].item() == pytest.approx(0, abs=1e-6)


def test_consistency_terms_compare_coarse_levels_with_the_teacher() -> None:
    config = CscConfig(prediction_weight=0, feature_weight=0, pyramid_weight=1)
    features = torch.ones(1, 3, 1, 1, 1)
    student = Pyramid([voxels([0.0] * 2, [0.0] * 2), voxels([0.0], [0.0])], features)
    teacher = Pyramid([voxels([0.0] * 2, [LOG3] * 2)], features)
    kl = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    found = consistency_terms(config, student, teacher, voxels([1.0] * 2))
    assert found["csc_pyramid"].item() == pytest.approx(kl, rel=1e-5)


def test_prediction_consistency_weights_differing_voxels_less() -> None:
    teacher = voxels([0.0, 0.0], [LOG3, 4.0])
    student = voxels([0.0, 0.0], [0.0, -4.0])
    log_p, log_t = student.log_softmax(1), teacher.log_softmax(1)
    kl = (log_t.exp() * (log_t - log_p)).sum(1).flatten()
    weight = torch.exp(-kl)
    assert weight[1] < 0.1 * weight[0]
    expected = (kl * weight).sum() / weight.sum()
    expected = expected + soft_dice(log_p.exp(), log_t.exp(), weight.reshape(1, 1, 2, 1, 1))
    ones = voxels([1.0, 1.0])
    assert compare(student, teacher, ones).item() == pytest.approx(expected.item(), rel=1e-5)
    student.requires_grad_()
    compare(student, teacher, ones).backward()
    assert student.grad is not None
    assert student.grad[0, :, 1].abs().sum() < student.grad[0, :, 0].abs().sum()


def test_prediction_consistency_ignores_voxels_outside_the_scan() -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(1, 3, 4, 1, 1, generator=g),
        torch.randn(1, 3, 4, 1, 1, generator=g),
    )
    inside = voxels([1.0, 1.0, 0.0, 0.0])
    student.requires_grad_()
    loss = compare(student, teacher, inside)
    loss.backward()
    assert student.grad is not None
    assert not student.grad[:, :, 2:].any()
    only_inside = compare(student[:, :, :2], teacher[:, :, :2], inside[:, :, :2])
    assert loss.item() == pytest.approx(only_inside.item(), rel=1e-6)
    assert compare(student, teacher, torch.zeros_like(inside)).item() == pytest.approx(0, abs=1e-6)


def positions(size: int) -> Tensor:
    """Return features whose direction rotates along the first axis of the field of view."""
    angle = (
        ((torch.arange(size) + 0.5) / size * 2).reshape(1, 1, size, 1, 1).expand(1, 1, size, 4, 4)
    )
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def test_feature_consistency_compares_the_same_positions() -> None:
    def apart(features: Tensor, teacher: Tensor) -> float:
        return feature_consistency(features, teacher, torch.ones(1, 1, 32, 16, 16)).item()

    assert apart(positions(12), positions(8)) < 1e-3
    assert apart(positions(8), positions(8)) == pytest.approx(0, abs=1e-6)
    assert apart(positions(12).flip(2), positions(8)) > 0.1
    assert apart(-positions(8), positions(8)) == pytest.approx(2, abs=1e-5)
    assert apart(7 * positions(8), positions(8)) == pytest.approx(0, abs=1e-6)


def test_feature_consistency_uses_the_weights() -> None:
    """Compare opposite features in the half with a quarter of the weight: 2 times 0.2."""
    features = torch.ones(1, 3, 4, 2, 2)
    features[:, :, :2] *= -1
    trust = torch.ones(1, 1, 16, 8, 8)
    trust[:, :, :8] = 0.25
    assert feature_consistency(features, torch.ones(1, 3, 4, 2, 2), trust).item() == pytest.approx(
        0.4, rel=1e-5
    )


def test_pyramid_consistency_compares_with_the_mean_of_the_fine_level() -> None:
    """Two fine voxels of 3/4 and 1/4 average to 1/2, and to 3/8 if the first has less weight."""
    teacher = voxels([0.25, 0.75], [0.75, 0.25])
    even, odd = voxels([0.0], [0.0]), voxels([0.0], [LOG3])
    ones = voxels([1.0, 1.0])
    assert pyramid_consistency([even], teacher, ones).item() == pytest.approx(0, abs=1e-6)
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert pyramid_consistency([odd], teacher, ones).item() == pytest.approx(kl, rel=1e-5)
    assert pyramid_consistency([even, odd], teacher, ones).item() == pytest.approx(kl / 2, rel=1e-5)
    weighted = voxels([math.log(0.625)], [math.log(0.375)])
    assert pyramid_consistency([weighted], teacher, voxels([1 / 3, 1.0])).item() == pytest.approx(
        0, abs=1e-6
    )
    assert pyramid_consistency([odd], teacher, 0 * ones).item() == 0


def test_pyramid_consistency_weights_differing_voxels_less() -> None:
    teacher = voxels([0.25, 0.02], [0.75, 0.98])
    level = voxels([0.0, 4.0], [0.0, -4.0])
    log_p = level.log_softmax(1)
    kl, trust = rectified_divergence(log_p, teacher.log(), voxels([1.0, 1.0]))
    assert trust.flatten()[1] < 0.01 * trust.flatten()[0]
    expected = (kl * trust).sum() / trust.sum()
    assert pyramid_consistency([level], teacher, voxels([1.0, 1.0])).item() == pytest.approx(
        expected.item(), rel=1e-5
    )


@pytest.mark.parametrize(
    ("shape", "zoom", "divisor", "expected"),
    [
        ((16, 16, 16), 1.0, (8, 8, 8), (16, 16, 16)),
        ((64, 64, 64), 1.3, (8, 8, 8), (80, 80, 80)),
        ((64, 64, 16), 0.7, (16, 16, 4), (48, 48, 12)),
        # Instance norm needs two voxels at the deepest level.
        ((16, 16, 16), 0.7, (8, 8, 8), (16, 16, 16)),
        ((32, 32, 8), 0.25, (8, 8, 8), (16, 16, 8)),
    ],
)
def test_zoomed_size_is_a_multiple_of_the_divisor(
    shape: tuple[int, int, int],
    zoom: float,
    divisor: tuple[int, int, int],
    expected: tuple[int, int, int],
) -> None:
    assert zoomed_size(shape, (zoom,) * 3, divisor) == expected


@pytest.mark.parametrize(
    ("shape", "zoom", "divisor", "expected"),
    [
        ((40, 40, 40), (0.7, 0.7, 0.7), (8, 8, 8), (40, 40, 40)),
        ((40, 40, 40), (1.25, 1.25, 1.25), (8, 8, 8), (32, 32, 32)),
        ((32, 32, 32), (1.4, 1.4, 1.4), (8, 8, 8), (24, 24, 24)),
        ((112, 112, 10), (1.4, 1.4, 1.0), (8, 8, 2), (80, 80, 10)),
        # Two voxels at the deepest level remain.
        ((16, 8, 64), (1.4, 1.4, 1.4), (8, 8, 16), (16, 8, 48)),
        ((32, 32, 40), (2.5, 4.0, 4.0), (8, 8, 8), (16, 16, 16)),
    ],
)
def test_view_size_bounds_the_zoomed_voxels(
    shape: tuple[int, ...],
    zoom: tuple[float, ...],
    divisor: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    size = view_size(shape, zoom, divisor)
    assert size == expected
    after = zoomed_size(size, zoom, divisor, shape)
    assert all(edge <= voxels for edge, voxels in zip(after, shape, strict=True))
    assert all(n % step == 0 for n, step in zip((*size, *after), divisor * 2, strict=True))


def batch_of_edge(edge: int) -> Batch:
    """Return two patches, the second one of an unlabelled case."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, edge, edge, edge, generator=generator)
    classes = torch.randint(3, image.shape[:1] + image.shape[2:], generator=generator)
    target = F.one_hot(classes, 3).movedim(-1, 1).float()
    flags = (False, True)
    pseudo = torch.tensor(flags)[:, None, None, None, None].expand_as(image)
    augmentation = Config().student.augmentation
    weight = torch.ones_like(image)
    return Batch(image, target, weight, pseudo, flags, augmentation, generator)


@pytest.mark.parametrize(("edge", "zoom"), [(8, 1.4), (8, 4.0), (16, 2.5), (20, 3.5), (16, 0.5)])
def test_self_training_sees_at_most_the_voxels_of_a_patch(
    edge: int, zoom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.model_validate({"student": {"csc": {"scale_range": (zoom, zoom), "every": 1}}})
    state = TrainingState.start(HybridNet(SPEC), config.student)
    sizes: list[tuple[int, ...]] = []
    pyramid = state.network.pyramid

    def recorded(x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        sizes.append(tuple(x.shape[2:]))
        return pyramid(x, zoom)

    monkeypatch.setattr(state.network, "pyramid", recorded)
    terms = self_training(config)(state, batch_of_edge(edge))
    assert all(term.isfinite() for term in terms.values())
    assert {"csc_predictions", "zoomed_segmentation"} <= set(terms)
    assert len(sizes) == 2
    assert all(max(size) <= edge for size in sizes)


def test_view_draw_reaches_every_position() -> None:
    g = torch.Generator().manual_seed(0)
    views = [View.draw((24, 16, 40), (1.5, 1.0, 1.5), (4, 8, 8), g) for _ in range(100)]
    assert {view.size for view in views} == {(16, 16, 24)}
    assert {view.start[0] for view in views} == {0, 4, 8}
    assert {view.start[1] for view in views} == {0}
    assert {view.start[2] for view in views} == {0, 8, 16}


def test_view_crops_image_and_teacher_alike(network: HybridNet) -> None:
    """Voxel, logit and feature of a place stay together."""
    view = View((16, 16, 16), (4, 0, 8), (8, 16, 8))
    place = torch.arange(16.0)[None, None, :, None, None].expand(1, 1, 16, 16, 16)
    teacher = Pyramid([place], F.avg_pool3d(place, 4))
    cropped = view.crop_teacher(teacher)
    assert torch.equal(view.crop(place)[0, 0, :, 0, 0], torch.arange(4.0, 12.0))
    assert torch.equal(cropped.logits[0], view.crop(place))
    assert torch.equal(cropped.features, F.avg_pool3d(view.crop(place), 4))


def test_zoomed_pyramid_takes_small_patches() -> None:
    spec = replace(SPEC, strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    network, image = HybridNet(spec).eval(), torch.randn(1, 1, 8, 8, 8)
    assert all(math.isfinite(term) for term in parts(network, network, image, 0.6).values())


def test_sigmoid_ramp_grows_to_one() -> None:
    values = [sigmoid_ramp(t / 10) for t in range(11)]
    assert values[0] == pytest.approx(math.exp(-5))
    assert values[5] == pytest.approx(math.exp(-1.25))
    assert values == sorted(values)
    assert values[10] == sigmoid_ramp(3.0) == 1
