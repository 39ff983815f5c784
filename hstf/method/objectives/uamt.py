"""Uncertainty-aware mean teacher (UA-MT): agree with the EMA network where it is certain.

Yu et al., "Uncertainty-aware self-ensembling model for semi-supervised 3D left atrium
segmentation", MICCAI 2019. The EMA network predicts several times with noise on the image and
dropout. A voxel counts if the entropy of its mean prediction, divided by the maximum entropy
``ln K``, is below

    3/4 + 1/4 exp(-5 (1 - t)^2)

where ``t`` is the fraction of the steps that are done. At the end all voxels count. The rest is
:mod:`hstf.method.objectives.mean_teacher`.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hstf.config.experiment import Config
from hstf.method.csc import sigmoid_ramp
from hstf.method.objectives.mean_teacher import mean_teacher
from hstf.training.augmentations.draws import normal_like
from hstf.training.loop import Objective
from hstf.training.state import TrainingState


def uamt(config: Config) -> Objective:
    """Return the objective of uncertainty-aware mean teacher.

    Example:
        >>> objective = uamt(Config())
        >>> callable(objective)
        True
    """
    section = config.student.consistency
    steps = config.student.steps

    def certainty(
        state: TrainingState,
        images: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        predictions = []
        with dropout_enabled(state.ema):
            for _ in range(section.passes):
                noisy = add_noise(images, section.noise, generator)
                predictions.append(state.ema(noisy).float().softmax(1))
        mean = torch.stack(predictions).mean(0)
        return (relative_entropy(mean) < entropy_bound(state.step / steps)).float()

    return mean_teacher(config, certainty)


def add_noise(
    images: Tensor,
    sigma: float,
    generator: torch.Generator,
) -> Tensor:
    """Add Gaussian noise to ``images``, clipped at twice its standard deviation ``sigma``."""
    noise = normal_like(images, generator) * sigma
    return images + noise.clamp(-2 * sigma, 2 * sigma)


def relative_entropy(probabilities: Tensor) -> Tensor:
    """Return the entropy ``(B, 1, D, H, W)`` of ``(B, K, D, H, W)``, divided by ``ln K``."""
    entropy = torch.special.entr(probabilities).sum(1, keepdim=True)
    return entropy / math.log(probabilities.shape[1])


def entropy_bound(progress: float) -> float:
    """Return the relative entropy below which a voxel counts.

    Args:
        progress: fraction of the steps that are done, 0 to 1.
    """
    return 0.75 + 0.25 * sigmoid_ramp(progress)


@contextmanager
def dropout_enabled(network: nn.Module) -> Iterator[None]:
    """Enable dropout and stochastic depth of a network that is in evaluation mode.

    The networks have no batch norm, whose statistics would change in training mode.
    """
    network.train()
    try:
        yield
    finally:
        network.eval()
