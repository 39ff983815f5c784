"""Convolution blocks of the encoder and decoder."""

import torch
from torch import Tensor, nn

from hstf.models.base import Triple


def convolution(inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    """A "same" 3D convolution without bias; norms follow it."""
    padding = (kernel[0] // 2, kernel[1] // 2, kernel[2] // 2)
    return nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)


class ResidualBlock(nn.Module):
    """Two convolutions with instance norm around a shortcut (He et al. 2016; nnU-Net's residual encoder).

    Instance norm keeps labelled and pseudo-labelled cases of a batch, and the EMA weights, free of shared statistics.

    Args:
        inner: channels between the two convolutions; ``outputs`` unless said otherwise.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Triple,
        stride: Triple = (1, 1, 1),
        inner: int | None = None,
    ) -> None:
        super().__init__()
        inner = inner or outputs
        self.first = convolution(inputs, inner, kernel, stride)
        self.norm1 = nn.InstanceNorm3d(inner, affine=True)
        self.second = convolution(inner, outputs, kernel)
        self.norm2 = nn.InstanceNorm3d(outputs, affine=True)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, inputs, D, H, W)`` to ``(B, outputs, D/s, H/s, W/s)``."""
        y = self.act(self.norm1(self.first(x)))
        y = self.norm2(self.second(y))
        return self.act(y + self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: Triple) -> nn.Module:
    """Average pooling and a 1x1x1 convolution, each only where the shape changes."""
    layers: list[nn.Module] = []
    if max(stride) > 1:
        layers.append(nn.AvgPool3d(stride, stride))
    if inputs != outputs:
        layers += [convolution(inputs, outputs, (1, 1, 1)), nn.InstanceNorm3d(outputs, affine=True)]
    return nn.Sequential(*layers)


class DecoderBlock(nn.Module):
    """Upsample, join the skip connection, two convolutions."""

    def __init__(self, inputs: int, skip: int, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, skip, stride, stride)
        self.join = nn.Sequential(
            convolution(2 * skip, skip, kernel),
            nn.InstanceNorm3d(skip, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )
        self.refine = nn.Sequential(
            convolution(skip, skip, kernel),
            nn.InstanceNorm3d(skip, affine=True),
            nn.LeakyReLU(0.01, inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``x`` ``(B, inputs, D, H, W)`` and ``skip`` ``(B, skip, sD, sH, sW)`` to the shape of ``skip``."""
        return self.refine(self.join(torch.cat([self.up(x), skip], dim=1)))
