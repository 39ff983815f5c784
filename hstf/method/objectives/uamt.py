"""Uncertainty-aware mean teacher: the student agrees with the EMA network where that is certain.

Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium segmentation", MICCAI 2019. The EMA
network predicts several times with noisy input and dropout; voxels count whose mean prediction has an entropy below
a bound that grows from 3/4 of the largest entropy to all of it.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hstf.config.experiment import Config
from hstf.method.csc import sigmoid_ramp
from hstf.method.objectives.mean_teacher import mean_teacher
from hstf.training.loop import Objective
from hstf.training.state import TrainingState


def uamt(config: Config) -> Objective:
    """:func:`mean_teacher` on certain voxels."""
    section, steps = config.student.consistency, config.student.steps

    def certain(state: TrainingState, images: Tensor, generator: torch.Generator) -> Tensor:
        with stochastic(state.ema):
            answers = [
                state.ema(noisy(images, section.noise, generator)).float().softmax(1)
                for _ in range(section.passes)
            ]
        mean = torch.stack(answers).mean(0)
        return (relative_entropy(mean) < entropy_bound(state.step / steps)).float()

    return mean_teacher(config, certain)


def noisy(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """``images`` with Gaussian noise, cut off at twice its standard deviation."""
    noise = torch.randn(images.shape, generator=generator, device=images.device) * sigma
    return images + noise.clamp(-2 * sigma, 2 * sigma)


def relative_entropy(probabilities: Tensor) -> Tensor:
    """Entropy ``(B, 1, D, H, W)`` of ``(B, K, D, H, W)``, as a share of the largest, ln K."""
    entropy = torch.special.entr(probabilities).sum(1, keepdim=True)
    return entropy / math.log(probabilities.shape[1])


def entropy_bound(progress: float) -> float:
    """The share of the largest entropy below which a voxel is certain, after ``progress`` of the steps."""
    return 0.75 + 0.25 * sigmoid_ramp(progress)


@contextmanager
def stochastic(network: nn.Module) -> Iterator[None]:
    """Dropout and DropPath at work in a network in evaluation mode; there are no batch norms that would learn from it."""
    network.train()
    try:
        yield
    finally:
        network.eval()
