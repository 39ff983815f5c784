"""Compiled networks."""

from collections.abc import Callable

import pytest
import torch

from hstf.config.training import TrainingConfig
from hstf.models.base import NetworkSpec
from hstf.models.registry import build
from hstf.training.compilation import compile_networks
from hstf.training.state import TrainingState

SPEC = NetworkSpec(
    name="pair",
    inputs=1,
    classes=2,
    channels=(4, 8),
    strides=((1, 1, 1), (2, 2, 2)),
    kernels=((3, 3, 3), (3, 3, 3)),
    spacing=(1.0, 1.0, 1.0),
    transformer_layers=1,
    transformer_heads=1,
    pair=("hybrid", "cnn"),
)


def test_compile_networks_compiles_each_network_and_its_average(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []

    def compile_later(function: Callable, dynamic: bool) -> Callable:
        assert not dynamic

        def run(*args: object) -> object:
            compiled.append(function)
            return function(*args)

        return run

    monkeypatch.setattr(torch, "compile", compile_later)
    state = TrainingState.start(build(SPEC), TrainingConfig())
    names = list(state.network.state_dict())
    compile_networks(state)
    for network in (state.network, state.ema):
        for part in network.parts:
            part.pyramid(torch.zeros(1, 1, 8, 8, 8))
    assert len(compiled) == 4
    assert list(state.network.state_dict()) == names  # the file of the weights stays the same
