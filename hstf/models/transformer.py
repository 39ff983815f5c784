"""Transformer layers on a 3D feature map, with rotary positions in millimetres."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.models.base import Zoom
from hstf.models.layers import CHANNELS_LAST, is_channels_last

LONGEST_MM = 512.0
"""Maximum wavelength (mm) of the rotary positions: the size of a trunk."""


class Transformer(nn.Module):
    """Pre-norm layers over the voxels of a feature map, each added to its input.

    Args:
        width: channels; a multiple of ``heads``.
        layers: number of layers.
        heads: number of attention heads.
        drop_path: probability that the last layer is skipped for a case during training; it grows
            linearly from the first layer.
        voxel_mm: size (mm) of a voxel of the feature map along each axis.
        shortest_mm: minimum wavelength (mm) of the positions along each axis.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        drop_path: float,
        voxel_mm: Sequence[float],
        shortest_mm: Sequence[float],
    ) -> None:
        super().__init__()
        rates = [drop_path * (i + 1) / layers for i in range(layers)]
        self.layers = nn.ModuleList(TransformerLayer(width, heads, rate) for rate in rates)
        self.voxel_mm = tuple(voxel_mm)
        self.shortest_mm = tuple(shortest_mm)
        self.pairs = width // heads // 2

    def forward(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Tensor:
        """Map ``x`` ``(B, C, D, H, W)`` to the same shape.

        Args:
            x: the feature map.
            zoom: how much larger than planned the anatomy appears in ``x``.
        """
        zooms = (zoom,) * 3 if isinstance(zoom, int | float) else tuple(zoom)
        voxel_mm = [mm / z for mm, z in zip(self.voxel_mm, zooms, strict=True)]
        angles = rotary_angles(
            x.shape[2:],
            voxel_mm,
            self.shortest_mm,
            self.pairs,
            x.device,
        )
        positions = rotations(angles)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, positions)
        layout = CHANNELS_LAST if is_channels_last(x) else torch.contiguous_format
        return tokens.transpose(1, 2).reshape(x.shape).contiguous(memory_format=layout)


class TransformerLayer(nn.Module):
    """Self-attention and SwiGLU, each with a norm, LayerScale and DropPath."""

    def __init__(
        self,
        width: int,
        heads: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.drop_path = drop_path
        hidden = 2 * width
        # The order of the layers is the order in which random weights are drawn.
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.gate_up = nn.Linear(width, 2 * hidden)
        self.down = nn.Linear(hidden, width)
        self.scale1 = nn.Parameter(torch.full((width,), 1e-2))
        self.scale2 = nn.Parameter(torch.full((width,), 1e-2))

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Map ``x`` ``(B, N, C)`` to the same shape.

        Args:
            x: the tokens.
            positions: cosine and sine of the angles of the tokens, ``(2, N, C / heads / 2)``.
        """
        x = x + self._drop(self.scale1 * self._attention(self.norm1(x), positions))
        return x + self._drop(self.scale2 * self._feed_forward(self.norm2(x)))

    def _attention(
        self,
        x: Tensor,
        positions: Tensor,
    ) -> Tensor:
        batch, count, width = x.shape
        qkv = self.qkv(x).reshape(
            batch,
            count,
            3,
            self.heads,
            width // self.heads,
        )
        q, k, v = qkv.permute(
            2,
            0,
            3,
            1,
            4,
        )
        y = F.scaled_dot_product_attention(rotate(q, positions), rotate(k, positions), v)
        return self.out(y.transpose(1, 2).reshape(batch, count, width))

    def _feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def _drop(self, x: Tensor) -> Tensor:
        """Set the update of random cases to 0 during training and keep its expectation."""
        if not self.training or self.drop_path == 0:
            return x
        keep = (
            torch.rand(
                x.shape[0],
                1,
                1,
                device=x.device,
            )
            >= self.drop_path
        )
        return x * keep / (1 - self.drop_path)


def rotary_angles(
    shape: Sequence[int],
    voxel_mm: Sequence[float],
    shortest_mm: Sequence[float],
    pairs: int,
    device: torch.device,
) -> Tensor:
    """Compute the angles of rotary positions (RoPE) in 3D.

    Pair j of channels turns along axis j mod 3. Relative angles depend on distances in millimetres
    only, not on the voxel size. The wavelengths of an axis grow geometrically from ``shortest_mm``
    towards :data:`LONGEST_MM`.

    Args:
        shape: shape of the feature map.
        voxel_mm: size (mm) of its voxels.
        shortest_mm: minimum wavelength (mm) along each axis.
        pairs: number of pairs of channels of a head.
        device: device of the result.

    Returns:
        ``(N, pairs)`` for the N voxels of the feature map.
    """
    axes = [torch.arange(n, device=device) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    per_axis = -(-pairs // 3)
    exponent = torch.arange(per_axis, device=device) / per_axis
    wavelengths = torch.stack([mm * max(1.0, LONGEST_MM / mm) ** exponent for mm in shortest_mm])
    j = torch.arange(pairs, device=device)
    return position[:, j % 3] * (2 * torch.pi / wavelengths[j % 3, j // 3])


def rotations(angles: Tensor) -> Tensor:
    """Return cosine and sine ``(2, N, P)`` of ``angles`` ``(N, P)``, for all layers."""
    return torch.stack([angles.cos(), angles.sin()])


def rotate(
    x: Tensor,
    positions: Tensor,
) -> Tensor:
    """Rotate each pair of channels of ``x`` by an angle (Su et al. 2021, RoFormer).

    Args:
        x: queries or keys ``(..., N, 2P)``.
        positions: cosine and sine of the angles, ``(2, N, P)``.
    """
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = positions
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
