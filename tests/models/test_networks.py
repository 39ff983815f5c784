"""All registered networks: shapes, gradients, costs, and configurations that are refused."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from support.networks import FULL, HALF, THREE, an_input
from support.tiny_model import tiny_plan

from hstf.cli import main
from hstf.commands.models import cost
from hstf.config.network import NetworkConfig
from hstf.config.networks import NETWORKS
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.models.padded import padded_size
from hstf.models.registry import (
    NAMES,
    network_spec,
)
from hstf.models.registry import build as build_network
from hstf.models.utnet import EfficientAttention
from hstf.runtime.errors import HstfError

COARSE = replace(
    THREE,
    inputs=4,
    classes=6,
    channels=(4, 8, 8, 8),
    strides=(FULL, (2, 2, 1), (2, 2, 1), HALF),
    kernels=((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)),
    spacing=(0.7, 0.8, 5.0),
    patch_size=(32, 16, 4),
)
PLANNED = {
    "isotropic, two classes": (THREE, (20, 8, 12)),
    "coarse slices, six classes": (COARSE, (16, 24, 6)),
}


@pytest.mark.parametrize(("spec", "size"), PLANNED.values(), ids=PLANNED.keys())
@pytest.mark.parametrize("name", NAMES)
def test_build_returns_networks_with_logits_on_the_grid_of_the_input(
    name: str, spec: NetworkSpec, size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    network, x = build_network(replace(spec, name=name)).eval(), torch.randn(2, spec.inputs, *size)
    assert all(n % d == 0 for n, d in zip(size, network.divisor, strict=True))
    with torch.no_grad():
        answer = network.pyramid(x, (1.1, 1.0, 1.2))
    assert answer.logits[0].shape == (2, spec.classes, *size)
    voxels = [level[0, 0].numel() for level in answer.logits]
    assert voxels == sorted(voxels, reverse=True)
    assert all(
        level.shape[:2] == (2, spec.classes) and level.isfinite().all() for level in answer.logits
    )
    assert answer.features.shape[0] == 2 and answer.features.isfinite().all()
    assert all(
        1 <= n <= whole / 2 for n, whole in zip(answer.features.shape[2:4], size, strict=False)
    )


@pytest.mark.parametrize("name", NAMES)
def test_build_returns_networks_with_gradients_for_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(replace(THREE, name=name)).train()
    sum(
        level.square().mean() for level in network.pyramid(torch.randn(2, 1, 20, 8, 12)).logits
    ).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_pair_returns_the_mean_of_both_probabilities() -> None:
    torch.manual_seed(0)
    pair, x = (
        build_network(replace(THREE, name="pair", pair=("hybrid", "cnn"))).eval(),
        an_input(THREE),
    )
    first, second = pair.parts
    assert (first.spec.name, second.spec.name) == ("hybrid", "cnn")
    with torch.no_grad():
        expected = (first(x).softmax(1) + second(x).softmax(1)) / 2
        answer = pair.pyramid(x)
        assert torch.allclose(pair(x).exp(), expected, atol=1e-6)
    assert [level.shape for level in answer.logits] == [
        level.shape for level in first.pyramid(x).logits
    ]
    assert answer.features.shape[1] == 16
    assert first.parts == (first,)


@pytest.mark.parametrize(
    ("size", "padded"),
    [((32, 32, 64), (32, 32, 64)), ((40, 56, 40), (64, 64, 64)), ((9, 32, 1), (64, 32, 32))],
)
def test_padded_size_is_a_multiple_of_the_stride(
    size: Sequence[int], padded: Sequence[int]
) -> None:
    assert padded_size(size, 32) == padded


def test_unetr_keeps_its_positions_at_the_planned_patch() -> None:
    torch.manual_seed(0)
    vit = build_network(replace(THREE, name="vit", patch_size=(32, 16, 16))).eval()
    x = torch.randn(1, 1, 32, 16, 16)
    with torch.no_grad():
        vit(torch.randn(1, 1, 48, 16, 32))  # leaves nothing behind
        assert torch.allclose(vit(x), vit.network(x), atol=1e-5)


def test_relative_bias_of_utnet_depends_on_the_offset_only() -> None:
    attention = EfficientAttention(4, 4, 2)
    bias = attention.relative((4, 4, 4), (4, 4, 4)).reshape(2, *(4,) * 6)  # heads, places, cells
    assert torch.allclose(bias[:, :-1, :-1, :-1, :-1, :-1, :-1], bias[:, 1:, 1:, 1:, 1:, 1:, 1:])
    assert bias[0].unique().numel() == 7**3
    attention.bias.data = (
        torch.arange(-3.0, 4.0).repeat_interleave(49).expand(2, 343)
    )  # the offset along the first axis
    finer = attention.relative((8, 4, 4), (4, 4, 4)).reshape(2, 8, 16, 4, 16)[0, :, 0, :, 0]
    places = torch.arange(8) / 2 - 0.25  # in cells
    assert torch.allclose(finer[1:-1], (places[:, None] - torch.arange(4))[1:-1])
    assert attention.relative((2, 4, 1), (2, 4, 1)).shape == (2, 8, 8)


def test_build_refuses_unknown_networks_and_modalities() -> None:
    with pytest.raises(HstfError, match=r"unknown network 'unet'\. Known networks: hybrid, .*pair"):
        build_network(replace(THREE, name="unet"))
    with pytest.raises(HstfError, match="vnet needs 1, 2, 4, 8 or 16 modalities, found 3"):
        build_network(replace(THREE, name="vnet", inputs=3))


def test_cost_of_convolutions_grows_with_the_patch() -> None:
    small, large = (
        cost(replace(THREE, name="hybrid_identity", patch_size=p))
        for p in ((16, 8, 8), (16, 16, 8))
    )
    assert (large.operations, large.parameters) == (2 * small.operations, small.parameters)
    attending = cost(replace(THREE, name="hybrid", patch_size=(16, 8, 8)))
    assert attending.operations > small.operations


def test_models_command_lists_every_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text("experiment: tiny\nplan: {base_channels: 4, max_channels: 8}\n")
    assert main(["models", "--config", str(config), "--patch", "16", "16", "8"]) == 0
    rows = [
        line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")
    ][1:]
    assert [row[0].strip("| ").split(" ")[0] for row in rows] == list(NAMES)
    assert all(float(row[1]) > 0 for row in rows)


def test_network_spec_has_heads_that_fit() -> None:
    def heads(channels: tuple[int, ...], **options: object) -> int:
        plan = tiny_plan().model_copy(update={"channels": channels})
        config = NetworkConfig(**{"transformer_heads": 8, **options})
        return network_spec(config, plan, 1, 3).transformer_heads

    assert heads((16, 96)) == 3  # of 32 channels
    assert heads((16, 512)) == 8
    assert heads((16, 512), transformer_heads=2) == 2
    assert heads((12, 48)) == 1
    assert heads((16, 100)) == 2  # 100 is no multiple of 6
    assert heads((12, 48), name="utnet") == 6
    plan = tiny_plan()
    odd = plan.model_copy(update={"channels": (5, 10)})
    spec = network_spec(NetworkConfig(transformer_heads=8), odd, 1, 3)
    assert spec.transformer_heads == 1
    assert HybridNet(spec)(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_network_spec_refuses_plans_without_a_network() -> None:
    odd = tiny_plan().model_copy(update={"channels": (4, 9)})
    with pytest.raises(
        HstfError, match=r"9 channels, .*make plan\.base_channels and plan\.max_channels even"
    ):
        network_spec(NetworkConfig(), odd, 1, 3)
    assert network_spec(NetworkConfig(name="cnn"), odd, 1, 3).channels == (4, 9)
    with pytest.raises(HstfError, match="9 channels"):
        network_spec(NetworkConfig(name="pair", pair=("vnet", "hybrid")), odd, 1, 3)
    with pytest.raises(HstfError, match="single voxel at the deepest of 2 levels"):
        network_spec(
            NetworkConfig(), tiny_plan().model_copy(update={"patch_size": (2, 2, 2)}), 1, 3
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_network_config_accepts_every_network_of_the_list(name: str) -> None:
    assert NetworkConfig(name=name, pair=(name, "cnn")).name == name


def test_network_config_names_the_networks_for_an_unknown_name() -> None:
    with pytest.raises(ValidationError, match=r"'hybrid', .*'vnet' or 'pair'"):
        NetworkConfig(name="unet")
