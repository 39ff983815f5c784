"""Two networks in one: each teaches the other in cross-teaching, or both teach together."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom


class Pair(SegmentationNetwork):
    """``first`` and ``second`` share nothing but their input; the pair answers with the mean of their probabilities."""

    def __init__(
        self, spec: NetworkSpec, first: SegmentationNetwork, second: SegmentationNetwork
    ) -> None:
        super().__init__(spec)
        self.first, self.second = first, second

    @property
    def parts(self) -> tuple[SegmentationNetwork, ...]:
        """Both networks."""
        return (self.first, self.second)

    def pyramid(self, x: Tensor, zoom: Zoom = 1.0) -> Pyramid:
        """The answer of the pair. Logits are log probabilities where both have a level of that size.

        Coarser levels that one of them has alone follow as they are; features are those of the first, and of the second
        brought to their grid.
        """
        first, second = self.first.pyramid(x, zoom), self.second.pyramid(x, zoom)
        logits = []
        rest = [list(first.logits), list(second.logits)]
        while all(rest) and rest[0][0].shape == rest[1][0].shape:
            logits.append(mean_of_probabilities(rest[0].pop(0), rest[1].pop(0)))
        logits += sorted(rest[0] + rest[1], key=lambda level: -math.prod(level.shape))
        matched = F.interpolate(second.features, size=first.features.shape[2:], mode="trilinear")
        return Pyramid(logits, torch.cat([first.features, matched.to(first.features.dtype)], dim=1))


def mean_of_probabilities(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of the mean of the class probabilities of the logits ``a`` and ``b`` ``(B, K, ...)``."""
    return torch.logaddexp(a.float().log_softmax(1), b.float().log_softmax(1)) - math.log(2)
