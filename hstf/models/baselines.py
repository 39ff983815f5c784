"""Networks of the field to compare with, from MONAI, at the width of the plan's finest level.

They halve all axes alike, whatever the plan's strides; the plan gives spacing, patch and channels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Triple, Zoom
from hstf.runtime.errors import HstfError


class Baseline(SegmentationNetwork):
    """A network of MONAI that takes any size: padded with zeros to its own strides, its answer cropped.

    Args:
        stride: its total stride.
        features: the submodule whose output, at stride 8 as the hybrid's, stands for the deep features.
    """

    network: Any  # MONAI has no types

    def __init__(self, spec: NetworkSpec, network: nn.Module, stride: int, features: str) -> None:
        super().__init__(spec)
        self.network, self.stride, self.features = network, stride, features

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """See :class:`SegmentationNetwork`; positions, where the network has any, are shares of the field of view."""
        size = x.shape[2:]
        padded = padded_size(size, self.stride)
        border = _behind(size, padded)
        with output_of(self.network.get_submodule(self.features)) as outputs:
            logits = [F.pad(level, [-n for n in border]) for level in self.levels(F.pad(x, border))]
        shares = [n / p for n, p in zip(size, padded, strict=True)]
        return Pyramid(logits, field_of_view(outputs[0], shares))

    def levels(self, x: Tensor) -> list[Tensor]:
        """Logits ``(B, K, D, H, W)`` of the padded image, the best first."""
        answer = self.network(x)
        return answer[::-1] if isinstance(answer, list) else [answer]


class Vit(Baseline):
    """UNETR on any grid of tokens: learned positions are resampled to it (Dosovitskiy et al. 2021, section 3.2)."""

    def __init__(self, spec: NetworkSpec) -> None:
        from monai.networks.nets import UNETR

        size, hidden = padded_size(spec.patch_size, 16), 24 * spec.channels[0]
        network = UNETR(
            spec.inputs, spec.classes, size, feature_size=spec.channels[0], hidden_size=hidden, mlp_dim=4 * hidden,
            num_heads=12, dropout_rate=spec.dropout,
        )  # fmt: skip
        for block in network.vit.blocks:
            # for cross-attention, which is not there; MONAI before 1.6 makes its parameters all the same
            block.norm_cross_attn = block.cross_attn = nn.Identity()
        super().__init__(spec, network, 16, "decoder5")
        self.grid: list[int] = list(network.feat_size)

    def levels(self, x: Tensor) -> list[Tensor]:
        """Logits of the padded image, one level."""
        grid = [n // 16 for n in x.shape[2:]]
        name = "vit.patch_embedding.position_embeddings"
        positions = self.network.get_parameter(name)
        learned = positions.transpose(1, 2).unflatten(2, self.grid)
        resampled = F.interpolate(learned, size=grid, mode="trilinear").flatten(2).transpose(1, 2)
        self.network.proj_view_shape = [*grid, positions.shape[2]]
        return [torch.func.functional_call(self.network, {name: resampled}, x)]


def swin(spec: NetworkSpec) -> Baseline:
    """Swin UNETR (Hatamizadeh et al. 2022) of 1.5 times the plan's width: its usual 48 for 32 channels."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(
        spec.inputs, spec.classes, feature_size=12 * ceil(spec.channels[0] / 8), drop_rate=spec.dropout,
        dropout_path_rate=spec.drop_path,
    )  # fmt: skip
    return Baseline(spec, network, 32, "decoder4")


def unetpp(spec: NetworkSpec) -> Baseline:
    """UNet++ (Zhou et al. 2018) with the plan's channels on its five levels; its four heads are at full resolution."""
    from monai.networks.nets import BasicUNetPlusPlus

    channels = (*spec.channels, *(spec.channels[-1],) * 5)[:5]
    network = BasicUNetPlusPlus(
        3,
        spec.inputs,
        spec.classes,
        (*channels, channels[0]),
        deep_supervision=True,
        dropout=spec.dropout,
    )
    return Baseline(spec, network, 16, "upcat_3_1")


def vnet(spec: NetworkSpec) -> Baseline:
    """V-Net (Milletari et al. 2016), 16 to 256 channels whatever the plan, with instance norm.

    Batch norm would mix labelled and pseudo-labelled cases and leave its running statistics out of the EMA. The K
    channels before the last 1x1x1 convolution have no norm: it would hide how much of a class a patch holds.

    Raises:
        HstfError: the image has a number of channels that does not divide 16.
    """
    from monai.networks.nets import VNet

    if 16 % spec.inputs:
        raise HstfError(
            f"network vnet takes 1, 2, 4, 8 or 16 modalities, not {spec.inputs}: choose another network."
        )
    network = VNet(3, spec.inputs, spec.classes)
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = spec.dropout
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.InstanceNorm3d(child.num_features, affine=True))
    network.out_tr.conv_block.adn = nn.Identity()
    return Baseline(spec, network, 16, "up_tr256")


def padded_size(size: Sequence[int], stride: int) -> Triple:
    """``size`` rounded up to multiples of ``stride``; two of them along one axis at least, for instance norm."""
    cells = [ceil(n / stride) for n in size]
    if max(cells) == 1:
        cells[0] = 2
    return tuple(stride * n for n in cells)  # type: ignore[return-value]


def _behind(size: Sequence[int], padded: Sequence[int]) -> list[int]:
    """The padding at the end of each axis, as ``F.pad`` wants it: last axis first."""
    return [v for n, p in zip(size[::-1], padded[::-1], strict=True) for v in (0, p - n)]


@contextmanager
def output_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What ``module`` gives when it is called in the block."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def field_of_view(features: Tensor, shares: Sequence[float]) -> Tensor:
    """The first ``shares`` of the extent of ``features`` ``(B, C, d, h, w)`` along each axis, where the image was.

    The cells that cover it are sampled anew, linearly, so that they cover it exactly.
    """
    if all(share == 1 for share in shares):
        return features
    size = [ceil(n * share - 1e-6) for n, share in zip(features.shape[2:], shares, strict=True)]
    shrink = torch.tensor(shares[::-1], device=features.device)  # grids count axes from the last
    affine = torch.cat([shrink.diag(), shrink[:, None] - 1], dim=1).expand(len(features), 3, 4)
    grid = F.affine_grid(affine, [len(features), 1, *size], align_corners=False)
    return F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)
