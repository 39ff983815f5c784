"""UTNet (Gao et al., MICCAI 2021) in 3D: a U-Net with efficient attention on its deeper levels.

Each voxel attends to a small number of cells, so that the cost grows linearly with the number of
voxels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.imaging.spacing import Triple
from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom
from hstf.models.blocks import (
    DecoderBlock,
    ResidualBlock,
    convolution,
    residual_encoder,
    segmentation_heads,
)
from hstf.models.layers import InstanceNorm
from hstf.models.levels import attended_level

CELLS = 4
"""Cells along each axis: 64 keys and values, as many as the 8x8 of UTNet for a slice."""
FIRST = 2
"""The finest level with attention. Finer levels have too many voxels in 3D."""


class UTNet(SegmentationNetwork):
    """Self-attention after the residual blocks, and attention to coarser levels in the decoder.

    Relative positions are fractions of the field of view, so that they are the same at every zoom.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        self.first = min(FIRST, len(spec.channels) - 1)
        self.deep = attended_level(spec.strides, spec.transformer_stride)
        # The order of the layers is the order in which random weights are drawn.
        self.encoder = residual_encoder(spec)
        self.attention = nn.ModuleList(
            AttentionBlock(width, width, spec.transformer_heads)
            for width in spec.channels[self.first :]
        )
        levels = reversed(range(len(spec.channels) - 1))
        self.decoder = nn.ModuleList(self._decoder_block(level) for level in levels)
        self.dropout = nn.Dropout3d(spec.dropout)
        self.heads = segmentation_heads(spec)

    def _decoder_block(self, level: int) -> nn.Module:
        spec = self.spec
        inputs = spec.channels[level + 1]
        skip = spec.channels[level]
        kernel = spec.kernels[level]
        stride = spec.strides[level + 1]
        if level >= self.first:
            return AttendingDecoderBlock(
                inputs,
                skip,
                kernel,
                stride,
                spec.transformer_heads,
            )
        return DecoderBlock(
            inputs,
            skip,
            kernel,
            stride,
        )

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`.

        The features are those of the level at which the hybrid network has its transformer.
        """
        skips = self._encode(x)
        x = self.dropout(skips[-1])
        logits = []
        for block, head, skip in zip(
            self.decoder,
            self.heads,
            skips[-2::-1],
            strict=True,
        ):
            x = block(x, skip)
            logits.append(head(x))
        return Pyramid(logits[::-1], skips[self.deep])

    def encode(self, x: Tensor) -> Tensor:
        """Compute the deepest feature map, see :class:`SegmentationNetwork`."""
        return self._encode(x)[-1]

    def _encode(self, x: Tensor) -> list[Tensor]:
        """Return the feature map of each level."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level >= self.first:
                x = self.attention[level - self.first](x, x, x)
            skips.append(x)
        return skips


class AttendingDecoderBlock(nn.Module):
    """A decoder block in which the skip connection attends to the coarser feature map.

    Args:
        inputs: channels of the coarser feature map.
        skip: channels of the skip connection and of the output.
        kernel: size of the convolution kernels.
        stride: factor of the upsampling.
        heads: number of attention heads.
    """

    def __init__(
        self,
        inputs: int,
        skip: int,
        kernel: Triple,
        stride: Triple,
        heads: int,
    ) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(
            inputs,
            skip,
            stride,
            stride,
        )
        self.attention = AttentionBlock(skip, inputs, heads)
        self.join = ResidualBlock(2 * skip, skip, kernel)

    def forward(
        self,
        x: Tensor,
        skip: Tensor,
    ) -> Tensor:
        """Map ``x`` ``(B, inputs, D, H, W)`` to the shape of ``skip`` ``(B, skip, sD, sH, sW)``."""
        return self.join(torch.cat([self.attention(skip, x, self.up(x)), skip], dim=1))


class AttentionBlock(nn.Module):
    """Efficient attention and a pointwise convolution, each with a norm and a residual path."""

    def __init__(
        self,
        width: int,
        source: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.norm = InstanceNorm(width)
        self.norm_source = InstanceNorm(source)
        self.attention = EfficientAttention(width, source, heads)
        self.mix = nn.Sequential(
            InstanceNorm(width),
            nn.LeakyReLU(0.01),
            convolution(width, width, (1, 1, 1)),
        )

    def forward(
        self,
        x: Tensor,
        source: Tensor,
        residual: Tensor,
    ) -> Tensor:
        """Add to ``residual`` what ``x`` finds in ``source``.

        Args:
            x: ``(B, width, D, H, W)``, from which the queries come.
            source: ``(B, source, d, h, w)``, from which keys and values come.
            residual: of the shape of ``x``.
        """
        y = residual + self.attention(self.norm(x), self.norm_source(source))
        return y + self.mix(y)


class EfficientAttention(nn.Module):
    """Attention to the means of at most ``CELLS`` cells along each axis, with a learned bias.

    Equations 3 and 4 of UTNet.
    """

    def __init__(
        self,
        width: int,
        source: int,
        heads: int,
    ) -> None:
        super().__init__()
        self.heads = heads
        # The order of the layers is the order in which random weights are drawn.
        self.query = separable(width, width)
        self.out = separable(width, width)
        self.key_value = separable(source, 2 * width)
        self.bias = nn.Parameter(0.02 * torch.randn(heads, (2 * CELLS - 1) ** 3))

    def forward(
        self,
        x: Tensor,
        source: Tensor,
    ) -> Tensor:
        """Attend from ``x`` to ``source``; return the shape of ``x``.

        Args:
            x: ``(B, width, D, H, W)``.
            source: ``(B, source, d, h, w)``.
        """
        depth, height, width = source.shape[2:]
        cells = (min(CELLS, depth), min(CELLS, height), min(CELLS, width))
        q = self._tokens(self.query(x))
        key_value = F.adaptive_avg_pool3d(self.key_value(source), cells)
        k, v = self._tokens(key_value).chunk(2, dim=-1)
        bias = self.relative(x.shape[2:], cells).to(q.dtype)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            bias,
        )
        return self.out(y.transpose(2, 3).reshape(x.shape))

    def _tokens(self, x: Tensor) -> Tensor:
        """Reshape ``(B, heads * C, D, H, W)`` to ``(B, heads, N, C)``."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)

    def relative(
        self,
        shape: Sequence[int],
        cells: Sequence[int],
    ) -> Tensor:
        """Compute the bias ``(heads, N, M)`` between N voxels and M cells.

        It is interpolated linearly between the places of a full grid of cells.
        """
        table = self.bias[:, relative_index(cells, self.bias.device)]
        fields = table.unflatten(2, (CELLS,) * 3)
        resampled = F.interpolate(fields, size=tuple(shape), mode="trilinear")
        return resampled.flatten(2).transpose(1, 2).contiguous()


def relative_index(cells: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Return the entry ``(M, CELLS^3)`` of the bias table for each cell and each place.

    M is the number of cells, and the places are those of a full grid of cells. The index is
    computed on ``device``, because the CPU would wait for a GPU to copy it.
    """
    places = torch.cartesian_prod(*[torch.arange(CELLS, device=device)] * 3)
    centres = []
    for n in cells:
        centres.append((2 * torch.arange(n, device=device) + 1) * CELLS // (2 * n))
    keys = torch.cartesian_prod(*centres)
    offset = places[None] - keys[:, None] + CELLS - 1
    side = 2 * CELLS - 1
    return offset[..., 0] * side**2 + offset[..., 1] * side + offset[..., 2]


def separable(
    inputs: int,
    outputs: int,
) -> nn.Sequential:
    """Build a convolution of each channel, followed by a convolution across channels."""
    return nn.Sequential(
        nn.Conv3d(
            inputs,
            inputs,
            3,
            padding=1,
            groups=inputs,
            bias=False,
        ),
        convolution(inputs, outputs, (1, 1, 1)),
    )
