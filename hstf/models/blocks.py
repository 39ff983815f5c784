"""Convolution blocks of encoders and decoders."""

import torch
from torch import Tensor, nn

from hstf.imaging.spacing import Triple
from hstf.models.base import NetworkSpec
from hstf.models.layers import Convolution, InstanceNorm, PooledShortcut

POINT: Triple = (1, 1, 1)
"""Kernel or stride of 1 along every axis."""


def convolution(
    inputs: int,
    outputs: int,
    kernel: Triple,
    stride: Triple = POINT,
) -> Convolution:
    """Build a 3D convolution that keeps the size and has no bias, because a norm follows it."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return Convolution(
        inputs,
        outputs,
        kernel,
        stride,
        padding,
    )


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm and a shortcut (He et al. 2016).

    Instance norm has no statistics over the batch. So labelled and pseudo-labelled cases do not
    influence each other, and the EMA weights are complete.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: size of the convolution kernels.
        stride: stride of the first convolution.
        inner: channels between the two convolutions; ``outputs`` if None.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple,
        stride: Triple = POINT,
        inner: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner or outputs
        self.first = convolution(
            inputs,
            inner,
            kernel,
            stride,
        )
        self.norm1 = InstanceNorm(inner)
        self.second = convolution(inner, outputs, kernel)
        self.norm2 = InstanceNorm(outputs)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.shortcut = PooledShortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, inputs, D, H, W)`` to ``(B, outputs, D/s, H/s, W/s)``."""
        y = self.act(self.norm1(self.first(x)))
        y = self.norm2(self.second(y))
        return self.act(y + self.shortcut(x))


def residual_encoder(spec: NetworkSpec) -> nn.ModuleList:
    """Build one residual block for each level, finest first."""
    blocks = []
    inputs = spec.inputs
    for outputs, kernel, stride in zip(
        spec.channels,
        spec.kernels,
        spec.strides,
        strict=True,
    ):
        blocks.append(
            ResidualBlock(
                inputs,
                outputs,
                kernel,
                stride,
            )
        )
        inputs = outputs
    return nn.ModuleList(blocks)


def segmentation_heads(spec: NetworkSpec) -> nn.ModuleList:
    """Build a 1x1x1 convolution to the classes for each decoder level, coarsest first."""
    channels = reversed(spec.channels[:-1])
    return nn.ModuleList(nn.Conv3d(inputs, spec.classes, 1) for inputs in channels)


class DecoderBlock(nn.Module):
    """Upsample, concatenate the skip connection, and apply two convolutions.

    Args:
        inputs: channels of the coarser feature map.
        skip: channels of the skip connection and of the output.
        kernel: size of the convolution kernels.
        stride: factor of the upsampling.
    """

    def __init__(
        self,
        inputs: int,
        skip: int,
        kernel: Triple,
        stride: Triple,
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(
            inputs,
            skip,
            stride,
            stride,
        )
        self.join = _normed_convolution(2 * skip, skip, kernel)
        self.refine = _normed_convolution(skip, skip, kernel)

    def forward(
        self,
        x: Tensor,
        skip: Tensor,
    ) -> Tensor:
        """Map ``x`` ``(B, inputs, D, H, W)`` to the shape of ``skip`` ``(B, skip, sD, sH, sW)``."""
        return self.refine(self.join(torch.cat([self.up(x), skip], dim=1)))


def _normed_convolution(
    inputs: int,
    outputs: int,
    kernel: Triple,
) -> nn.Sequential:
    return nn.Sequential(
        convolution(inputs, outputs, kernel),
        InstanceNorm(outputs),
        nn.LeakyReLU(0.01, inplace=True),
    )
