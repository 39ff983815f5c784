"""The optimiser, compared with ``torch.optim.AdamW``."""

import copy

import torch
from torch import nn

from hstf.training.optimizer import AdamW


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True), nn.Conv3d(2, 2, 1))


def groups_of(module: nn.Module) -> list[dict]:
    parameters = list(module.parameters())
    return [
        {"params": parameters[:3], "weight_decay": 0.1},
        {"params": parameters[3:], "weight_decay": 0.0},
    ]


def descend(module: nn.Module, optimizer: AdamW | torch.optim.AdamW, seed: int) -> None:
    """Take a step; in every second one the last layer has no gradient."""
    image = torch.randn(2, 1, 5, 5, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    module[: 3 - seed % 2](image).square().sum().backward()
    optimizer.step()


def test_steps_are_those_of_torch() -> None:
    ours, theirs = network(), network()
    optimizer = AdamW(groups_of(ours), 0.0)
    reference = torch.optim.AdamW(groups_of(theirs), lr=0.0)
    for seed in range(1, 6):
        optimizer.rate = 0.01 * seed
        for group in reference.param_groups:
            group["lr"] = 0.01 * seed
        descend(ours, optimizer, seed)
        descend(theirs, reference, seed)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)
    saved, expected_state = optimizer.state_dict()["state"], reference.state_dict()["state"]
    assert saved.keys() == expected_state.keys()
    for index, values in expected_state.items():
        assert saved[index].keys() == values.keys()
        assert all(torch.equal(saved[index][name], values[name]) for name in values)


def test_a_state_of_torch_can_be_continued() -> None:
    ours, theirs = network(), network()
    reference = torch.optim.AdamW(groups_of(theirs), lr=0.01)
    descend(theirs, reference, 1)
    ours.load_state_dict(theirs.state_dict())
    optimizer = AdamW(groups_of(ours), 0.01)
    optimizer.load_state_dict(copy.deepcopy(reference.state_dict()))
    for seed in (2, 3):
        descend(ours, optimizer, seed)
        descend(theirs, reference, seed)
    for mine, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, expected)
