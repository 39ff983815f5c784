"""UNet++ (Zhou et al. 2018): a U-Net with nested skip connections."""

from hstf.models.base import NetworkSpec
from hstf.models.padded import PaddedNetwork

LEVELS = 5


def unetpp(spec: NetworkSpec) -> PaddedNetwork:
    """Build UNet++ with the planned channels on its five levels.

    If the plan has fewer levels, the last number of channels is repeated. All four heads are at
    full resolution.
    """
    from monai.networks.nets import BasicUNetPlusPlus

    channels = [*spec.channels, *[spec.channels[-1]] * LEVELS][:LEVELS]
    network = BasicUNetPlusPlus(
        3,
        spec.inputs,
        spec.classes,
        (*channels, channels[0]),
        deep_supervision=True,
        dropout=spec.dropout,
    )
    return PaddedNetwork(
        spec,
        network,
        16,
        "upcat_3_1",
    )
