"""Convolution and instance norm, computed in the way that is fastest for the layout in memory.

PyTorch stores a feature map channel by channel (contiguous) or voxel by voxel (channels last). The
result of a layer does not depend on the layout, except for rounding, and the names of the weights
are those of the layers of PyTorch. See :func:`hstf.models.layout.in_fast_layout` for the choice.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv3d_input, conv3d_weight

CHANNELS_LAST = torch.channels_last_3d
ONES = (1, 1, 1)
ZEROS = (0, 0, 0)


def is_channels_last(x: Tensor) -> bool:
    """Return whether ``x`` ``(B, C, D, H, W)`` is stored voxel by voxel, and only so."""
    return x.is_contiguous(memory_format=CHANNELS_LAST) and not x.is_contiguous()


class Convolution(nn.Conv3d):
    """A 3D convolution without bias.

    In float32 on a CPU with AVX2 only, half of the time of a training step is spent on the gradient
    of the weights: oneDNN has no fast kernel for it if the first axis is padded. Here that axis is
    padded before, which takes less than half of the time.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        stride: tuple[int, int, int],
        padding: tuple[int, int, int],
    ) -> None:
        super().__init__(
            inputs,
            outputs,
            kernel,
            stride,
            padding,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, D, H, W)`` to ``(B, outputs, D/s, H/s, W/s)``."""
        if not self._pads_before(x):
            return super().forward(x)
        result: Tensor = PaddedGradient.apply(x, self.weight, self.stride, self.padding)
        return result

    def _pads_before(self, x: Tensor) -> bool:
        """Return whether the fast kernel for the gradient of the weights is used."""
        return (
            self.weight.requires_grad
            and torch.is_grad_enabled()
            and x.device.type == "cpu"
            and x.dtype == torch.float32
            and x.is_contiguous()
            and self.padding[0] != 0
            and not torch.is_autocast_enabled("cpu")
            and torch.backends.cpu.get_cpu_capability() == "AVX2"
        )


class PaddedGradient(torch.autograd.Function):
    """A convolution whose weight gradient is computed from an input with a padded first axis."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int, int],
        padding: tuple[int, int, int],
    ) -> Tensor:
        """Compute the convolution as PyTorch does."""
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.padding = padding
        return F.conv3d(x, weight, None, stride, padding)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor, None, None]:
        """Compute the gradients of the input and of the weights."""
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        depth, height, width = ctx.padding
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = conv3d_input(x.shape, weight, gradient, ctx.stride, ctx.padding)
        padded = F.pad(x, (0, 0, 0, 0, depth, depth))
        of_weight = conv3d_weight(padded, weight.shape, gradient, ctx.stride, (0, height, width))
        return of_input, of_weight, None, None


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm with scale and shift.

    On a CPU, group norm with one channel a group does the same in half of the time. Channels last,
    batch norm of one case after the other is fastest. The instance norm of PyTorch would copy its
    input to the other layout and back.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each case of ``x`` ``(B, C, D, H, W)``.

        Raises:
            ValueError: if ``x`` has a single voxel.
        """
        if x[0, 0].numel() == 1:
            return super().forward(x)
        if is_channels_last(x):
            return torch.cat([self._norm_case(case) for case in x.split(1)])
        if x.device.type == "cpu":
            return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)
        return super().forward(x)

    def _norm_case(self, case: Tensor) -> Tensor:
        return F.batch_norm(
            case,
            None,
            None,
            self.weight,
            self.bias,
            training=True,
            eps=self.eps,
        )


class PooledShortcut(nn.Sequential):
    """Average pooling, a convolution with kernel 1 and a norm, each only if the shape changes.

    Channels last, pooling is slow. There, pooling and convolution are one strided convolution whose
    weights are those of the convolution, divided by the number of pooled voxels.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: stride of the block.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: tuple[int, int, int],
    ) -> None:
        layers: list[nn.Module] = []
        if max(stride) > 1:
            layers.append(nn.AvgPool3d(stride, stride))
        if inputs != outputs:
            layers.append(Convolution(inputs, outputs, ONES, ONES, ZEROS))
            layers.append(InstanceNorm(outputs))
        super().__init__(*layers)
        self.stride = stride
        self.pools_and_convolves = len(layers) == 3

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, D, H, W)`` to ``(B, outputs, D/s, H/s, W/s)``."""
        if not (self.pools_and_convolves and is_channels_last(x)):
            result: Tensor = super().forward(x)
            return result
        _, convolution, norm = self
        assert isinstance(convolution, Convolution)
        weight = convolution.weight
        pooled = self.stride[0] * self.stride[1] * self.stride[2]
        spread = (weight / pooled).expand(*weight.shape[:2], *self.stride)
        normed: Tensor = norm(F.conv3d(x, spread, stride=self.stride))
        return normed
