"""The hybrid network: sizes, gradients, determinism, and comparison with its controls."""

from dataclasses import replace
from math import pi

import pytest
import torch
from support.networks import FULL, HALF, SPECS, THREE, an_input, build
from support.tiny_model import tiny_plan

from hstf.commands.models import cost
from hstf.config.network import NetworkConfig
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.models.levels import attended_level
from hstf.models.registry import (
    network_spec,
)
from hstf.models.transformer import LONGEST_MM, TransformerLayer, rotary_angles, rotate, rotations

GOLDEN = (0.37293, 0.35165)  # mean and standard deviation of the hybrid's logits


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
