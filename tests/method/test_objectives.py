"""Methods set what their name means, and the objectives have known values."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from support.training_files import (
    CLASSES,
    PLAN,
    fresh_network,
    new_state,
    some_batch,
    write_experiment,
)
from torch import Tensor, nn

from hstf.config.experiment import Config
from hstf.config.load import resolve_config
from hstf.config.methods import METHODS, NO_REFINEMENT, Method
from hstf.config.objectives import OBJECTIVES
from hstf.config.refine import RefineConfig
from hstf.config.training import StudentConfig
from hstf.method.csc import consistency_terms, sigmoid_ramp
from hstf.method.objectives.bcp import label_with_ema
from hstf.method.objectives.ema_labels import label_of_ema, one_hot_label
from hstf.method.objectives.mean_teacher import consistency_weight, prediction_distance
from hstf.method.objectives.registry import build_objective, student_objective
from hstf.method.objectives.supervision import supervised
from hstf.method.objectives.uamt import (
    add_noise,
    dropout_enabled,
    entropy_bound,
    relative_entropy,
)
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork
from hstf.models.registry import build
from hstf.runtime.errors import HstfError
from hstf.training.batch import Batch
from hstf.training.losses import pyramid_loss, soft_dice
from hstf.training.mixing import mix
from hstf.training.state import TrainingState

ROOT = Path(__file__).parents[2]
EVERYTHING: dict[str, Any] = {
    "student": {
        "members": 2,
        "ema_blend": 0.5,
        "mixing": {"probability": 0.75, "fraction": 0.5},
        "csc": {
            "prediction_weight": 0.4,
            "feature_weight": 0.2,
            "pyramid_weight": 0.1,
            "segmentation_weight": 0.5,
        },
    },
}
"""A configuration that switches all parts of the method on."""
CSC_WEIGHTS = ("prediction_weight", "feature_weight", "pyramid_weight")


def resolved(method: str, **changes: Any) -> Config:
    return resolve_config({**EVERYTHING, "method": method, **changes})


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        found |= (
            flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return found


def differences(method: str) -> dict[str, Any]:
    """Return the values that differ between ``method`` and ``hstf``."""
    mine, other = (flat(resolved(name).model_dump(mode="json")) for name in (method, "hstf"))
    return {key: value for key, value in mine.items() if other[key] != value and key != "method"}


# ---- presets


def test_methods_and_objectives_are_those_of_the_configuration() -> None:
    assert list(METHODS) == list(get_args(Method))
    objective = StudentConfig.model_fields["objective"].annotation
    assert list(OBJECTIVES) == list(get_args(objective))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_build_objective_imports_every_objective(name: str) -> None:
    assert callable(build_objective(name, Config()))


@pytest.mark.parametrize("method", METHODS)
def test_resolve_config_applies_the_overrides_of_a_method(method: Method) -> None:
    found = flat(resolved(method).model_dump())
    assert {key: found[key] for key in flat(METHODS[method].overrides)} == flat(
        METHODS[method].overrides
    )


def test_method_hstf_changes_nothing() -> None:
    assert METHODS["hstf"].overrides == {}
    assert resolve_config(EVERYTHING) == resolved("hstf")
    assert Config().method == "hstf"


def test_method_without_csc_changes_the_three_weights_only() -> None:
    assert differences("hstf_without_csc") == {f"student.csc.{key}": 0.0 for key in CSC_WEIGHTS}
    assert resolved("hstf_without_csc").student.csc.segmentation_weight == 0.5


@pytest.mark.parametrize(
    "path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem
)
def test_method_without_csc_keeps_scale_augmentation(path: Path) -> None:
    values = yaml.safe_load(path.read_text())
    values.pop("method", None)
    method, control = (
        resolve_config({**values, "method": m}).student.csc for m in ("hstf", "hstf_without_csc")
    )
    assert method.consistent
    assert not control.consistent
    assert control.zoomed
    assert (control.segmentation_weight, control.every) == (
        method.segmentation_weight,
        method.every,
    )


def test_method_without_plr_switches_off_every_part() -> None:
    parts = {name for name, field in RefineConfig.model_fields.items() if field.annotation is bool}
    assert dict.fromkeys(parts, False) == NO_REFINEMENT
    found = differences("hstf_without_plr")
    expected = {f"refine.{part}": False for part in parts}
    expected |= {
        "student.soft_targets": False,
        "student.ema_blend": 0.0,
    }
    assert found == expected
    assert differences("hstf_without_csc_and_plr") == expected | differences("hstf_without_csc")


def test_methods_without_transformer_change_the_network_only() -> None:
    assert differences("hstf_without_transformer") == {"network.name": "hybrid_identity"}
    assert differences("hstf_with_convolutions") == {"network.name": "cnn"}


def test_method_noisy_student_has_hard_labels_only() -> None:
    found = differences("noisy_student")
    assert found == {
        **differences("hstf_without_csc_and_plr"),
        "student.mixing.probability": 0.0,
    }
    assert resolved("noisy_student").student.learns_from == "pseudo_labels"


@pytest.mark.parametrize("method", ["supervised", "full"])
def test_supervised_methods_learn_from_labels_only(method: str) -> None:
    config = resolved(method)
    assert config.student.learns_from == "labels"
    assert config.withheld_labels == (method == "full")
    assert not config.student.csc.consistent
    assert (config.student.ema_blend, config.student.start) == (0, "previous_round")
    assert config.student.mixing == resolved("hstf").student.mixing, (
        "mixed among themselves, as in the warm-up"
    )
    assert config.student.steps == resolved("hstf").student.steps


@pytest.mark.parametrize("method", ["mean_teacher", "uamt", "cross_teaching", "bcp"])
def test_online_methods_learn_from_images(method: str) -> None:
    config = resolved(method)
    assert (config.student.learns_from, config.student.objective) == ("images", method)
    assert (config.network.name == "pair") == (method == "cross_teaching")
    assert (config.student.steps, config.rounds) == (
        resolved("hstf").student.steps,
        resolved("hstf").rounds,
    )


def test_method_wins_over_rounds_overrides() -> None:
    rounds = {2: {"student": {"steps": 7, "csc": {"prediction_weight": 0.9}}}}
    config = resolved("hstf_without_csc", rounds_overrides=rounds)
    assert config.for_round(2).student.steps == 7
    assert not config.for_round(2).student.csc.consistent
    assert resolve_config(config.model_dump(mode="json")) == config


def test_resolve_config_suggests_the_nearest_method() -> None:
    with pytest.raises(
        HstfError,
        match=r"method: there is no method 'hstff'\. Did you mean 'hstf'\? The methods are hstf, ",
    ):
        resolve_config({"method": "hstff"})
    with pytest.raises(HstfError, match="there is no method 3"):
        resolve_config({"method": 3})


def test_resolve_config_refuses_cross_teaching_without_a_pair() -> None:
    with pytest.raises(HstfError, match=r"needs two networks: set network\.name to pair"):
        resolve_config({"student": {"objective": "cross_teaching"}})


# ---- what the networks see


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


# ---- mean teacher


def online(
    folder: Path, method: str, step: int = 6, **student: Any
) -> tuple[Config, TrainingState, Batch]:
    """Return the last step of a method; the second patch is unlabelled, half outside the scan."""
    config, _ = write_experiment(folder, method=method, student={"steps": 6, **student})
    batch = some_batch(config, [False, True])
    batch.target[1], batch.weight[1] = 1 / CLASSES, 0
    batch.target[1, :, :4] = 0
    return config, new_state(config, step), batch


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


@pytest.mark.parametrize("method", ["mean_teacher", "uamt", "cross_teaching"])
def test_objectives_have_supervised_terms_only_for_labelled_patches(
    tmp_path: Path, method: str
) -> None:
    config, state, batch = online(tmp_path, method)
    state = pair_state(config) if method == "cross_teaching" else state
    nowhere = torch.zeros_like(batch.pseudo)
    labelled = replace(batch, pseudo=nowhere, unlabelled=(False,) * len(nowhere))
    assert all(name.startswith("supervised") for name in student_objective(config)(state, labelled))


# ---- uncertainty


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


# ---- cross-teaching


def pair_state(config: Config, step: int = 6) -> TrainingState:
    torch.manual_seed(0)
    spec = NetworkSpec(
        "pair",
        1,
        CLASSES,
        PLAN.channels,
        PLAN.strides,
        PLAN.kernels,
        PLAN.spacing,
        1,
        1,
        pair=("hybrid", "cnn"),
    )
    state = TrainingState.start(build(spec), config.student)
    state.network.eval()
    state.step = step
    return state


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


# ---- a pair in self-training


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


# ---- bidirectional copy-paste


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
