"""Networks with random weights for the tests of the teacher."""

from collections.abc import Sequence
from pathlib import Path

import torch

from hstf.experiment.plan import Normalisation, Plan
from hstf.models.base import NetworkSpec
from hstf.models.hybrid import HybridNet
from hstf.models.registry import save_network

SHAPE = (9, 8, 10)


PLAN = Plan(
    spacing=(1.0, 1.0, 2.0),
    patch_size=(8, 8, 8),
    batch_size=2,
    channels=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3), (3, 3, 3)),
    normalisation=(Normalisation(scheme="zscore"),),
    median_shape=SHAPE,
    reasons={},
)


def network_of(seed: int) -> HybridNet:
    torch.manual_seed(seed)
    spec = NetworkSpec(
        "hybrid", 1, 3, PLAN.channels, PLAN.strides, PLAN.kernels, PLAN.spacing, 1, 2
    )
    return HybridNet(spec)


def save_weights(path: Path, member: str, seed: int, earlier: Sequence[int] = ()) -> None:
    snapshots = [network_of(other).state_dict() for other in earlier]
    save_network(path, network_of(seed), {"member": member}, snapshots)
