"""Overlapping regions: the network's joint distribution against enumeration, the loss by hand and against torch's."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support.stages import calibrate, plan, preprocess, warmup
from support.training_files import PLAN
from torch import Tensor

from hstf.cli import main
from hstf.config.load import resolve_config
from hstf.config.merge import merge
from hstf.config.network import NetworkConfig
from hstf.config.yaml_files import read_yaml
from hstf.experiment.cases import Split, read_cases
from hstf.experiment.layout import Layout
from hstf.imaging.arrays import read_array
from hstf.imaging.regions import membership, overlaps, structure_mask, structure_probability
from hstf.models.regions import class_logits
from hstf.models.registry import build, load_network, network_spec, save_network
from hstf.runtime.files import read_json
from hstf.scoring.metrics import structure_dice
from hstf.training.losses import region_log_odds, region_loss, region_sums

TUMOUR = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
CLASSES = 4
"""Background, necrosis, oedema, enhancing."""
NESTED = tuple(TUMOUR.values())


def random_odds(seed: int, regions: int = 3, scale: float = 3.0) -> Tensor:
    """Log-odds ``(2, R, 3, 4, 2)`` of what the heads of a network say."""
    return scale * torch.randn(2, regions, 3, 4, 2, generator=torch.Generator().manual_seed(seed))


@st.composite
def structures(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """Regions of three classes, in any overlap."""
    subsets = [c for n in (1, 2, 3) for c in itertools.combinations((1, 2, 3), n)]
    return tuple(draw(st.lists(st.sampled_from(subsets), min_size=1, max_size=4, unique=True)))


# --- the distribution of the network ------------------------------------------------------------------


@given(structures(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_class_probabilities_are_those_of_independent_sigmoids_given_that_a_class_has_come_out(
    regions: tuple[tuple[int, ...], ...], seed: int
) -> None:
    """Enumerated: the chance of each set of regions, and then those alone that a class has."""
    z = random_odds(seed, len(regions)).double()
    chances = {
        taken: torch.stack(
            [(z[:, r] if t else -z[:, r]).sigmoid() for r, t in enumerate(taken)]
        ).prod(0)
        for taken in itertools.product((False, True), repeat=len(regions))
    }
    of_class = [chances[tuple(k in members for members in regions)] for k in range(CLASSES)]
    expected = torch.stack(of_class, 1) / torch.stack(of_class).sum(0)[:, None]
    found = class_logits(z, regions, CLASSES).softmax(1)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_a_part_is_never_likelier_than_the_whole() -> None:
    logits = class_logits(random_odds(0), NESTED, CLASSES)
    whole, core, enhancing = region_log_odds(logits, NESTED).sigmoid().unbind(1)
    assert (whole >= core).all() and (core >= enhancing).all()
    heads = random_odds(0).sigmoid()
    assert (heads[:, 2] > heads[:, 0]).any(), "the sigmoids themselves contradict each other"


@given(structures(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_what_is_decoded_encodes_to_the_same_regions(
    regions: tuple[tuple[int, ...], ...], seed: int
) -> None:
    """From a label map to its regions, to sure log-odds, to the likeliest class: one that lies in the same regions."""
    label = torch.randint(0, CLASSES, (2, 3, 4, 2), generator=torch.Generator().manual_seed(seed))
    drawn = torch.stack(
        [torch.from_numpy(structure_mask(label.numpy(), members)) for members in regions], 1
    )
    decoded = class_logits(20.0 * drawn - 10, regions, CLASSES).argmax(1).numpy()
    for r, members in enumerate(regions):
        np.testing.assert_array_equal(structure_mask(decoded, members), drawn[:, r].numpy())


def test_log_odds_of_a_region_are_those_of_its_summed_probability() -> None:
    logits = torch.randn(2, CLASSES, 5, generator=torch.Generator().manual_seed(1)).double()
    inside = region_sums(logits.softmax(1), NESTED)
    torch.testing.assert_close(region_log_odds(logits, NESTED), (inside / (1 - inside)).log())
    extreme = torch.tensor([80.0, -80.0, 0.0, 90.0])[None, :, None]
    assert region_log_odds(extreme, NESTED).isfinite().all()


@pytest.mark.parametrize("name", ["hybrid", "utnet", "unetpp", "pair"])
def test_a_network_has_a_head_for_each_region_and_answers_with_classes(
    name: str, tmp_path: Path
) -> None:
    config = NetworkConfig(
        name=name, pair=("hybrid", "utnet"), transformer_layers=1, transformer_heads=1
    )
    torch.manual_seed(0)
    network = build(network_spec(config, PLAN, 2, CLASSES, NESTED)).eval()
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        answer = network.pyramid(image)
        assert all(level.shape[1] == CLASSES for level in answer.logits)
        for part in network.parts:
            z = part.network.pyramid(image).logits[0]
            assert z.shape == (1, len(NESTED), 16, 16, 16)
            torch.testing.assert_close(part(image), class_logits(z, NESTED, CLASSES))
        save_network(tmp_path / "weights.pt", network, {"member": "a"})
        again, _ = load_network(tmp_path / "weights.pt")
        torch.testing.assert_close(again(image), network(image), rtol=0, atol=0)
    assert again.spec == network.spec and again.divisor == network.divisor


def test_without_regions_networks_are_as_they_were() -> None:
    spec = network_spec(NetworkConfig(transformer_layers=1, transformer_heads=1), PLAN, 1, CLASSES)
    assert spec.regions == () and "network.encoder.0.first.weight" not in build(spec).state_dict()
    assert "network.encoder.0.first.weight" in build(replace(spec, regions=NESTED)).state_dict()


# --- the loss -----------------------------------------------------------------------------------------


def test_the_loss_of_one_voxel_by_hand() -> None:
    """Heads that say nothing: of four equally likely classes three are tumour, two its core, one enhances."""
    logits = class_logits(torch.zeros(1, 3, 1, 1, 1), NESTED, CLASSES)
    target = torch.tensor([0.0, 0.0, 1.0, 0.0]).view(1, 4, 1, 1, 1)  # oedema: whole tumour alone
    entropy = -(math.log(3 / 4) + math.log(2 / 4) + math.log(3 / 4)) / 3
    dice = 1 - 2 * 0.75 / (0.75 + 1)  # of the whole tumour, the others are not in the target
    loss = region_loss(logits, target, torch.ones(1, 1, 1, 1, 1), NESTED)
    assert loss.item() == pytest.approx(0.5 * (entropy + dice), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_is_torchs_binary_cross_entropy_and_a_dice_in_numpy(seed: int) -> None:
    logits = class_logits(random_odds(seed), NESTED, CLASSES)
    g = torch.Generator().manual_seed(seed)
    target = (3 * torch.randn(logits.shape, generator=g)).softmax(1)
    weight = torch.rand(2, 1, *logits.shape[2:], generator=g)
    p, t = logits.softmax(1).double().numpy(), target.double().numpy()
    inside = [(p[:, list(m)].sum(1), t[:, list(m)].sum(1)) for m in NESTED]
    w = weight.double().numpy()[:, 0]
    dice = [1 - 2 * (np.minimum(a, b) * w).sum() / ((a + b) * w).sum() for a, b in inside]
    odds = torch.stack([torch.from_numpy(np.log(a / (1 - a))) for a, _ in inside], 1)
    truth = torch.stack([torch.from_numpy(b) for _, b in inside], 1)
    entropy = F.binary_cross_entropy_with_logits(
        odds, truth, weight=weight.double(), reduction="sum"
    )
    entropy /= 3 * weight.double().sum()
    found = region_loss(logits, target, weight, NESTED)
    assert found.item() == pytest.approx(0.5 * (entropy.item() + np.mean(dice)), abs=1e-5)


def test_what_is_ignored_or_outside_of_the_scan_teaches_nothing() -> None:
    z = random_odds(3).requires_grad_()
    target = F.one_hot(torch.randint(0, 4, (2, 3, 4, 2)), CLASSES).movedim(-1, 1).float()
    weight = torch.ones(2, 1, 3, 4, 2)
    target[:, :, 0], weight[:, :, 0] = 0, 0
    region_loss(class_logits(z, NESTED, CLASSES), target, weight, NESTED).backward()
    assert z.grad is not None
    assert not z.grad[:, :, 0].any() and z.grad[:, :, 1:].abs().sum() > 0


def test_every_head_learns_and_half_precision_is_computed_in_float32() -> None:
    z = random_odds(4).requires_grad_()
    target = F.one_hot(torch.randint(0, 4, (2, 3, 4, 2)), CLASSES).movedim(-1, 1).float()
    ones = torch.ones(2, 1, 3, 4, 2)
    region_loss(class_logits(z, NESTED, CLASSES), target, ones, NESTED).backward()
    assert z.grad is not None and (z.grad.abs().sum((0, 2, 3, 4)) > 0).all()
    assert class_logits(z.bfloat16(), NESTED, CLASSES).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            class_logits(z, NESTED, CLASSES), class_logits(z, NESTED, CLASSES).float()
        )


# --- structures of label maps ---------------------------------------------------------------------------


def test_structures_of_a_label_map() -> None:
    label = np.array([0, 1, 2, 3, 255], np.uint8)
    assert structure_mask(label, (1, 3)).tolist() == [False, True, False, True, False]
    assert membership(TUMOUR).tolist() == [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    shares = np.array([[5, 0], [100, 128], [50, 127], [100, 1]], np.uint8)
    assert structure_probability(shares, (1, 2, 3)).tolist() == [250, 255]
    assert structure_probability(np.full((4, 1), 200, np.uint8), (1, 2)).tolist() == [255]
    assert structure_probability(shares, (2,)).tolist() == [50, 127]


@given(st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_overlaps_of_regions_are_those_of_their_masks(seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 4, (2, 40))
    table = np.zeros((4, 4), np.int64)
    np.add.at(table, (a, b), 1)
    masks = [(np.isin(a, m), np.isin(b, m)) for m in TUMOUR.values()]
    expected = [[(p & q).sum(), p.sum(), q.sum()] for p, q in masks]
    np.testing.assert_array_equal(overlaps(table, TUMOUR), np.transpose(expected))


# --- learned from ---------------------------------------------------------------------------------------


def test_regions_of_a_phantom_are_learned_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of fold, against the same voxels anywhere; then what calibration says of each region."""
    monkeypatch.chdir(tmp_path)
    made = ["--cases", "4", "--labelled", "4", "--test", "0", "--size", "24", "24", "24"]
    made += ["--lesions", "3", "--variation", "0.3", "--noise", "0.02"]
    assert main(["phantom", "--layout", "brats", "--output", "data", *made]) == 0
    assert main(["import", "brats", "data", "--output", "config/x.yaml"]) == 0
    config = resolve_config(merge(read_yaml(Path("config/x.yaml")), {
        "device": "cpu", "preprocess": {"workers": 1}, "teacher": {"scales": [1.0, 1.25]}, "network": {"name": "cnn"},
        "plan": {"patch_size": [24, 24, 24], "batch_size": 2, "base_channels": 8, "stages": 3},
        "warmup": {"folds": 2, "steps": 60, "warmup_steps": 4, "learning_rate": 0.02, "augmentation": {"flip_axes": []}},
    }))  # fmt: skip
    plan(config)
    preprocess(config, "labelled_0")
    for fold in ("fold_0", "fold_1"):
        warmup(config, fold)
    layout, dices = Layout.of(config), []
    for case in read_cases(config).of(Split.LABELLED):
        predicted = (
            read_array(layout.out_of_fold / case.case_id / "probabilities.b2nd")
            .argmax(0)
            .astype(np.uint8)
        )
        anywhere = (
            np.random.default_rng(0).permutation(predicted.reshape(-1)).reshape(predicted.shape)
        )
        label = read_array(layout.preprocessed / case.case_id / "label.b2nd")
        dices.append(
            [structure_dice(found, label, config.structures) for found in (predicted, anywhere)]
        )
    found, chance = np.mean(dices, axis=0)
    assert (found > 0.35).all() and (chance < 0.1).all(), (found, chance)
    agreement = read_json(layout.out_of_fold / case.case_id / "agreement.json")
    assert all(dice.keys() == config.regions.keys() for dice in agreement["scales"].values())
    known = calibrate(config)
    assert known.dice_models.keys() == known.structure.keys() == config.regions.keys()
    assert (
        known.lesions.keys() == {"enhancing_tumour"}
        and list(known.thresholds) == config.class_names
    )
    assert known.evidence["dice"].keys() == config.regions.keys()
