"""The hybrid network: a residual CNN with transformer layers on a deep feature map.

The CNN sees local detail, the transformer sees the context of the whole patch. Two controls have
the same CNN. ``hybrid_identity`` has no transformer: it measures what the transformer adds. Norms,
LayerScale and the residual paths are parts of the transformer layers and are removed with them.
``cnn`` has residual convolutions with as many parameters instead: it measures whether more
parameters add as much.
"""

from math import ceil, prod

import torch
from torch import Tensor, nn

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom
from hstf.models.blocks import (
    DecoderBlock,
    ResidualBlock,
    residual_encoder,
    segmentation_heads,
)
from hstf.models.levels import attended_level, voxel_at
from hstf.models.transformer import Transformer


class HybridNet(SegmentationNetwork):
    """A U-Net of residual blocks, with a transformer if ``spec.name`` is ``hybrid``.

    The transformer is on the deepest level whose stride is at most ``spec.transformer_stride``.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__(spec)
        # The order of the layers is the order in which random weights are drawn.
        self.encoder = residual_encoder(spec)
        self.attended = attended_level(spec.strides, spec.transformer_stride)
        self.transformer = self._transformer() if spec.name == "hybrid" else None
        self.convolutions = self._convolutions() if spec.name == "cnn" else nn.Identity()
        self.dropout = nn.Dropout3d(spec.dropout)
        self.decoder = nn.ModuleList(
            DecoderBlock(
                spec.channels[level + 1],
                spec.channels[level],
                spec.kernels[level],
                spec.strides[level + 1],
            )
            for level in reversed(range(len(spec.channels) - 1))
        )
        self.heads = segmentation_heads(spec)

    def _transformer(self) -> Transformer:
        spec = self.spec
        return Transformer(
            spec.channels[self.attended],
            spec.transformer_layers,
            spec.transformer_heads,
            spec.drop_path,
            voxel_at(self.attended, spec.strides, spec.spacing),
            spec.shortest_mm,
        )

    def _convolutions(self) -> nn.Sequential:
        """Build residual blocks with as many parameters as the transformer.

        There are as few blocks as possible whose inner channels are at most those of the level.
        """
        spec = self.spec
        with torch.device("meta"):
            parameters = sum(p.numel() for p in self._transformer().parameters())
        width = spec.channels[self.attended]
        kernel = spec.kernels[self.attended]
        taps = prod(kernel)
        count = ceil(parameters / (2 * taps * width**2))
        inner = max(1, round(parameters / (2 * taps * width * count)))
        blocks = [
            ResidualBlock(
                width,
                width,
                kernel,
                inner=inner,
            )
            for _ in range(count)
        ]
        return nn.Sequential(*blocks)

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`.

        The features are the output of the transformer.
        """
        skips, features = self._encode(x, zoom)
        return Pyramid(self._decode(skips)[::-1], features)

    def encode(self, x: Tensor) -> Tensor:
        """Compute the deepest feature map, see :class:`SegmentationNetwork`."""
        skips, _ = self._encode(x, 1.0)
        return skips[-1]

    def _encode(
        self,
        x: Tensor,
        zoom: Zoom,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the feature map of each level, and the deep features."""
        skips = []
        features = x
        for level, block in enumerate(self.encoder):
            x = block(x)
            if level == self.attended:
                x = self.convolutions(x) if self.transformer is None else self.transformer(x, zoom)
                features = x
            skips.append(x)
        return skips, features

    def _decode(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the logits of each decoder level, coarsest first."""
        x = self.dropout(skips[-1])
        logits = []
        for block, head, skip in zip(
            self.decoder,
            self.heads,
            skips[-2::-1],
            strict=True,
        ):
            x = block(x, skip)
            # Losses and metrics read class after class.
            logits.append(head(x).contiguous())
        return logits
