"""UTNet (Gao et al., MICCAI 2021) in 3D: a U-Net whose deeper levels attend to a small summary of a feature map."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Triple, Zoom
from hstf.models.blocks import DecoderBlock, ResidualBlock, convolution
from hstf.models.hybrid import attended_level

CELLS = 4  # keys and values along each axis: 64 of a volume, as many as UTNet's 8x8 of a slice
FIRST = 2  # the finest level that attends: the levels above have too many voxels in 3D


class UTNet(SegmentationNetwork):
    """Self-attention behind the residual blocks of the encoder, cross-attention from the skips in the decoder.

    Relative positions count in shares of the field of view, so they are the same at every zoom of it.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        channels, strides, kernels, heads = (
            spec.channels,
            spec.strides,
            spec.kernels,
            spec.transformer_heads,
        )
        last = len(channels) - 1
        self.first, self.deep = min(FIRST, last), attended_level(strides, spec.transformer_stride)
        self.encoder = nn.ModuleList(
            ResidualBlock(*arguments)
            for arguments in zip(
                (spec.inputs, *channels[:-1]), channels, kernels, strides, strict=True
            )
        )
        self.attention = nn.ModuleList(AttentionBlock(c, c, heads) for c in channels[self.first :])
        self.decoder = nn.ModuleList(
            AttendingDecoderBlock(channels[i + 1], channels[i], kernels[i], strides[i + 1], heads)
            if i >= self.first
            else DecoderBlock(channels[i + 1], channels[i], kernels[i], strides[i + 1])
            for i in reversed(range(last))
        )
        self.dropout = nn.Dropout3d(spec.dropout)
        self.heads = nn.ModuleList(nn.Conv3d(c, spec.classes, 1) for c in reversed(channels[:-1]))

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """See :class:`SegmentationNetwork`; the features are at the level of the hybrid's transformer."""
        skips: list[Tensor] = []
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level >= self.first:
                x = self.attention[level - self.first](x, x, x)
            skips.append(x)
        x, logits = self.dropout(x), []
        for block, head, skip in zip(self.decoder, self.heads, skips[-2::-1], strict=True):
            x = block(x, skip)
            logits.append(head(x))
        return Pyramid(logits[::-1], skips[self.deep])


class AttendingDecoderBlock(nn.Module):
    """Upsample, add what each voxel of the skip finds in the coarser map, join the skip, a residual block."""

    def __init__(self, inputs: int, skip: int, kernel: Triple, stride: Triple, heads: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose3d(inputs, skip, stride, stride)
        self.attention = AttentionBlock(skip, inputs, heads)
        self.join = ResidualBlock(2 * skip, skip, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """``x`` ``(B, inputs, D, H, W)`` and ``skip`` ``(B, skip, sD, sH, sW)`` to the shape of ``skip``."""
        return self.join(torch.cat([self.attention(skip, x, self.up(x)), skip], dim=1))


class AttentionBlock(nn.Module):
    """Efficient attention and a pointwise convolution, each behind a norm and added."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm3d(width, affine=True)
        self.norm_source = nn.InstanceNorm3d(source, affine=True)
        self.attention = EfficientAttention(width, source, heads)
        self.mix = nn.Sequential(
            nn.InstanceNorm3d(width, affine=True),
            nn.LeakyReLU(0.01),
            convolution(width, width, (1, 1, 1)),
        )

    def forward(self, x: Tensor, source: Tensor, path: Tensor) -> Tensor:
        """``path``, with what ``x`` found in ``source`` added; shape ``(B, width, D, H, W)`` of ``x``."""
        y = path + self.attention(self.norm(x), self.norm_source(source))
        return y + self.mix(y)


class EfficientAttention(nn.Module):
    """Every voxel attends to the means of at most ``CELLS`` cells along each axis, with a learned relative bias.

    UTNet, equations 3 and 4: cost grows with the number of voxels, not with its square.
    """

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = separable(width, width), separable(width, width)
        self.key_value = separable(source, 2 * width)
        self.bias = nn.Parameter(0.02 * torch.randn(heads, (2 * CELLS - 1) ** 3))

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        """``x`` ``(B, width, D, H, W)`` asks ``source`` ``(B, source, d, h, w)``; returns the shape of ``x``."""
        d, h, w = (min(CELLS, n) for n in source.shape[2:])
        cells = (d, h, w)
        q = self._tokens(self.query(x))
        k, v = self._tokens(F.adaptive_avg_pool3d(self.key_value(source), cells)).chunk(2, dim=-1)
        y = F.scaled_dot_product_attention(q, k, v, self.relative(x.shape[2:], cells).to(q.dtype))
        return self.out(y.transpose(2, 3).reshape(x.shape))

    def _tokens(self, x: Tensor) -> Tensor:
        """``(B, heads * C, D, H, W)`` to ``(B, heads, N, C)``."""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)

    def relative(self, shape: Sequence[int], cells: Sequence[int]) -> Tensor:
        """The bias ``(heads, N, M)`` between N voxels of ``shape`` and M ``cells``, linear between cells."""
        table = self.bias[:, relative_index(cells).to(self.bias.device)]
        fields = table.unflatten(2, (CELLS,) * 3)
        return (
            F.interpolate(fields, size=tuple(shape), mode="trilinear")
            .flatten(2)
            .transpose(1, 2)
            .contiguous()
        )


def relative_index(cells: Sequence[int]) -> Tensor:
    """``(M, CELLS^3)``: the entry of the bias table for each of M ``cells`` and each place of a full grid of cells."""
    places = torch.cartesian_prod(*[torch.arange(CELLS)] * 3)
    keys = torch.cartesian_prod(*[(2 * torch.arange(n) + 1) * CELLS // (2 * n) for n in cells])
    offset = places[None] - keys[:, None] + CELLS - 1
    return (offset * torch.tensor([(2 * CELLS - 1) ** 2, 2 * CELLS - 1, 1])).sum(-1)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution of each channel and one across channels."""
    return nn.Sequential(
        nn.Conv3d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        convolution(inputs, outputs, (1, 1, 1)),
    )
