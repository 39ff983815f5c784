"""Compile networks for a training."""

import torch

from hstf.training.state import TrainingState

SHAPES = 64
"""Maximum number of input sizes for which a network is compiled. Cross-scale consistency draws from
a few sizes, because each axis is a multiple of the total stride."""


def compile_networks(state: TrainingState) -> None:
    """Compile the network and the EMA network, or those of a pair, when they are first used."""
    torch._dynamo.config.recompile_limit = SHAPES
    for network in (state.network, state.ema):
        for part in network.parts:
            part.pyramid = torch.compile(part.pyramid, dynamic=False)  # type: ignore[method-assign]
