"""Random numbers that the changes draw.

All decisions are drawn on the host, also of a training on a GPU: a decision that is drawn on the
GPU would make the CPU wait until the GPU has finished all earlier work. Only noise as large as the
patches is drawn on the device of the patches.
"""

import torch
from torch import Tensor

from hstf.runtime.devices import to_device


def uniform(
    shape: tuple[int, ...],
    low: float,
    high: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw numbers from the uniform distribution on ``low`` to ``high``, on the host."""
    return low + (high - low) * torch.rand(shape, generator=generator)


def chosen(
    count: int,
    probability: float,
    generator: torch.Generator,
) -> list[bool]:
    """Choose each of ``count`` cases with ``probability``."""
    flags: list[bool] = (uniform((count,), 0, 1, generator) < probability).numpy().tolist()
    return flags


def uniform_per_channel(
    image: Tensor,
    low: float,
    high: float,
    generator: torch.Generator,
) -> Tensor:
    """Draw one number ``(B, C, 1, 1, 1)`` for each case and channel of ``image``."""
    shape = (image.shape[0], image.shape[1], 1, 1, 1)
    return to_device(uniform(shape, low, high, generator), image.device)


def uniform_number(
    low: float,
    high: float,
    generator: torch.Generator,
) -> float:
    """Draw one number."""
    return float(uniform((1,), low, high, generator).numpy()[0])


def normal_like(image: Tensor, generator: torch.Generator) -> Tensor:
    """Draw numbers of the shape of ``image`` from the standard normal distribution."""
    if image.device.type != "cpu":
        seed = int(torch.randint(2**62, (1,), generator=generator).numpy()[0])
        generator = torch.Generator(image.device).manual_seed(seed)
    return torch.randn(image.shape, generator=generator, device=image.device)
