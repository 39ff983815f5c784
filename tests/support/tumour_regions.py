"""Overlapping regions of a brain tumour, and random outputs of a network that has them."""

import torch
from torch import Tensor

CLASSES = 4
"""Background, necrosis, oedema, enhancing tumour."""
TUMOUR = {"whole": (1, 2, 3), "core": (1, 3), "enhancing": (3,)}
"""Classes of each region."""
NESTED = tuple(TUMOUR.values())


def random_log_odds(seed: int, regions: int = 3, scale: float = 3.0) -> Tensor:
    """Return log-odds ``(2, R, 3, 4, 2)``, as the heads of a network compute them."""
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, regions, 3, 4, 2, generator=generator)
