"""Small networks of several plans, and images for them."""

import torch

from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet

HALF = (2, 2, 2)
FULL = (1, 1, 1)
SPECS = {
    "two stages": NetworkSpec(
        "hybrid", 1, 2, (4, 8), (FULL, HALF), ((3, 3, 3),) * 2, (1.0, 1.0, 1.0), 1, 1
    ),
    "three stages, cnn": NetworkSpec(
        "cnn", 4, 6, (4, 8, 8), (FULL, HALF, HALF), ((3, 3, 3),) * 3, (1.0, 1.0, 1.0)
    ),
    "four stages, coarse slices": NetworkSpec(
        "hybrid",
        1,
        6,
        (4, 8, 12, 12),
        (FULL, (2, 2, 1), (2, 2, 1), HALF),
        ((3, 3, 1), (3, 3, 1), (3, 3, 3), (3, 3, 3)),
        (0.7, 0.8, 5.0),
        2,
        2,
    ),
    "five stages, attention above the deepest": NetworkSpec(
        "hybrid",
        4,
        2,
        (4, 4, 8, 8, 8),
        (FULL, HALF, HALF, (1, 2, 2), HALF),
        ((3, 3, 3),) * 5,
        (2.0, 1.0, 1.0),
        1,
        1,
        4,
    ),
}


def build(spec: NetworkSpec, seed: int = 0) -> HybridNet:
    """Build a hybrid network with a LayerScale of 1, which otherwise starts near 0."""
    torch.manual_seed(seed)
    network = HybridNet(spec)
    for layer in network.transformer.layers if network.transformer is not None else []:
        torch.nn.init.ones_(layer.scale1)
        torch.nn.init.ones_(layer.scale2)
    return network


def an_input(spec: NetworkSpec, times: tuple[int, int, int] = (2, 1, 3)) -> torch.Tensor:
    size = [n * d for n, d in zip(times, HybridNet(spec).divisor, strict=True)]
    return torch.randn(2, spec.inputs, *size, generator=torch.Generator().manual_seed(1))


THREE = NetworkSpec(
    "hybrid",
    1,
    2,
    (4, 8, 8),
    (FULL, HALF, HALF),
    ((3, 3, 3),) * 3,
    (1.0, 1.0, 1.0),
    2,
    2,
    4,
    0.0,
    patch_size=(16, 8, 8),
    pair=("hybrid", "unetpp"),
)
