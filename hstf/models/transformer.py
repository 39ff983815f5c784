"""Transformer layers on a 3D feature map, with rotary positions in millimetres."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.models.base import Zoom

LONGEST_MM = 512.0  # wavelength of the rotary positions: a whole trunk


class Transformer(nn.Module):
    """Pre-norm layers over the voxels of a feature map, added residually.

    Args:
        width: channels; a multiple of ``heads``.
        voxel_mm: size of a voxel of the feature map along its three axes.
        shortest_mm: shortest wavelength of the positions along each axis.
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
        self.voxel_mm, self.shortest_mm = tuple(voxel_mm), tuple(shortest_mm)
        self.pairs = width // heads // 2

    def forward(self, x: Tensor, zoom: Zoom = 1.0) -> Tensor:
        """``(B, C, D, H, W)`` to the same shape. ``zoom``: how much larger than planned the anatomy appears in ``x``,
        along each axis or along all alike."""
        shape = x.shape[2:]
        zooms = (zoom,) * 3 if isinstance(zoom, int | float) else tuple(zoom)
        voxel_mm = [mm / z for mm, z in zip(self.voxel_mm, zooms, strict=True)]
        angles = rotary_angles(shape, voxel_mm, self.shortest_mm, self.pairs, x.device)
        tokens = x.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens, angles)
        return tokens.transpose(1, 2).reshape(x.shape)


class TransformerLayer(nn.Module):
    """Self-attention and SwiGLU, each behind a norm, scaled (LayerScale) and now and then skipped (DropPath)."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.heads, self.drop_path = heads, drop_path
        hidden = 2 * width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gate_up, self.down = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        self.scale1 = nn.Parameter(torch.full((width,), 1e-2))
        self.scale2 = nn.Parameter(torch.full((width,), 1e-2))

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """``x`` ``(B, N, C)``, ``angles`` ``(N, C / heads / 2)``."""
        x = x + self._path(self.scale1 * self._attention(self.norm1(x), angles))
        return x + self._path(self.scale2 * self._feed_forward(self.norm2(x)))

    def _attention(self, x: Tensor, angles: Tensor) -> Tensor:
        batch, count, width = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(batch, count, 3, self.heads, width // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        y = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        return self.out(y.transpose(1, 2).reshape(batch, count, width))

    def _feed_forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)

    def _path(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return x
        keep = torch.rand(x.shape[0], 1, 1, device=x.device) >= self.drop_path
        return x * keep / (1 - self.drop_path)


def rotary_angles(
    shape: Sequence[int],
    voxel_mm: Sequence[float],
    shortest_mm: Sequence[float],
    pairs: int,
    device: torch.device,
) -> Tensor:
    """Angles ``(N, pairs)`` of the voxels of a ``shape`` feature map: pair j turns along axis j mod 3 (RoPE in 3D).

    Relative angles depend on distances in millimetres alone, whatever the voxel size. The wavelengths along an axis grow
    from ``shortest_mm`` towards :data:`LONGEST_MM`.
    """
    axes = [torch.arange(n, device=device) * mm for n, mm in zip(shape, voxel_mm, strict=True)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
    per_axis = -(-pairs // 3)
    share = torch.arange(per_axis, device=device) / per_axis
    wavelengths = torch.stack([mm * max(1.0, LONGEST_MM / mm) ** share for mm in shortest_mm])
    j = torch.arange(pairs, device=device)
    return position[:, j % 3] * (2 * torch.pi / wavelengths[j % 3, j // 3])


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn each pair of ``x`` ``(..., N, 2P)`` by ``angles`` ``(N, P)`` (Su et al. 2021)."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)
