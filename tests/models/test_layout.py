"""A network computes the same in both layouts."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from hstf.models.base import NetworkSpec, SegmentationNetwork
from hstf.models.blocks import DecoderBlock, ResidualBlock
from hstf.models.layers import is_channels_last
from hstf.models.layout import in_fast_layout
from hstf.models.registry import build
from hstf.models.transformer import Transformer

CPU = torch.device("cpu")
SPEC = NetworkSpec(
    name="hybrid",
    inputs=2,
    classes=3,
    channels=(8, 16, 24),
    strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)),
    kernels=((3, 3, 1), (3, 3, 3), (3, 3, 3)),
    spacing=(1.0, 1.0, 3.0),
    transformer_layers=1,
    transformer_heads=2,
    drop_path=0.0,
)


def losses_and_gradients(network: SegmentationNetwork, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    pyramid = network.pyramid(x)
    assert all(logits.is_contiguous() for logits in pyramid.logits)
    loss = torch.stack([(logits.softmax(1) ** 2).mean() for logits in pyramid.logits]).sum()
    loss = loss + pyramid.features.square().mean()
    return loss, list(torch.autograd.grad(loss, list(network.parameters()), allow_unused=True))


@pytest.mark.parametrize("name", ["hybrid", "cnn"])
def test_in_fast_layout_does_not_change_the_network(name: str) -> None:
    torch.manual_seed(0)
    network = build(replace(SPEC, name=name))
    x = torch.randn(2, 2, 16, 16, 8)
    changed = in_fast_layout(copy.deepcopy(network), CPU, "bf16")
    expected, gradients = losses_and_gradients(network, x)
    loss, found = losses_and_gradients(changed, x)
    assert loss.item() == pytest.approx(expected.item(), rel=2e-5)
    for a, b in zip(found, gradients, strict=True):
        if b is not None:
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * max(float(b.abs().max()), 1e-3))


def test_in_fast_layout_keeps_voxels_together_from_end_to_end() -> None:
    network = in_fast_layout(build(SPEC), CPU, "bf16")
    seen = []

    def look(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(is_channels_last(output))

    for module in network.modules():
        if isinstance(module, ResidualBlock | DecoderBlock | Transformer):
            module.register_forward_hook(look)
    network(torch.randn(2, 2, 16, 16, 8))
    assert seen and all(seen)


def test_in_fast_layout_computes_in_bfloat16() -> None:
    network = in_fast_layout(build(SPEC), CPU, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.randn(2, 2, 16, 16, 8)).float().sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("precision", "expected"), [("off", False), ("auto", False), ("bf16", True)]
)
def test_in_fast_layout_changes_networks_that_compute_in_bfloat16(
    precision: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hstf.runtime.devices.has_fast_bf16", lambda device: False)
    network = in_fast_layout(build(SPEC), CPU, precision)
    assert is_channels_last(network.encoder[1].first.weight) == expected


def test_in_fast_layout_reaches_pairs_and_regions() -> None:
    pair = in_fast_layout(build(replace(SPEC, name="pair", pair=("hybrid", "vnet"))), CPU, "bf16")
    assert is_channels_last(pair.parts[0].encoder[1].first.weight)
    assert not any(is_channels_last(p) for p in pair.parts[1].parameters() if p.ndim == 5)
    regions = in_fast_layout(build(replace(SPEC, regions=((1, 2), (2,)))), CPU, "bf16")
    assert any(is_channels_last(p) for p in regions.parameters() if p.ndim == 5)
