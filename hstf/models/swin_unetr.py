"""Swin UNETR (Hatamizadeh et al. 2022): shifted-window attention with a convolutional decoder."""

from math import ceil

from hstf.models.base import NetworkSpec
from hstf.models.padded import PaddedNetwork


def swin_unetr(spec: NetworkSpec) -> PaddedNetwork:
    """Build Swin UNETR with 1.5 times the planned channels: the usual 48 for 32 channels."""
    from monai.networks.nets import SwinUNETR

    network = SwinUNETR(
        spec.inputs,
        spec.classes,
        feature_size=12 * ceil(spec.channels[0] / 8),
        drop_rate=spec.dropout,
        dropout_path_rate=spec.drop_path,
    )
    return PaddedNetwork(
        spec,
        network,
        32,
        "decoder4",
    )
