"""Convolution, instance norm and shortcut in both layouts, against the layers of PyTorch."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hstf.models.blocks import convolution
from hstf.models.layers import (
    CHANNELS_LAST,
    InstanceNorm,
    PaddedGradient,
    PooledShortcut,
    is_channels_last,
)

SHAPE = (2, 6, 8, 10, 4)


def results(
    module: Callable[[Tensor], Tensor], x: Tensor, parameters: list[Tensor]
) -> list[Tensor]:
    """Return the output, and the gradients of the input and of the parameters."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = module(x)
    weights = torch.linspace(-1, 2, y.numel()).reshape(y.shape)
    gradients = torch.autograd.grad((y * weights).sum(), [x, *parameters])
    return [y.detach(), *gradients]


def assert_same(found: list[Tensor], expected: list[Tensor]) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


@pytest.fixture
def x() -> Tensor:
    return 3 + torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (3, 3, 1), (1, 1, 1)])
@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_convolution_has_the_gradients_of_pytorch(
    x: Tensor,
    kernel: tuple[int, int, int],
    stride: tuple[int, int, int],
    channels_last: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    ours = convolution(6, 5, kernel, stride)
    plain = nn.Conv3d(6, 5, kernel, stride, ours.padding, bias=False)
    plain.load_state_dict(ours.state_dict())
    if channels_last:
        ours = ours.to(memory_format=CHANNELS_LAST)
    expected = results(plain, x, [plain.weight])
    given = x.contiguous(memory_format=CHANNELS_LAST) if channels_last else x
    assert_same(results(ours, given, [ours.weight]), expected)


def test_convolution_pads_only_where_a_weight_gradient_is_slow(
    x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    capability = "AVX2"
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr(PaddedGradient, "apply", lambda *args: used.append(args))
    layer = convolution(6, 5, (3, 3, 3))
    layer(x)
    assert len(used) == 1
    with torch.no_grad():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    layer(x.contiguous(memory_format=CHANNELS_LAST))
    convolution(6, 5, (1, 3, 3))(x)
    layer.double()(x.double())
    layer.float().requires_grad_(False)(x)
    capability = "AVX512"
    layer.requires_grad_()(x)
    assert len(used) == 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_is_that_of_pytorch(x: Tensor, channels_last: bool) -> None:
    ours = InstanceNorm(6)
    plain = nn.InstanceNorm3d(6, affine=True)
    with torch.no_grad():
        for layer in (ours, plain):
            layer.weight.copy_(torch.linspace(0.5, 2, 6))
            layer.bias.copy_(torch.linspace(-1, 1, 6))
    expected = results(plain, x, [plain.weight, plain.bias])
    given = x.contiguous(memory_format=CHANNELS_LAST) if channels_last else x
    found = results(ours, given, [ours.weight, ours.bias])
    assert_same(found, expected)
    assert is_channels_last(found[0]) == channels_last


@pytest.mark.parametrize("channels_last", [False, True])
def test_instance_norm_refuses_a_single_voxel(channels_last: bool) -> None:
    x = torch.zeros(2, 6, 1, 1, 1)
    if channels_last:
        x = x.to(memory_format=CHANNELS_LAST)
    with pytest.raises(ValueError, match="more than 1 spatial element"):
        InstanceNorm(6)(x)


@pytest.mark.parametrize(
    ("outputs", "stride"),
    [(6, (1, 1, 1)), (8, (1, 1, 1)), (6, (2, 2, 1)), (8, (2, 2, 1)), (8, (2, 2, 2))],
)
def test_pooled_shortcut_does_not_depend_on_the_layout(
    x: Tensor, outputs: int, stride: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    shortcut = PooledShortcut(6, outputs, stride).double()
    x = x.double()
    parameters = list(shortcut.parameters())
    expected = results(shortcut, x, parameters)
    given = x.contiguous(memory_format=CHANNELS_LAST)
    assert_same(results(shortcut, given, parameters), expected)
