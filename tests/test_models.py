"""The network: shapes, gradients, positions in millimetres, and files that bring it back."""

import hashlib
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_model import tiny_plan

from hstf.config.network import NetworkConfig
from hstf.errors import HstfError
from hstf.models import HybridNet, NetworkSpec, load_network, network_spec, save_network
from hstf.models.hybrid import attended_level
from hstf.models.transformer import TransformerLayer, rotary_angles, rotate

HALF = (2, 2, 2)
FULL = (1, 1, 1)
SPECS = {
    "two stages": NetworkSpec(
        "hybrid", 1, 2, (4, 8), (FULL, HALF), ((3, 3, 3),) * 2, (1.0, 1.0, 1.0), 1, 1
    ),
    "three stages, cnn": NetworkSpec(
        "cnn", 4, 6, (4, 8, 8), (FULL, HALF, HALF), ((3, 3, 3),) * 3, (1.0, 1.0, 1.0)
    ),
    "four stages, coarse slices": NetworkSpec(
        "hybrid", 1, 6, (4, 8, 12, 12), (FULL, (2, 2, 1), (2, 2, 1), HALF),
        ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)), (0.7, 0.8, 5.0), 2, 2,
    ),
    "five stages, attention above the deepest": NetworkSpec(
        "hybrid", 4, 2, (4, 4, 8, 8, 8), (FULL, HALF, HALF, (1, 2, 2), HALF), ((3, 3, 3),) * 5, (2.0, 1.0, 1.0), 1, 1, 4
    ),
}  # fmt: skip


def build(spec: NetworkSpec, seed: int = 0) -> HybridNet:
    """A network whose transformer has a say (its LayerScale starts near 0)."""
    torch.manual_seed(seed)
    network = HybridNet(spec)
    for layer in network.transformer.layers if network.transformer is not None else []:
        torch.nn.init.ones_(layer.scale1)
        torch.nn.init.ones_(layer.scale2)
    return network


def an_input(spec: NetworkSpec, times: tuple[int, int, int] = (2, 1, 3)) -> torch.Tensor:
    size = [n * d for n, d in zip(times, HybridNet(spec).divisor, strict=True)]
    return torch.randn(2, spec.inputs, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("times", [(2, 1, 3), (1, 2, 1)])
def test_any_multiple_of_the_divisor_comes_back_in_its_size(
    spec: NetworkSpec, times: tuple[int, int, int]
) -> None:
    network, x = build(spec).eval(), an_input(spec, times)
    with torch.no_grad():
        answer = network.pyramid(x)
        assert torch.equal(answer.logits[0], network(x))
    shapes, size = [], list(x.shape[2:])
    for stride in [FULL, *spec.strides[1:-1]]:
        size = [n // s for n, s in zip(size, stride, strict=True)]
        shapes.append((2, spec.classes, *size))
    assert [tuple(level.shape) for level in answer.logits] == shapes
    level = attended_level(spec.strides, spec.transformer_stride)
    total = torch.tensor(spec.strides[: level + 1]).prod(0).tolist()
    expected = [n // s for n, s in zip(x.shape[2:], total, strict=True)]
    assert list(answer.features.shape) == [2, spec.channels[level], *expected]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_gradients_reach_every_parameter(spec: NetworkSpec) -> None:
    network = build(replace(spec, drop_path=0.0)).train()
    sum(level.square().mean() for level in network.pyramid(an_input(spec)).logits).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert any("transformer" in name for name, _ in network.named_parameters()) == (spec.name == "hybrid")


def test_the_deepest_level_within_the_largest_stride_attends() -> None:
    strides = (FULL, HALF, (2, 2, 1), HALF)
    assert [attended_level(strides, n) for n in (2, 3, 4, 7, 8, 100)] == [1, 1, 2, 2, 3, 3]


def test_evaluation_is_deterministic_and_training_skips_layers_now_and_then() -> None:
    spec = replace(SPECS["two stages"], drop_path=0.5)
    network, x = build(spec), an_input(spec)
    network.eval()
    assert torch.equal(network(x), network(x))
    network.train()
    assert any(not torch.equal(network(x), network(x)) for _ in range(4))


def test_a_skipped_layer_keeps_its_expectation() -> None:
    layer = TransformerLayer(4, 1, 0.25).train()
    torch.manual_seed(0)
    kept = layer._path(torch.ones(20_000, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_rotation_keeps_norms_and_knows_relative_positions_only() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(12, generator=g), torch.randn(12, generator=g)
    angles = rotary_angles((4, 5, 6), (2.0, 1.0, 3.0), 6, torch.device("cpu"))
    turned_q, turned_k = rotate(q.expand(120, 12), angles), rotate(k.expand(120, 12), angles)
    assert torch.allclose(turned_q.norm(dim=1), q.norm().expand(120), atol=1e-5)
    scores = (turned_q @ turned_k.T).reshape(4, 5, 6, 4, 5, 6)
    one_on = scores[1:, 1:, 1:, 1:, 1:, 1:]  # both voxels moved by (1, 1, 1)
    assert torch.allclose(scores[:-1, :-1, :-1, :-1, :-1, :-1], one_on, atol=1e-4)
    assert scores[0, 0, 0, 1, 0, 0] != pytest.approx(scores[0, 0, 0, 0, 1, 0].item())


def test_positions_count_in_millimetres() -> None:
    """Every second voxel of a grid twice as fine has the angles of the coarse grid, on each axis."""
    cpu = torch.device("cpu")
    coarse = rotary_angles((3, 4, 2), (2.0, 3.0, 5.0), 7, cpu).reshape(3, 4, 2, 7)
    fine = rotary_angles((6, 8, 4), (1.0, 1.5, 2.5), 7, cpu).reshape(6, 8, 4, 7)
    assert torch.allclose(fine[::2, ::2, ::2], coarse, atol=1e-5)
    assert coarse[1, 0, 0].bool().tolist() == [True, False, False] * 2 + [True]


def test_zoom_tells_the_network_how_large_a_voxel_is() -> None:
    spec = replace(SPECS["two stages"], drop_path=0.0)
    network, x = build(spec).eval(), an_input(spec)
    finer = build(replace(spec, spacing=(0.5, 0.5, 0.5))).eval()
    with torch.no_grad():
        zoomed = network.pyramid(x, 2.0).logits[0]
        assert torch.allclose(zoomed, finer(x), atol=1e-5)
        assert (zoomed - network(x)).abs().max() > 1e-4
        cnn = build(SPECS["three stages, cnn"]).eval()
        image = an_input(cnn.spec)
        assert torch.equal(cnn.pyramid(image, 2.0).logits[0], cnn(image))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_saved_network_comes_back_the_same(spec: NetworkSpec, tmp_path: Path) -> None:
    network, x = build(spec).eval(), an_input(spec)
    meta = {"round": 1, "member": "seed_0", "trained_on": ["a", "b"]}
    for name in ("first/weights.pt", "second.pt"):
        save_network(tmp_path / name, network, meta)
    loaded, found = load_network(tmp_path / "first/weights.pt")
    assert (found, loaded.spec, loaded.training) == (meta, spec, False)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))
    save_network(tmp_path / "again.pt", loaded, found)
    assert len({sha256(tmp_path / n) for n in ("first/weights.pt", "second.pt", "again.pt")}) == 1


class Payload:
    """Would write a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_damaged_weights_are_told_and_never_executed(tmp_path: Path) -> None:
    good = tmp_path / "good.pt"
    save_network(good, build(SPECS["two stages"]), {})
    content, trap = good.read_bytes(), tmp_path / "trap"
    torch.save({"state_dict": Payload(trap), "spec": "{}"}, tmp_path / "trojan.pt")
    other = torch.load(good, weights_only=True)
    other["state_dict"].popitem()
    torch.save(other, tmp_path / "incomplete.pt")
    for name, data in {
        "empty.pt": b"",
        "half.pt": content[: len(content) // 2],
        "text.pt": b"no weights",
        "pickle.pt": pickle.dumps({"state_dict": {}}),
    }.items():
        (tmp_path / name).write_bytes(data)
    torch.save([1, 2], tmp_path / "list.pt")
    for path in sorted(set(tmp_path.glob("*.pt")) - {good}):
        with pytest.raises(HstfError, match=rf"{path.name}.*not readable as weights"):
            load_network(path)
    assert not trap.exists()
    with pytest.raises(HstfError, match=r"absent\.pt: the weights are missing. Run"):
        load_network(tmp_path / "absent.pt")


def test_heads_are_halved_until_they_fit_the_widths() -> None:
    plan = replace(tiny_plan(), channels=(12, 24))
    assert network_spec(NetworkConfig(transformer_heads=8), plan, 1, 3).transformer_heads == 2
    odd = replace(plan, channels=(5, 10))
    spec = network_spec(NetworkConfig(transformer_heads=8), odd, 1, 3)
    assert spec.transformer_heads == 1
    assert HybridNet(spec)(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


def test_plans_without_a_network_are_refused() -> None:
    odd = replace(tiny_plan(), channels=(4, 9))
    with pytest.raises(HstfError, match=r"9 channels: make plan\.base_channels and max_channels even"):
        network_spec(NetworkConfig(), odd, 1, 3)
    assert network_spec(NetworkConfig(name="cnn"), odd, 1, 3).channels == (4, 9)
    with pytest.raises(HstfError, match="single voxel at the deepest of 2 levels"):
        network_spec(NetworkConfig(), replace(tiny_plan(), patch_size=(2, 2, 2)), 1, 3)
