"""The hybrid network: a residual CNN for local detail, transformer layers on its deep feature map for context."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from hstf.models.blocks import DecoderBlock, ResidualBlock
from hstf.models.transformer import Transformer


@dataclass(frozen=True)
class NetworkSpec:
    """All that it takes to build a network again; stored beside its weights."""

    name: str
    """``hybrid`` or ``cnn``."""
    inputs: int
    """Channels of the image."""
    classes: int
    channels: tuple[int, ...]
    """Channels of each level, finest first."""
    strides: tuple[tuple[int, int, int], ...]
    """Stride into each level; the first is (1, 1, 1)."""
    kernels: tuple[tuple[int, int, int], ...]
    spacing: tuple[float, float, float]
    """Voxel size (mm) of the input."""
    transformer_layers: int = 4
    transformer_heads: int = 8
    transformer_stride: int = 8
    drop_path: float = 0.1
    dropout: float = 0.0


@dataclass
class Pyramid:
    """What the network says at every level of its decoder."""

    logits: list[Tensor]
    """``(B, K, D/s, H/s, W/s)``, finest (s = 1) first."""
    features: Tensor
    """``(B, C, d, h, w)``: the deep feature map behind the transformer."""


class HybridNet(nn.Module):
    """U-Net of residual blocks; with ``name: hybrid`` the deepest level at most ``transformer_stride`` attends."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        channels, strides, kernels = spec.channels, spec.strides, spec.kernels
        before = (spec.inputs, *channels[:-1])
        self.encoder = nn.ModuleList(
            ResidualBlock(*arguments) for arguments in zip(before, channels, kernels, strides, strict=True)
        )
        self.attended = attended_level(strides, spec.transformer_stride)
        self.transformer = self._transformer() if spec.name == "hybrid" else None
        self.dropout = nn.Dropout3d(spec.dropout)
        self.decoder = nn.ModuleList(
            DecoderBlock(channels[i + 1], channels[i], kernels[i], strides[i + 1])
            for i in reversed(range(len(channels) - 1))
        )
        self.heads = nn.ModuleList(nn.Conv3d(c, spec.classes, 1) for c in reversed(channels[:-1]))

    def _transformer(self) -> Transformer:
        spec, level = self.spec, self.attended
        total = [prod(s[axis] for s in spec.strides[: level + 1]) for axis in range(3)]
        voxel_mm = [s * mm for s, mm in zip(total, spec.spacing, strict=True)]
        return Transformer(
            spec.channels[level], spec.transformer_layers, spec.transformer_heads, spec.drop_path, voxel_mm
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, K, D, H, W)`` of the image ``(B, C, D, H, W)``; sizes are multiples of :attr:`divisor`."""
        return self._decode(*self._encode(x, 1.0))[-1]

    def pyramid(self, x: Tensor, zoom: float | Sequence[float] = 1.0) -> Pyramid:
        """Logits of every decoder level and the deep features.

        Args:
            zoom: how much larger than planned the anatomy appears in ``x``, along each axis or along all alike, for
                positions in true millimetres.
        """
        skips, features = self._encode(x, zoom)
        return Pyramid(self._decode(skips, features)[::-1], features)

    def _encode(self, x: Tensor, zoom: float | Sequence[float]) -> tuple[list[Tensor], Tensor]:
        skips, features = [], x
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level == self.attended:
                x = self.transformer(x, zoom) if self.transformer is not None else x
                features = x
            skips.append(x)
        return skips, features

    def _decode(self, skips: list[Tensor], features: Tensor) -> list[Tensor]:
        x, logits = self.dropout(skips[-1]), []
        for block, head, skip in zip(self.decoder, self.heads, skips[-2::-1], strict=True):
            x = block(x, skip)
            logits.append(head(x))
        return logits

    @property
    def divisor(self) -> tuple[int, int, int]:
        """Input sizes must be multiples of this."""
        return tuple(prod(s[axis] for s in self.spec.strides) for axis in range(3))  # type: ignore[return-value]


def attended_level(strides: Sequence[Sequence[int]], largest: int) -> int:
    """The deepest level whose total in-plane stride is at most ``largest``."""
    total = torch.tensor([list(s) for s in strides]).cumprod(dim=0).amax(dim=1)
    return int((total <= largest).nonzero().max())
