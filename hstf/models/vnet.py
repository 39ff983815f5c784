"""V-Net (Milletari et al. 2016): a residual U-Net with 16 to 256 channels."""

from torch import nn

from hstf.models.base import NetworkSpec
from hstf.models.padded import PaddedNetwork
from hstf.runtime.errors import HstfError

CHANNELS = 16
"""Channels of the finest level."""


def vnet(spec: NetworkSpec) -> PaddedNetwork:
    """Build V-Net with instance norm, with 16 to 256 channels whatever the plan is.

    Batch norm would mix the statistics of labelled and pseudo-labelled cases, and the EMA network
    would not average them. The K channels before the last 1x1x1 convolution have no norm, because
    it would hide how much of a class a patch contains.

    Raises:
        HstfError: if 16 is not a multiple of the number of channels of the image.
    """
    from monai.networks.nets import VNet

    if CHANNELS % spec.inputs:
        raise HstfError(
            f"network vnet needs 1, 2, 4, 8 or 16 modalities, found {spec.inputs}:"
            " choose another network."
        )
    network = VNet(3, spec.inputs, spec.classes)
    for module in network.modules():
        if isinstance(module, nn.Dropout3d):
            module.p = spec.dropout
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm3d):
                setattr(module, name, nn.InstanceNorm3d(child.num_features, affine=True))
    network.out_tr.conv_block.adn = nn.Identity()
    return PaddedNetwork(
        spec,
        network,
        CHANNELS,
        "up_tr256",
    )
