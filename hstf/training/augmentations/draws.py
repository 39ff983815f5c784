"""Random numbers that the changes draw."""

import torch
from torch import Tensor


def uniform(
    shape: tuple[int, ...],
    low: float,
    high: float,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw numbers of ``shape`` from the uniform distribution on ``low`` to ``high``."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=device)


def uniform_per_channel(
    image: Tensor,
    low: float,
    high: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw one number ``(B, C, 1, 1, 1)`` for each case and channel of ``image``."""
    shape = (image.shape[0], image.shape[1], 1, 1, 1)
    return uniform(
        shape,
        low,
        high,
        generator,
        image.device,
    )


def uniform_number(
    low: float,
    high: float,
    image: Tensor,
    generator: torch.Generator,
) -> float:
    """Draw one number for all of ``image``."""
    return float(
        uniform(
            (1,),
            low,
            high,
            generator,
            image.device,
        )
    )


def normal_like(image: Tensor, generator: torch.Generator) -> Tensor:
    """Draw numbers of the shape of ``image`` from the standard normal distribution."""
    return torch.randn(image.shape, generator=generator, device=image.device)
