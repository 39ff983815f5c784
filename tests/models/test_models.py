"""Networks: shapes, gradients, positions in millimetres, controls, saving and loading."""

import hashlib
import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import pi
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.tiny_model import tiny_plan

from hstf.cli import main
from hstf.commands.models import cost
from hstf.config.network import NetworkConfig
from hstf.config.networks import NETWORKS
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.models.levels import attended_level
from hstf.models.padded import padded_size
from hstf.models.registry import (
    NAMES,
    load_network,
    load_snapshots,
    network_spec,
    save_network,
)
from hstf.models.registry import build as build_network
from hstf.models.transformer import LONGEST_MM, TransformerLayer, rotary_angles, rotate, rotations
from hstf.models.utnet import EfficientAttention
from hstf.runtime.errors import HstfError

HALF = (2, 2, 2)
FULL = (1, 1, 1)
GOLDEN = (0.37293, 0.35165)  # mean and standard deviation of the hybrid's logits
SPECS = {
    "two stages": NetworkSpec(
        "hybrid", 1, 2, (4, 8), (FULL, HALF), ((3, 3, 3),) * 2, (1.0, 1.0, 1.0), 1, 1
    ),
    "three stages, cnn": NetworkSpec(
        "cnn", 4, 6, (4, 8, 8), (FULL, HALF, HALF), ((3, 3, 3),) * 3, (1.0, 1.0, 1.0)
    ),
    "four stages, coarse slices": NetworkSpec(
        "hybrid",
        1,
        6,
        (4, 8, 12, 12),
        (FULL, (2, 2, 1), (2, 2, 1), HALF),
        ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)),
        (0.7, 0.8, 5.0),
        2,
        2,
    ),
    "five stages, attention above the deepest": NetworkSpec(
        "hybrid",
        4,
        2,
        (4, 4, 8, 8, 8),
        (FULL, HALF, HALF, (1, 2, 2), HALF),
        ((3, 3, 3),) * 5,
        (2.0, 1.0, 1.0),
        1,
        1,
        4,
    ),
}


def build(spec: NetworkSpec, seed: int = 0) -> HybridNet:
    """Build a hybrid network with a LayerScale of 1, which otherwise starts near 0."""
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
def test_pyramid_has_the_planned_sizes_for_multiples_of_the_divisor(
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
def test_hybrid_has_gradients_for_every_parameter(spec: NetworkSpec) -> None:
    network = build(replace(spec, drop_path=0.0)).train()
    sum(level.square().mean() for level in network.pyramid(an_input(spec)).logits).backward()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead
    assert any("transformer" in name for name, _ in network.named_parameters()) == (
        spec.name == "hybrid"
    )


def test_attended_level_is_the_deepest_within_the_maximum_stride() -> None:
    strides = (FULL, HALF, (2, 2, 1), HALF)
    assert [attended_level(strides, n) for n in (2, 3, 4, 7, 8, 100)] == [1, 1, 2, 2, 3, 3]


def test_forward_is_deterministic_in_evaluation_and_skips_layers_in_training() -> None:
    spec = replace(SPECS["two stages"], drop_path=0.5)
    network, x = build(spec), an_input(spec)
    network.eval()
    assert torch.equal(network(x), network(x))
    network.train()
    assert any(not torch.equal(network(x), network(x)) for _ in range(4))


def test_drop_keeps_the_expectation() -> None:
    layer = TransformerLayer(4, 1, 0.25).train()
    torch.manual_seed(0)
    kept = layer._drop(torch.ones(20_000, 1, 1))
    assert kept.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert kept.mean().item() == pytest.approx(1, abs=0.02)


def test_rotate_keeps_norms_and_depends_on_relative_positions() -> None:
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(12, generator=g), torch.randn(12, generator=g)
    angles = rotary_angles((4, 5, 6), (2.0, 1.0, 3.0), (4.0, 4.0, 4.0), 6, torch.device("cpu"))
    positions = rotations(angles)
    turned_q, turned_k = rotate(q.expand(120, 12), positions), rotate(k.expand(120, 12), positions)
    assert torch.allclose(turned_q.norm(dim=1), q.norm().expand(120), atol=1e-5)
    scores = (turned_q @ turned_k.T).reshape(4, 5, 6, 4, 5, 6)
    one_on = scores[1:, 1:, 1:, 1:, 1:, 1:]  # both voxels moved by (1, 1, 1)
    assert torch.allclose(scores[:-1, :-1, :-1, :-1, :-1, :-1], one_on, atol=1e-4)
    assert scores[0, 0, 0, 1, 0, 0] != pytest.approx(scores[0, 0, 0, 0, 1, 0].item())


def test_rotary_angles_are_in_millimetres() -> None:
    """Every second voxel of a grid twice as fine has the angles of the coarse grid."""
    cpu = torch.device("cpu")
    coarse = rotary_angles((3, 4, 2), (2.0, 3.0, 5.0), (4.0, 6.0, 10.0), 7, cpu).reshape(3, 4, 2, 7)
    fine = rotary_angles((6, 8, 4), (1.0, 1.5, 2.5), (4.0, 6.0, 10.0), 7, cpu).reshape(6, 8, 4, 7)
    assert torch.allclose(fine[::2, ::2, ::2], coarse, atol=1e-5)
    assert coarse[1, 0, 0].bool().tolist() == [True, False, False] * 2 + [True]


def test_pyramid_zoom_is_a_smaller_voxel() -> None:
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
def test_load_network_returns_the_saved_network(spec: NetworkSpec, tmp_path: Path) -> None:
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


def test_load_network_refuses_damaged_files_and_executes_nothing(tmp_path: Path) -> None:
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
        with pytest.raises(HstfError, match=rf"{path.name}.*cannot be read as weights"):
            load_network(path)
    assert not trap.exists()
    with pytest.raises(HstfError, match=r"absent\.pt: the weights are missing. Run"):
        load_network(tmp_path / "absent.pt")


def full_gpu(*_: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")


def no_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize("load", [load_network, load_snapshots])
def test_load_network_without_memory_does_not_blame_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: Callable[..., object]
) -> None:
    path = tmp_path / "weights.pt"
    network = build(SPECS["two stages"])
    save_network(path, network, {}, [network.state_dict()])
    for owner, method, broken, error in (
        (torch.nn.Module, "to", full_gpu, torch.OutOfMemoryError),
        (Path, "read_bytes", no_memory, MemoryError),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, broken)
            with pytest.raises(error):
                load(path, "cpu")


def test_load_network_does_not_advise_to_delete_a_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    save_network(path, build(SPECS["two stages"]), {})

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(HstfError, match=r"weights\.pt: .*Permission denied\)\. Make .* readable"):
        load_network(path)


THREE = NetworkSpec(
    "hybrid",
    1,
    2,
    (4, 8, 8),
    (FULL, HALF, HALF),
    ((3, 3, 3),) * 3,
    (1.0, 1.0, 1.0),
    2,
    2,
    4,
    0.0,
    patch_size=(16, 8, 8),
    pair=("hybrid", "unetpp"),
)
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


@pytest.mark.parametrize("name", NAMES)
def test_load_network_returns_every_network(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = build_network(replace(THREE, name=name)).eval(), torch.randn(1, 1, 8, 8, 4)
    save_network(tmp_path / "weights.pt", network, {})
    loaded, _ = load_network(tmp_path / "weights.pt")
    assert (type(loaded), loaded.spec) == (type(network), network.spec)
    with torch.no_grad():
        assert torch.equal(loaded(x), network(x))


def test_hybrid_of_a_seed_stays_the_same() -> None:
    """Measured results depend on these random weights and this arithmetic."""
    torch.manual_seed(0)
    network = HybridNet(replace(THREE, name="hybrid")).eval()
    x = torch.linspace(-1, 1, 16 * 8 * 8).reshape(1, 1, 16, 8, 8)
    with torch.no_grad():
        logits = network(x)
    assert [logits.mean().item(), logits.std().item()] == pytest.approx(GOLDEN, abs=1e-4)


def test_hybrid_identity_is_the_hybrid_without_transformer_output() -> None:
    hybrid, control = (
        build(replace(THREE, name="hybrid")).eval(),
        build(replace(THREE, name="hybrid_identity")),
    )
    unmatched = control.load_state_dict(hybrid.state_dict(), strict=False)
    assert not unmatched.missing_keys
    assert all(key.startswith("transformer.") for key in unmatched.unexpected_keys)
    x = an_input(THREE)
    with torch.no_grad():
        assert not torch.equal(control.eval()(x), hybrid(x))
        for layer in hybrid.transformer.layers:
            layer.scale1.zero_(), layer.scale2.zero_()
        assert torch.equal(control(x), hybrid(x))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3, 1)])
@pytest.mark.parametrize("layers", [1, 4, 8])
def test_cnn_has_as_many_parameters_as_the_hybrid(
    kernel: tuple[int, int, int], layers: int
) -> None:
    spec = replace(THREE, channels=(16, 32, 64), kernels=(kernel,) * 3, transformer_layers=layers)
    hybrid, cnn, neither = (
        cost(replace(spec, name=name)).parameters for name in ("hybrid", "cnn", "hybrid_identity")
    )
    assert cnn - neither == pytest.approx(hybrid - neither, rel=0.03)


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


def test_rotary_angles_do_not_depend_on_the_zoom() -> None:
    """The logits between two places do not depend on the zoom or on the first voxel of the grid."""
    g, cpu, mm = torch.Generator().manual_seed(0), torch.device("cpu"), (8.0, 8.0, 5.0)
    zoom = (1.5, 2.0, 1.0)
    q, k = torch.randn(2, 2 * 3 * 4, 12, generator=g)
    shortest = (4.0, 4.0, 30.0)
    planned = rotary_angles((2, 3, 4), mm, shortest, 6, cpu)
    zoomed = rotary_angles(
        (4, 7, 6), [m / z for m, z in zip(mm, zoom, strict=True)], shortest, 6, cpu
    )
    same_places = zoomed.reshape(4, 7, 6, 6)[
        0::3, 1::2, 2:
    ]  # 1.5 x 2 voxels apart are the planned 1 x 1
    apart = rotary_angles((3, 3, 4), mm, shortest, 6, cpu).reshape(3, 3, 4, 6)[::2]
    of_apart = rotations(apart.reshape(-1, 6))
    of_same = rotations(same_places.reshape(-1, 6))
    of_planned = rotations(planned)
    logits = rotate(q, of_apart) @ rotate(k, of_apart).T
    found = rotate(q, of_same) @ rotate(k, of_same).T
    assert torch.allclose(logits, found, atol=1e-3)
    unlike = rotate(q, of_planned) @ rotate(k, of_planned).T
    assert not torch.allclose(logits, unlike, atol=1e-1)


def test_network_spec_limits_angles_of_neighbours_to_a_radian() -> None:
    """A wavelength under two voxels would be an alias of a longer one."""
    plan = tiny_plan().model_copy(update={"channels": (4, 24), "strides": ((1, 1, 1), (4, 4, 2))})
    spec = network_spec(NetworkConfig(transformer_heads=2), plan, 1, 3)
    mm = (6.0, 6.0, 4.0)  # 1.5 x 1.5 x 2.0 times the strides
    angles = rotary_angles((2, 2, 2), mm, spec.shortest_mm, 6, torch.device("cpu")).reshape(
        2, 2, 2, 6
    )
    steps = torch.stack([angles[1, 0, 0], angles[0, 1, 0], angles[0, 0, 1]]) - angles[0, 0, 0]
    fastest, slower = steps[:, :3], steps[:, 3:]
    assert torch.allclose(fastest, torch.eye(3))
    longest = torch.tensor(
        [2 * pi * m / LONGEST_MM for m in mm]
    ).sqrt()  # half-way, in the ratio, to the longest
    assert torch.allclose(slower, torch.diag(longest))


def test_load_network_reads_files_without_wavelengths(tmp_path: Path) -> None:
    network = build(SPECS["two stages"])
    save_network(tmp_path / "weights.pt", network, {})
    content = torch.load(tmp_path / "weights.pt", weights_only=True)
    spec = json.loads(content["spec"])
    assert spec.pop("shortest_mm") == [4.0, 4.0, 4.0]
    torch.save(content | {"spec": json.dumps(spec)}, tmp_path / "old.pt")
    assert load_network(tmp_path / "old.pt")[0].spec == network.spec


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
