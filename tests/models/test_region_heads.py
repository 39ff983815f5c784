"""Networks with a head for each region: the joint distribution of their classes."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.training_files import PLAN
from support.tumour_regions import CLASSES, NESTED, random_log_odds
from torch import Tensor

from hstf.config.network import NetworkConfig
from hstf.imaging.regions import structure_mask
from hstf.models.regions import class_logits
from hstf.models.registry import build, load_network, network_spec, save_network
from hstf.training.losses import region_log_odds

Regions = tuple[tuple[int, ...], ...]


@st.composite
def overlapping_regions(draw: st.DrawFn) -> Regions:
    """Draw one to four regions of three classes, with any overlap."""
    subsets: list[tuple[int, ...]] = []
    for size in (1, 2, 3):
        subsets.extend(itertools.combinations((1, 2, 3), size))
    region = st.sampled_from(subsets)
    return tuple(draw(st.lists(region, min_size=1, max_size=4, unique=True)))


def membership_probability(log_odds: Tensor, is_member: tuple[bool, ...]) -> Tensor:
    """Return the probability that a voxel is in exactly these regions, if regions are independent.

    Args:
        log_odds: ``(B, R, ...)``.
        is_member: whether the voxel is in each of the regions.
    """
    factors = []
    for region, inside in enumerate(is_member):
        odds = log_odds[:, region]
        factors.append(odds.sigmoid() if inside else (-odds).sigmoid())
    return torch.stack(factors).prod(0)


@given(overlapping_regions(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_class_logits_are_sigmoids_under_the_condition_that_a_class_exists(
    regions: Regions,
    seed: int,
) -> None:
    log_odds = random_log_odds(seed, len(regions)).double()
    probabilities = []
    for index in range(CLASSES):
        is_member = tuple(index in classes for classes in regions)
        probabilities.append(membership_probability(log_odds, is_member))
    joint = torch.stack(probabilities, 1)
    expected = joint / joint.sum(1, keepdim=True)
    found = class_logits(log_odds, regions, CLASSES).softmax(1)
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=1e-4)


def test_class_logits_make_a_part_at_most_as_likely_as_the_whole() -> None:
    log_odds = random_log_odds(0)
    logits = class_logits(log_odds, NESTED, CLASSES)
    whole, core, enhancing = region_log_odds(logits, NESTED).sigmoid().unbind(1)
    assert (whole >= core).all()
    assert (core >= enhancing).all()
    heads = log_odds.sigmoid()
    assert (heads[:, 2] > heads[:, 0]).any(), "the heads themselves contradict each other"


@given(overlapping_regions(), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_class_logits_of_certain_heads_have_the_same_regions(regions: Regions, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (2, 3, 4, 2), generator=generator).numpy()
    masks = [torch.from_numpy(structure_mask(label, classes)) for classes in regions]
    certain = 20.0 * torch.stack(masks, 1) - 10
    decoded = class_logits(certain, regions, CLASSES).argmax(1).numpy()
    for classes, mask in zip(regions, masks, strict=True):
        np.testing.assert_array_equal(structure_mask(decoded, classes), mask.numpy())


def test_class_logits_are_float32_under_half_precision() -> None:
    log_odds = random_log_odds(4)
    assert class_logits(log_odds.bfloat16(), NESTED, CLASSES).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        logits = class_logits(log_odds, NESTED, CLASSES)
        torch.testing.assert_close(logits, logits.float())


@pytest.mark.parametrize("name", ["hybrid", "utnet", "unetpp", "pair"])
def test_build_adds_a_head_for_each_region_and_returns_classes(name: str, tmp_path: Path) -> None:
    config = NetworkConfig(
        name=name,
        pair=("hybrid", "utnet"),
        transformer_layers=1,
        transformer_heads=1,
    )
    torch.manual_seed(0)
    network = build(network_spec(config, PLAN, 2, CLASSES, NESTED)).eval()
    image = torch.randn(1, 2, 16, 16, 16)
    with torch.no_grad():
        pyramid = network.pyramid(image)
        assert all(level.shape[1] == CLASSES for level in pyramid.logits)
        for part in network.parts:
            heads = part.network.pyramid(image).logits[0]
            assert heads.shape == (1, len(NESTED), 16, 16, 16)
            torch.testing.assert_close(part(image), class_logits(heads, NESTED, CLASSES))
        save_network(tmp_path / "weights.pt", network, {"member": "a"})
        loaded, _ = load_network(tmp_path / "weights.pt")
        torch.testing.assert_close(loaded(image), network(image), rtol=0, atol=0)
    assert loaded.spec == network.spec
    assert loaded.divisor == network.divisor


def test_build_without_regions_keeps_the_names_of_weights() -> None:
    config = NetworkConfig(transformer_layers=1, transformer_heads=1)
    spec = network_spec(config, PLAN, 1, CLASSES)
    wrapped = "network.encoder.0.first.weight"
    assert spec.regions == ()
    assert wrapped not in build(spec).state_dict()
    assert wrapped in build(replace(spec, regions=NESTED)).state_dict()
