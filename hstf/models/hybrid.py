"""The hybrid network: a residual CNN for local detail, transformer layers on its deep feature map for context.

Its two controls share everything else. ``hybrid_identity`` has the identity in place of the transformer: what does
the transformer add? Norms, LayerScale and the residual paths are inside of the transformer's layers and go with it.
``cnn`` has residual convolutions with as many parameters in its place: do parameters add as much?
"""

from collections.abc import Sequence
from itertools import accumulate
from math import ceil, prod

import torch
from torch import Tensor, nn

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom
from hstf.models.blocks import DecoderBlock, ResidualBlock
from hstf.models.transformer import Transformer


class HybridNet(SegmentationNetwork):
    """U-Net of residual blocks; with ``name: hybrid`` the deepest level at most ``transformer_stride`` attends."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        channels, strides, kernels = spec.channels, spec.strides, spec.kernels
        before = (spec.inputs, *channels[:-1])
        self.encoder = nn.ModuleList(
            ResidualBlock(*arguments)
            for arguments in zip(before, channels, kernels, strides, strict=True)
        )
        self.attended = attended_level(strides, spec.transformer_stride)
        self.transformer = self._transformer() if spec.name == "hybrid" else None
        self.convolutions = self._convolutions() if spec.name == "cnn" else nn.Identity()
        self.dropout = nn.Dropout3d(spec.dropout)
        self.decoder = nn.ModuleList(
            DecoderBlock(channels[i + 1], channels[i], kernels[i], strides[i + 1])
            for i in reversed(range(len(channels) - 1))
        )
        self.heads = nn.ModuleList(nn.Conv3d(c, spec.classes, 1) for c in reversed(channels[:-1]))

    def _transformer(self) -> Transformer:
        spec, level = self.spec, self.attended
        voxel_mm = voxel_at(level, spec.strides, spec.spacing)
        return Transformer(
            spec.channels[level], spec.transformer_layers, spec.transformer_heads, spec.drop_path, voxel_mm,
            spec.shortest_mm,
        )  # fmt: skip

    def _convolutions(self) -> nn.Sequential:
        """Residual blocks with the parameters of the transformer: as few as do not narrow inside beyond its width."""
        spec, level = self.spec, self.attended
        with torch.device("meta"):
            wanted = sum(p.numel() for p in self._transformer().parameters())
        width, taps = spec.channels[level], prod(spec.kernels[level])
        blocks = ceil(wanted / (2 * taps * width**2))
        inner = max(1, round(wanted / (2 * taps * width * blocks)))
        return nn.Sequential(
            *(ResidualBlock(width, width, spec.kernels[level], inner=inner) for _ in range(blocks))
        )

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """See :class:`SegmentationNetwork`; the features are those behind the transformer."""
        skips, features = self._encode(x, zoom)
        return Pyramid(self._decode(skips, features)[::-1], features)

    def _encode(self, x: Tensor, zoom: Zoom) -> tuple[list[Tensor], Tensor]:
        skips, features = [], x
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level == self.attended:
                x = self.convolutions(x) if self.transformer is None else self.transformer(x, zoom)
                features = x
            skips.append(x)
        return skips, features

    def _decode(self, skips: list[Tensor], features: Tensor) -> list[Tensor]:
        x, logits = self.dropout(skips[-1]), []
        for block, head, skip in zip(self.decoder, self.heads, skips[-2::-1], strict=True):
            x = block(x, skip)
            logits.append(head(x))
        return logits


def attended_level(strides: Sequence[Sequence[int]], largest: int) -> int:
    """The deepest level whose total in-plane stride is at most ``largest``."""
    totals = accumulate(
        strides, lambda total, stride: [a * b for a, b in zip(total, stride, strict=True)]
    )
    return max(level for level, total in enumerate(totals) if max(total) <= largest)


def voxel_at(
    level: int, strides: Sequence[Sequence[int]], spacing: Sequence[float]
) -> tuple[float, float, float]:
    """Voxel size (mm) of the feature map at ``level``, of an input with ``spacing``."""
    return tuple(
        mm * prod(s[axis] for s in strides[: level + 1]) for axis, mm in enumerate(spacing)
    )  # type: ignore[return-value]
