"""UNETR (Hatamizadeh et al., WACV 2022): a vision transformer with a convolutional decoder."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.models.base import NetworkSpec
from hstf.models.padded import PaddedNetwork, padded_size

TOKEN = 16
"""Size of a token (voxels) along each axis."""
POSITIONS = "vit.patch_embedding.position_embeddings"
"""Name of the parameter with the learned positions."""


class Unetr(PaddedNetwork):
    """UNETR of MONAI on a grid of tokens of any size.

    The learned positions are resampled to the grid (Dosovitskiy et al. 2021, section 3.2).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        network = _monai_unetr(spec)
        for block in network.vit.blocks:
            # MONAI before 1.6 creates parameters for cross-attention even where there is none.
            block.norm_cross_attn = nn.Identity()
            block.cross_attn = nn.Identity()
        super().__init__(
            spec,
            network,
            TOKEN,
            "decoder5",
        )
        self.grid: list[int] = list(network.feat_size)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Compute logits ``(B, K, D, H, W)`` of the padded image ``x``, one level."""
        grid = [n // TOKEN for n in x.shape[2:]]
        positions = self.network.get_parameter(POSITIONS)
        learned = positions.transpose(1, 2).unflatten(2, self.grid)
        resampled = F.interpolate(learned, size=grid, mode="trilinear").flatten(2).transpose(1, 2)
        self.network.proj_view_shape = [*grid, positions.shape[2]]
        return [torch.func.functional_call(self.network, {POSITIONS: resampled}, x)]


def _monai_unetr(spec: NetworkSpec) -> Any:
    from monai.networks.nets import UNETR

    hidden = 24 * spec.channels[0]
    return UNETR(
        spec.inputs,
        spec.classes,
        padded_size(spec.patch_size, TOKEN),
        feature_size=spec.channels[0],
        hidden_size=hidden,
        mlp_dim=4 * hidden,
        num_heads=12,
        dropout_rate=spec.dropout,
    )
