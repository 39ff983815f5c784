"""The layout in memory in which a network computes fastest."""

from typing import TypeVar

import torch
from torch import nn

from hstf.models.hybrid import HybridNet
from hstf.models.layers import CHANNELS_LAST
from hstf.runtime.devices import computes_in_bf16

Network = TypeVar("Network", bound=nn.Module)


def in_fast_layout(
    network: Network,
    device: torch.device,
    precision: str,
) -> Network:
    """Change a network to the layout that is fastest on ``device``.

    A CPU computes in bfloat16 on voxels whose channels are side by side. If they are not, it copies
    the input of each convolution. In float32, and on a GPU, networks stay as they are. Only hybrid
    networks are changed: others have layers that would copy their input to the old layout.

    Args:
        network: changed in place, also where it is a part of a pair or has regions.
        device: where the network runs.
        precision: an ``amp`` key of the configuration.
    """
    if device.type == "cpu" and computes_in_bf16(device, precision):
        for module in network.modules():
            if isinstance(module, HybridNet):
                module.to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload]
    return network
