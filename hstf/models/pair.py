"""Two networks in one, for cross-teaching or as a small ensemble."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hstf.models.base import NetworkSpec, Pyramid, SegmentationNetwork, Zoom


class Pair(SegmentationNetwork):
    """Two networks with the same input and no common weights.

    The prediction is the mean of their class probabilities.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        first: SegmentationNetwork,
        second: SegmentationNetwork,
    ) -> None:
        super().__init__(spec)
        self.first = first
        self.second = second

    @property
    def parts(self) -> tuple[SegmentationNetwork, ...]:
        """Both networks."""
        return (self.first, self.second)

    def pyramid(
        self,
        x: Tensor,
        zoom: Zoom = 1.0,
    ) -> Pyramid:
        """Compute logits and features, see :class:`SegmentationNetwork`.

        The logits of a level are logarithms of mean probabilities while both networks have levels
        of the same size. All other levels follow unchanged, by size. The features are those of both
        networks, on the grid of the first.
        """
        first = self.first.pyramid(x, zoom)
        second = self.second.pyramid(x, zoom)
        common = _common_levels(first, second)
        logits = []
        for level in range(common):
            logits.append(mean_of_probabilities(first.logits[level], second.logits[level]))
        rest = first.logits[common:] + second.logits[common:]
        logits += sorted(rest, key=lambda level: -math.prod(level.shape))
        matched = F.interpolate(second.features, size=first.features.shape[2:], mode="trilinear")
        matched = matched.to(first.features.dtype)
        return Pyramid(logits, torch.cat([first.features, matched], dim=1))


def _common_levels(
    first: Pyramid,
    second: Pyramid,
) -> int:
    """Count the levels, from the finest, at which both have logits of the same shape."""
    count = 0
    for a, b in zip(first.logits, second.logits, strict=False):
        if a.shape != b.shape:
            break
        count += 1
    return count


def mean_of_probabilities(
    a: Tensor,
    b: Tensor,
) -> Tensor:
    """Compute the logarithm of the mean class probabilities of logits ``(B, K, ...)``."""
    return torch.logaddexp(a.float().log_softmax(1), b.float().log_softmax(1)) - math.log(2)
